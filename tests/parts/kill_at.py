"""The command, killed before each of its changes to files in turn.

tests/integration/kill_at/sitecustomize.py defines the changes and kills the process. There are many
of them, and the start of a Python takes longer than a sync. So this module is also a program, which
has all modules imported and forks a child for each command.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NoReturn, Self

from postfix_sync.cli import command_line, once, resume, rollback, setup
from postfix_sync.config.schema import Config
from postfix_sync.postfix import index_change
from tests.parts.site import Site

IMPORTED = (once, resume, rollback, setup, Config)
"""Modules that the commands would import themselves."""

ROOT = Path(__file__).parents[2]
KILL_AT = ROOT / "tests/integration/kill_at/sitecustomize.py"


@dataclass(frozen=True)
class Ended:
    """The exit status of a command, its output, and the events that it reached.

    If it was killed, the last event is the one that did not happen.
    """

    returncode: int
    stdout: str
    stderr: str
    events: tuple[str, ...]


@dataclass(frozen=True)
class _Order:
    arguments: tuple[str, ...]
    below: str
    """The directory whose changes are events."""
    event: int
    """The number of the event that does not happen; with 0, all happen."""
    changing: bool = False
    """Whether indexes are changed, not rebuilt, though the maps are small."""


class Killer:
    """The program, for the duration of the `with`."""

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.parts.kill_at"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        """End it by closing its input."""
        self._process.communicate()

    def run(self, site: Site, *arguments: str, event: int = 0, changing: bool = False) -> Ended:
        """Run the command, killed before an event, or to its end if that is 0; see `_Order`."""
        order = _Order(("-c", str(site.config), *arguments), str(site.directory), event, changing)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{json.dumps(asdict(order))}\n")
        self._process.stdin.flush()
        ended = json.loads(self._process.stdout.readline())
        return Ended(**{**ended, "events": tuple(ended["events"])})


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Execute orders, one per line, to the end of the input."""
    for line in orders:
        with tempfile.TemporaryDirectory() as directory:
            files = [Path(directory, name) for name in ("stdout", "stderr", "events")]
            for file in files:
                file.touch()
            pid = os.fork()
            if not pid:
                _obey(_Order(**json.loads(line)), *files)
            _, status = os.waitpid(pid, 0)
            stdout, stderr, events = (file.read_text() for file in files)
        ended = Ended(os.waitstatus_to_exitcode(status), stdout, stderr, tuple(events.splitlines()))
        answers.write(f"{json.dumps(asdict(ended))}\n")
        answers.flush()


def _obey(order: _Order, stdout: Path, stderr: Path, events: Path) -> NoReturn:
    """Run the command in the child, and exit."""
    status = 70
    try:
        for number, path in enumerate((Path(os.devnull), stdout, stderr)):
            os.dup2(os.open(path, os.O_RDWR), number)
        os.environ.update(
            KILL_AT_ROOT=order.below, KILL_AT_EVENT=str(order.event), KILL_AT_LOG=str(events)
        )
        if order.changing:
            index_change.SMALL = dict.fromkeys(index_change.SMALL, 0)
        runpy.run_path(str(KILL_AT))
        status = command_line.main(order.arguments)
    except BaseException:  # noqa: BLE001 - the child must exit in any case
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
