"""A migration: a Mailman with many lists gets one more each second.

Each creation rewrites Mailman's files whole. A client asks for the new addresses, in one open
session with lmdb, else in new ones, until each is accepted.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.acceptance import INTERVAL, Asker, percentiles
from tests.bench.cases import LONGEST, Case
from tests.bench.lists import list_name
from tests.bench.measure import Row, Say
from tests.bench.plan import Plan
from tests.parts.common import public_directory

LATEST = 60.0
"""Seconds after the last creation until which the client asks."""


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row for each map type."""
    rows = []
    for map_type in plan.migration_types:
        with ExitStack() as stack:
            directory = stack.enter_context(public_directory(base))
            case = Case(directory / map_type, plan.migration_lists, map_type)
            stack.enter_context(case)
            case.start_daemon()
            say(f"migration: {case.label}: {plan.migration_seconds} lists, one a second")
            rows.append(_migrate(case, plan.migration_seconds))
    return rows


def _migrate(case: Case, seconds: int) -> Row:
    assert case.daemon is not None
    meter = case.daemon.meter
    meter.reset_peak()
    cpu, began = meter.cpu, time.monotonic()
    with Creations(case, seconds).running() as creations:
        live = _wait_until_live(case, creations, began + seconds + LATEST)
    share = (meter.cpu - cpu) / (time.monotonic() - began)
    case.daemon.wait_until_idle(LONGEST)
    seconds_each = [live.get(name, LATEST) for name in creations.created]
    return {
        "lists": case.lists,
        "type": case.map_type,
        "created": seconds,
        "late": sum(name not in live for name in creations.created),
        **percentiles(seconds_each),
        "share_of_core": share,
        "peak_bytes": meter.peak,
        "after_bytes": meter.memory,
        "each": [live.get(name) for name in creations.created],
    }


def _wait_until_live(case: Case, creations: "Creations", deadline: float) -> dict[str, float]:
    """Return the seconds from its creation until each list was accepted, if it was."""
    live: dict[str, float] = {}
    with Asker(case.postfix.port, one_session=case.map_type == "lmdb") as asker:
        while time.monotonic() < deadline:
            waiting = [name for name in list(creations.created) if name not in live]
            if not waiting and creations.are_complete:
                break
            for name in waiting:
                if asker.accepts(name):
                    live[name] = time.monotonic() - creations.created[name]
            time.sleep(INTERVAL)
    return live


class Creations:
    """Creates one list a second, in a thread of its own."""

    def __init__(self, case: Case, seconds: int) -> None:
        self.created: dict[str, float] = {}
        """The time of the rename of Mailman's file for each list (time.monotonic())."""
        self._files = case.files
        self._seconds = seconds
        self._thread = threading.Thread(target=self._create, daemon=True)

    @contextmanager
    def running(self) -> Iterator["Creations"]:
        """Create the lists during the `with`."""
        self._thread.start()
        yield self
        self._thread.join()

    @property
    def are_complete(self) -> bool:
        """Whether the last list was created."""
        return not self._thread.is_alive()

    def _create(self) -> None:
        chance = random.Random(13)  # the same in each run
        began = time.monotonic()
        for number in range(self._seconds):
            time.sleep(max(began + number - time.monotonic(), 0))
            count = self._files.count
            name = list_name(chance.randrange(count), count, f"new{number}")
            self._files.add(name)
            self.created[name] = self._files.write()
