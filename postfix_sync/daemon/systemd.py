"""Notify the service manager of the daemon's state, with the protocol of sd_notify(3)."""

import contextlib
import math
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Send assignments such as READY=1 to $NOTIFY_SOCKET; do nothing if it is not set."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    # A service manager that has ended, or does not read, must not block the daemon.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.setblocking(False)
        channel.connect(address)
        channel.sendall("\n".join(assignments).encode())


def reloading() -> None:
    """Notify that the configuration is being read again, with the time that systemd requires."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Return the seconds between two watchdog notifications: half of systemd's timeout.

    None if systemd does not expect any from this process (sd_watchdog_enabled(3)).
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or not int(microseconds) or meant_for != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


class Watchdog:
    """The watchdog notifications, which stop when a step of the work is overdue.

    A running event loop alone does not show that syncs make progress: a sync may hang.
    """

    OVERDUE = 10
    """How many times systemd's timeout a step of the work may take."""

    def __init__(self) -> None:
        self.interval = watchdog_interval()
        self._due = math.inf

    def expect(self, after: float = 0.0) -> None:
        """Expect that a step starts in `after` seconds and ends within `longest` seconds."""
        self._due = time.monotonic() + after + self.longest

    @property
    def longest(self) -> float:
        """The longest time in seconds that a step may take."""
        return self.OVERDUE * 2 * self.interval if self.interval else math.inf

    def sign(self) -> bool:
        """Notify systemd unless a step is overdue; return whether no step is overdue."""
        if time.monotonic() > self._due:
            return False
        notify("WATCHDOG=1")
        return True
