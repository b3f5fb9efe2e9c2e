"""sd_notify(3): what a service manager that asks for it is told."""

import contextlib
import math
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Sends assignments such as READY=1 to $NOTIFY_SOCKET; does nothing without one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    # A service manager that went away, or does not listen, must not hold up the daemon.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.setblocking(False)
        channel.connect(address)
        channel.sendall("\n".join(assignments).encode())


def reloading() -> None:
    """Tells that the configuration is being read again (systemd wants the time with it)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between signs of life, half of what systemd waits for; None if it doesn't wait."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or not int(microseconds) or meant_for != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


class Watchdog:
    """Whether work goes on: signs of life are given for no longer than it is expected to.

    That the event loop goes round says little, if what it waits for never comes.
    """

    OVERDUE = 10
    """A step of the work may take this many times as long as systemd waits for a sign of life."""

    def __init__(self) -> None:
        self.interval = watchdog_interval()
        self._due = math.inf

    def expect(self, after: float = 0.0) -> None:
        """Work goes on; the next step is begun in `after` seconds, and is to end in time."""
        self._due = time.monotonic() + after + self.longest

    @property
    def longest(self) -> float:
        """How many seconds a step may take."""
        return self.OVERDUE * 2 * self.interval if self.interval else math.inf

    def sign(self) -> bool:
        """Gives a sign of life, unless a step is overdue; whether it was given."""
        if time.monotonic() > self._due:
            return False
        notify("WATCHDOG=1")
        return True
