"""The daemon as a process of a test's own, and the socket on which it tells systemd how it is.

It sends READY=1 with a STATUS after every pass: so the socket also counts the passes, also those of
which the log says nothing.
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
    """A preexec_fn: the command is root, but file modes hold for it as for everybody else."""
    _drop(_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH)


def may_not_mount() -> None:
    """A preexec_fn: the command is root, but can't mount, as in postfix-sync.service."""
    _drop(_CAP_SYS_ADMIN)


def _drop(*capabilities: int) -> None:
    for capability in capabilities:
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def install(site: Site, *lists: str, template: Path) -> Site:
    """The site with these lists in its source and in its maps, as if a daemon had ended before.

    A first pass beside a stopped Postfix takes seconds: `postfix status` sleeps before it says no.
    So it is made once, and what it installed is kept in `template`.
    """
    kept = template / f"{site.map_type} {' '.join(lists)}"
    site.files.write(*lists)
    if kept.exists():
        shutil.copytree(kept, site.maps)
    else:
        done = site.call("--once")
        assert done.returncode in (0, 69), done  # nobody may listen where the routes lead
        shutil.rmtree(site.state)
        shutil.copytree(site.maps, kept)
    return site


class NotifySocket:
    """Where a service manager listens; `address` is what NOTIFY_SOCKET is set to."""

    def __init__(self, address: str) -> None:
        """Listen at a path, or at an abstract address that begins with @."""
        self.address = address
        self._received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        # Ten datagrams that nobody has read, and the kernel makes the next sender wait.
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
        """Go away, and take the path along; harmless when gone."""
        if self._socket.fileno() < 0:
            return
        self._socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self._socket.close()
        if not self.address.startswith("@"):
            Path(self.address).unlink(missing_ok=True)


class RunningDaemon:
    """The daemon of a site, from the `with` to its end; its standard error goes to a file."""

    def __init__(
        self,
        site: Site,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        journal: bool = False,
        **popen: Any,
    ) -> None:
        """Prepare; `environment` is added to the test's own; `journal`: it takes its log for it."""
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
        """It runs already."""
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        """End it for good; in no case may it have met an error that it does not name."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.notify.close()
        if kind is None:
            assert "Traceback" not in self.log, self.log
            assert "never retrieved" not in self.log, self.log

    @property
    def log(self) -> str:
        """All of its standard error."""
        return self._log.read_text()

    @property
    def messages(self) -> list[str]:
        """The lines of a log in text format, without time and program."""
        return [re.sub(r"^\S+Z postfix-sync: |^postfix-sync: ", "", one) for one in self.lines]

    @property
    def lines(self) -> list[str]:
        """The lines of the log."""
        return self.log.splitlines()

    def count(self, text: str) -> int:
        """How many lines of the log contain this."""
        return sum(text in line for line in self.lines)

    def wait_for(self, text: str, timeout: float = PATIENCE, times: int = 1) -> None:
        """Wait until the log has a text (so many times)."""
        try:
            wait_for(lambda: self.count(text) >= times, timeout, f"{text!r} in the log")
        except TimeoutError as error:
            raise AssertionError(f"{error}; the log:\n{self.log}") from None

    @property
    def passes(self) -> int:
        """How many passes it has made."""
        return sum("READY=1\nSTATUS=" in one for one in self.notify.received)

    def wait_for_passes(self, number: int, timeout: float = PATIENCE) -> None:
        """Wait until it has made so many passes since its start."""
        try:
            wait_for(lambda: self.passes >= number, timeout, f"pass {number}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; the log:\n{self.log}") from None

    def wait_until_it_watches(self) -> None:
        """Wait for its first pass and for the one that its armed watch causes: there it rests.

        Nothing may have made it look before, and its source must be there.
        """
        self.wait_for_passes(2)

    def look(self) -> None:
        """Have it make a pass that begins after this call, and wait for its end."""
        for _ in range(2):  # one may be under way, which began before
            seen = self.passes
            self.send(signal.SIGUSR1)
            self.wait_for_passes(seen + 1)

    def rest(self) -> int:
        """Wait until it makes no more passes, longer than it takes to notice a new directory."""
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
        """End it as an operator does; its exit status."""
        self.send(number)
        return self.process.wait(timeout)

    @property
    def seconds_of_work(self) -> float:
        """The processor time that it has used, without that of the commands it ran."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def commands(self) -> dict[int, list[str]]:
        """The commands that it runs at the moment, by process id."""
        found = {}
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # what ends meanwhile
                for pid in (thread / "children").read_text().split():
                    found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        return found
