"""The cost of commands and of the daemon: seconds, CPU seconds and memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from tests.parts.daemon import RunningDaemon

Row: TypeAlias = dict[str, Any]
"""The figures of one case, by name, as they are kept in JSON."""

Say: TypeAlias = Callable[[str], None]
"""Print a line about the progress."""

IDLE = 0.7
"""Seconds without work after which the daemon counts as idle."""

POLL = 0.001

_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What a command, or a change in the daemon, has cost."""

    wall: float
    """Seconds; infinite if the daemon made no sync."""
    cpu: float
    peak: int
    """The largest peak of memory of all its processes, in bytes (resident set)."""
    after: int = 0
    """The daemon's memory after the change, in bytes."""


class Launcher:
    """A small process that runs commands (launcher.py)."""

    def __enter__(self) -> Self:
        """Start it."""
        self._output = Path(tempfile.mkstemp(prefix="bench-")[1])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        """End it."""
        self._process.communicate()
        self._output.unlink()

    def run(self, *command: str, accepted: Sequence[int] = (0,)) -> Cost:
        """Run a command, whose exit status must be one of `accepted`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, str(self._output)]) + "\n")
        self._process.stdin.flush()
        wall, cpu, peak, status = json.loads(self._process.stdout.readline())
        if status not in accepted:
            output = self._output.read_text(errors="replace")
            raise RuntimeError(f"{' '.join(command)}: status {status}\n{output}")
        return Cost(wall, cpu, peak)


@dataclass(frozen=True)
class Meter:
    """Reads what a process has used so far (proc(5))."""

    pid: int

    @property
    def cpu(self) -> float:
        """CPU seconds, with those of the processes that it has waited for."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return sum(map(int, stat.rpartition(")")[2].split()[11:15])) / _HZ

    def reset_peak(self) -> None:
        """Have the peak of memory begin again at the present memory, where the kernel can."""
        with suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def peak(self) -> int:
        """The peak of memory, in bytes."""
        return self._memory("VmHWM")

    @property
    def memory(self) -> int:
        """The present memory, in bytes."""
        return self._memory("VmRSS")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = (line for line in status.splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024


class MeasuredDaemon:
    """A running daemon, and what each change costs it."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self.meter = Meter(daemon.process.pid)

    def wait_until_idle(self, timeout: float, idle: float = IDLE) -> None:
        """Wait until it has made no sync and used no CPU for `idle` seconds."""
        deadline = time.monotonic() + timeout
        seen, since = self._work(), time.monotonic()
        while time.monotonic() - since < idle:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the daemon is busy after {timeout:g} s:\n{self.daemon.log}")
            time.sleep(idle / 10)
            if (work := self._work()) != seen:
                seen, since = work, time.monotonic()

    def _work(self) -> tuple[int, float]:
        return self.daemon.passes, self.meter.cpu

    def cost_of(
        self,
        change: Callable[[], float],
        is_done: Callable[[], bool] | None,
        timeout: float,
    ) -> Cost:
        """Make a change, and wait until a sync has completed it.

        `change` returns the time at which it began (time.monotonic()). With `is_done` None, nothing
        is to be changed, and the daemon need not make a sync.
        """
        self.meter.reset_peak()
        cpu, passes = self.meter.cpu, self.daemon.passes
        began = change()
        ended = self._end_of_sync(passes, is_done, began + timeout)
        self.wait_until_idle(timeout)
        return Cost(ended - began, self.meter.cpu - cpu, self.meter.peak, self.meter.memory)

    def _end_of_sync(
        self, passes: int, is_done: Callable[[], bool] | None, deadline: float
    ) -> float:
        while time.monotonic() < deadline:
            if not self._is_synced_again(passes, deadline, needed=is_done is not None):
                return float("inf")
            ended, passes = time.monotonic(), self.daemon.passes
            if is_done is None or is_done():
                return ended
        raise TimeoutError(f"the change is not installed:\n{self.daemon.log[-4000:]}")

    def _is_synced_again(self, passes: int, deadline: float, *, needed: bool) -> bool:
        """Wait for another sync; without need, only as long as the daemon works."""
        cpu, since = self.meter.cpu, time.monotonic()
        while self.daemon.passes == passes:
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"no sync:\n{self.daemon.log[-4000:]}")
            if not needed:
                if (used := self.meter.cpu) != cpu:
                    cpu, since = used, now
                if now - since > 2 * IDLE:
                    return False
            time.sleep(POLL)
        return True
