"""The processes of one Postfix instance: whether it runs, a reload, and the wait for it."""

import asyncio
import fcntl
import math
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.errors import ApplyError, NotPermitted, TimedOut, why
from postfix_sync.model.destination import Destination
from postfix_sync.postfix.postconf import instance_command
from postfix_sync.system.commands import run
from postfix_sync.system.connections import connections_to
from postfix_sync.system.files import denied_hint, open_file, read_file

REMEMBERING = ("qmgr", "trivial-rewrite")
"""The programs that remember tables: a reload is complete once all their processes are new."""

STARTED_WITH = 2.0
"""Seconds within which master(8), once started, starts qmgr(8)."""

TURNOVER_TIMEOUT = 30.0
"""Seconds; trivial-rewrite(8) checks every 10 s whether a table has changed, and ends if so."""

TURNOVER_POLL = 0.05


@dataclass(frozen=True)
class Processes:
    """The processes of the instance with this configuration and queue directory."""

    config_directory: Path
    queue_directory: Path

    @property
    def master(self) -> int | None:
        """The process id of this instance's master(8), None if Postfix is stopped.

        Raises NotPermitted if that cannot be determined, because it decides whether a reload is
        due. `postfix status` takes a second if Postfix is stopped, and logs a line each time.
        """
        path = self.queue_directory / "pid/master.pid"
        try:
            pid = int(read_file(path))
            # The command line is empty if the process has ended and is a zombie.
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            running = words[0].rpartition(b"/")[2] == b"master"
        except PermissionError as error:
            raise NotPermitted(
                f"{path}: {why(error)}: cannot determine whether Postfix runs",
                denied_hint(path, error),
            ) from None
        except (OSError, ValueError):
            return None
        return pid if running else None

    @property
    def runs_elsewhere(self) -> bool:
        """Whether this instance runs in another PID namespace.

        Its processes can then not be seen or signalled. master(8) holds a lock on its pid file as
        long as it runs (flock(2)); this tries to take that lock, as `postfix status` does.
        """
        if self.master is not None:
            return False
        try:
            with open_file(self.queue_directory / "pid/master.pid") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass  # it has never run
        return False

    @property
    def reload_age(self) -> float:
        """Seconds since Postfix was last reloaded; infinite if never since its start.

        A reload replaces the process of qmgr(8), and keeps that of master(8).
        """
        master = self.master
        age = min((_age(pid) for pid in self.pids("qmgr")), default=math.inf)
        return age if master is not None and _age(master) - age > STARTED_WITH else math.inf

    async def reload(self) -> None:
        """Reload Postfix, and wait until no process remembers the previous tables.

        `postfix reload` itself only sends signals.

        Raises:
            ApplyError: it failed, or an old process still runs after TURNOVER_TIMEOUT seconds.
        """
        before = self.pids(*REMEMBERING)
        try:
            done = await run(instance_command(self.config_directory, "postfix", "reload"))
        except TimedOut as error:
            raise TimedOut(
                error.message,
                "run it by hand, and see in another terminal what it waits for:"
                f" postfix -c {self.config_directory} reload",
            ) from None
        if done.status:
            raise ApplyError(
                f"postfix reload: {done.complaint}",
                f"see what it says: postfix -c {self.config_directory} check",
            )
        await self._ended(before)

    async def start(self) -> None:
        """Start a Postfix that is stopped. Raises ApplyError if it does not start."""
        done = await run(instance_command(self.config_directory, "postfix", "start"))
        if done.status:
            raise ApplyError(f"postfix start: {done.complaint}")

    def pids(self, *names: str) -> frozenset[int]:
        """Find the process ids of this instance's programs; none if Postfix is stopped."""
        master = str(self.master)
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, _, rest = stat.read_text("utf-8", "replace").partition(" (")
            except OSError:
                continue  # the process has ended meanwhile
            name, _, fields = rest.rpartition(") ")
            if name in names and fields.split()[1] == master:
                found.add(int(pid))
        return frozenset(found)

    def connections(self, destinations: Collection[Destination]) -> frozenset[str]:
        """Find the open connections to some destinations in this instance's network namespace.

        There are none if it is stopped. Those of other programs there count as well.
        """
        master = self.master if destinations else None
        return connections_to(master, destinations) if master else frozenset()

    def oldest(self, *names: str) -> float:
        """Return the age in seconds of the oldest process of its programs; 0 without any."""
        ages = (_age(pid) for pid in self.pids(*names))
        return max((age for age in ages if age < math.inf), default=0.0)

    async def _ended(self, before: frozenset[int]) -> None:
        give_up = time.monotonic() + TURNOVER_TIMEOUT
        while left := before & self.pids(*REMEMBERING):
            if time.monotonic() > give_up:
                raise ApplyError(
                    f"process {min(left)} of Postfix still uses the previous tables"
                    f" {TURNOVER_TIMEOUT:g} s after the reload; nothing else is changed before it"
                    " ends",
                    f"postfix -c {self.config_directory} reload",
                )
            await asyncio.sleep(TURNOVER_POLL)


def _age(pid: int) -> float:
    """Return the seconds since a process was started (proc(5), starttime); infinite if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")[2]
    except OSError:
        return math.inf
    ticks = int(fields.split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
