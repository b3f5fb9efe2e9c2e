"""The daemon as a process of a test's own, and the socket on which it notifies systemd.

The daemon sends READY=1 with a STATUS after every sync, so the socket also counts the syncs,
including those that log nothing.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.parts.common import PATIENCE, wait_for
from tests.parts.site import Site

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_SYS_ADMIN = 1, 2, 21

_LIBC = ctypes.CDLL(None, use_errno=True)


def obey_modes() -> None:
    """Subject a root process to file modes, like other users (a preexec_fn)."""
    _drop(_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH)


def may_not_mount() -> None:
    """Prevent a root process from mounting, as in postfix-sync.service (a preexec_fn)."""
    _drop(_CAP_SYS_ADMIN)


def _drop(*capabilities: int) -> None:
    for capability in capabilities:
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def install(site: Site, *lists: str, template: Path) -> Site:
    """Put these lists into a site's source and maps, as after a run of the daemon.

    A first sync beside a stopped Postfix takes seconds, because `postfix status` sleeps before it
    fails. So it is made once, and what it installed is copied from `template`.
    """
    kept = template / f"{site.map_type} {' '.join(lists)}"
    site.files.write(*lists)
    if kept.exists():
        shutil.copytree(kept, site.maps)
    else:
        done = site.call("--once")
        assert done.returncode in (0, 69), done  # the destinations need not be up
        shutil.rmtree(site.state)
        shutil.copytree(site.maps, kept)
    return site


class NotifySocket:
    """The socket of a service manager; `address` is the value of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        """Listen at a path, or at an abstract address, which begins with @."""
        self.address = address
        self._received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        # The kernel blocks a sender if there are ten unread datagrams.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while datagram := self._socket.recv(65536):
            self._received.append(datagram.decode())

    @property
    def received(self) -> list[str]:
        """All datagrams so far, oldest first."""
        return list(self._received)

    def close(self) -> None:
        """Close the socket and remove its path; a second call does nothing."""
        if self._socket.fileno() < 0:
            return
        self._socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self._socket.close()
        if not self.address.startswith("@"):
            Path(self.address).unlink(missing_ok=True)


class RunningDaemon:
    """The daemon of a site, for the duration of the `with`; its standard error is in a file."""

    def __init__(
        self,
        site: Site,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        journal: bool = False,
        **popen: Any,
    ) -> None:
        """Start it; `environment` is added to the test's own, and `journal` sets JOURNAL_STREAM."""
        self.site = site
        self.notify = NotifySocket(str(site.directory / "notify"))
        self._log = site.directory / f"log.{time.monotonic_ns()}"
        self._log.touch()
        found = self._log.stat()
        with self._log.open("ab") as log:
            self.process = site.start(
                *arguments,
                environment={
                    "NOTIFY_SOCKET": self.notify.address,
                    **({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"} if journal else {}),
                    **(environment or {}),
                },
                stdout=subprocess.DEVNULL,
                stderr=log,
                **popen,
            )

    def __enter__(self) -> Self:
        """Return the running daemon."""
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        """End it; its log must not have a traceback."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.notify.close()
        if kind is None:
            assert "Traceback" not in self.log, self.log
            assert "never retrieved" not in self.log, self.log

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self._log.read_text()

    @property
    def messages(self) -> list[str]:
        """The lines of a log in text format, without time and program name."""
        return [re.sub(r"^\S+Z postfix-sync: |^postfix-sync: ", "", line) for line in self.lines]

    @property
    def lines(self) -> list[str]:
        """The lines of the log."""
        return self.log.splitlines()

    def count(self, text: str) -> int:
        """Return how many lines of the log contain a text."""
        return sum(text in line for line in self.lines)

    def wait_for(self, text: str, timeout: float = PATIENCE, times: int = 1) -> None:
        """Wait until the log has a text, `times` times."""
        try:
            wait_for(lambda: self.count(text) >= times, timeout, f"{text!r} in the log")
        except TimeoutError as error:
            raise AssertionError(f"{error}; the log:\n{self.log}") from None

    @property
    def passes(self) -> int:
        """The number of syncs so far."""
        return sum("READY=1\nSTATUS=" in datagram for datagram in self.notify.received)

    def wait_for_passes(self, number: int, timeout: float = PATIENCE) -> None:
        """Wait until it has made so many syncs since its start."""
        try:
            wait_for(lambda: self.passes >= number, timeout, f"pass {number}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; the log:\n{self.log}") from None

    def wait_until_it_watches(self) -> None:
        """Wait for its first sync and for the one that its new watch causes; then it is idle.

        Nothing else may have caused a sync before, and its source must exist.
        """
        self.wait_for_passes(2)

    def look(self) -> None:
        """Have it make a sync that begins after this call, and wait for its end."""
        for _ in range(2):  # the first signal may meet a sync that began before
            seen = self.passes
            self.send(signal.SIGUSR1)
            self.wait_for_passes(seen + 1)

    def rest(self) -> int:
        """Wait until it makes no more syncs, longer than it takes to notice a new directory."""
        seen, since = self.passes, time.monotonic()

        def is_at_rest() -> bool:
            nonlocal seen, since
            if self.passes != seen:
                seen, since = self.passes, time.monotonic()
            return time.monotonic() - since > 1.3

        wait_for(is_at_rest, PATIENCE, "a daemon at rest")
        return seen

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """End it as an operator does; return its exit status."""
        self.send(number)
        return self.process.wait(timeout)

    @property
    def seconds_of_work(self) -> float:
        """Return the processor time that it has used, without that of the commands that it ran."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def commands(self) -> dict[int, list[str]]:
        """Return the commands that it is running, by process id."""
        found = {}
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # the process has ended
                for pid in (thread / "children").read_text().split():
                    found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        return found
