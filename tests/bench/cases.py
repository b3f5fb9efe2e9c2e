"""A number of lists and a map type: Mailman's files, a Postfix, and a postfix-sync between them."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.bench.changes import Change, Expected
from tests.bench.lists import ListFiles
from tests.bench.measure import Cost, Launcher, MeasuredDaemon
from tests.parts.daemon import RunningDaemon
from tests.parts.load import rcpt
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

UNIT = Path(__file__).parents[2] / "systemd/postfix-sync.service"

TURN = 10.5
"""Seconds after a reload in which postfix-sync makes no other one, and half a second."""

LONGEST = 900.0
"""Seconds that a change may take, and the first sync of a daemon."""

LONG_SESSIONS = {
    "smtpd_soft_error_limit": "1000000",
    "smtpd_hard_error_limit": "1000000",
    "smtpd_junk_command_limit": "1000000",
}
"""Parameters of main.cf that let a client ask for an unknown address again and again."""


def unit_environment() -> dict[str, str]:
    """Return the variables that the unit sets: the daemon is measured as systemd starts it."""
    lines = UNIT.read_text().splitlines()
    assignments = [line.partition("=")[2] for line in lines if line.startswith("Environment=")]
    return dict(one.split("=", 1) for each in assignments for one in each.split())


class Case:
    """The parts; Postfix runs during the `with`."""

    def __init__(self, directory: Path, lists: int, map_type: str) -> None:
        """Write all files, and make the first sync."""
        directory.mkdir(mode=0o755)
        self.lists, self.map_type = lists, map_type
        (directory / "hosts").write_text("127.0.0.1 localhost\n")
        parameters = {**mailman_parameters(directory / "maps", map_type), **LONG_SESSIONS}
        self.postfix = PostfixInstance(
            directory / "postfix", hosts=directory / "hosts", main_cf=parameters
        )
        self.site = Site(
            directory, self.postfix.config_directory, map_type, source={"interval": "1h"}
        )
        self.files = ListFiles(directory / "data", lists)
        self.daemon: MeasuredDaemon | None = None
        self._reloads, self._reloaded = 0, 0.0
        self._sync()

    def __enter__(self) -> Self:
        """Start Postfix."""
        self._start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop everything."""
        self.stop_daemon()
        self.postfix.stop()

    @property
    def label(self) -> str:
        """Say which case it is."""
        return f"{self.lists:,} lists, {self.map_type}"

    def is_possible(self, change: Change) -> bool:
        """Whether there are enough lists for a change."""
        return self.lists >= change.fewest

    def prepare(self, change: Change) -> None:
        """Start Postfix again if a reload has been made so lately that the next one would wait."""
        if self._since_reload < TURN or (change.always_reloads and self._reloaded):
            self.postfix.stop()
            self._start()

    def wait_for_turn(self) -> None:
        """Wait until the next reload need not wait for its turn."""
        time.sleep(max(TURN - self._since_reload, 0))

    @property
    def _since_reload(self) -> float:
        """Seconds since a reload was seen, infinite if none was since Postfix's start."""
        reloads = self.postfix.reloads
        if reloads != self._reloads:
            self._reloads, self._reloaded = reloads, time.monotonic()
        return time.monotonic() - self._reloaded if self._reloaded else math.inf

    def _start(self) -> None:
        """Start Postfix, and have it look an address up, so that no process is missing."""
        self.postfix.start()
        rcpt(self.postfix.port, self.files.names[0])
        self._reloads, self._reloaded = self.postfix.reloads, 0.0

    def once(self, change: Change, launcher: Launcher) -> Cost:
        """Make a change, and return the cost of `postfix-sync --once`, which must complete it."""
        self.prepare(change)
        expected = self._make(change)
        cost = launcher.run(*self.site.command, "-c", str(self.site.config), "--once")
        if expected is not None and not expected.is_true(self.site):
            raise AssertionError(f"{self.label}: {change.name}: not {expected}")
        return cost

    def _make(self, change: Change) -> Expected | None:
        expected = change.make(self.files)
        if change.rewrites:
            self.files.write()
        return expected

    def start_daemon(self) -> float:
        """Start the daemon; return the seconds until its first sync is complete."""
        began = time.monotonic()
        running = RunningDaemon(self.site, environment=unit_environment())
        self.daemon = MeasuredDaemon(running)
        running.wait_for_passes(1, LONGEST)
        seconds = time.monotonic() - began
        self.daemon.wait_until_idle(LONGEST)
        return seconds

    def in_daemon(self, change: Change) -> Cost:
        """Make a change, and return what it costs the daemon."""
        assert self.daemon is not None
        self.prepare(change)
        expected = change.make(self.files)
        is_done = None if expected is None else lambda: expected.is_true(self.site)
        return self.daemon.cost_of(self.files.write, is_done, LONGEST)

    def stop_daemon(self) -> None:
        """Stop the daemon, if it runs."""
        if self.daemon is None:
            return
        running, self.daemon = self.daemon.daemon, None
        with running:
            running.stop(timeout=LONGEST)

    def retire(self) -> None:
        """Have the routes of removed lists removed now, so that no measured sync does that."""
        self.postfix.stop()
        record = self.site.state / "retiring.json"
        with suppress(FileNotFoundError):
            noted = json.loads(record.read_text())
            record.write_text(json.dumps({part: dict.fromkeys(noted[part], 0) for part in noted}))
        self._sync()
        self._start()

    def _sync(self) -> None:
        done = self.site.run("--once", timeout=LONGEST)
        if done.returncode:
            raise RuntimeError(f"{self.label}: {done}")
