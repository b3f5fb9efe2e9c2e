"""The cost of a change: `--once` and the daemon, beside postmap and beside a shell script.

The denominator of every ratio is `postmap` of the routes alone, compiled whole, in place. The
script is what people use: it copies the files, compiles each, and reloads Postfix. A round measures
each of them, for every case, one after the other.
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.cases import Case
from tests.bench.changes import CHANGES
from tests.bench.measure import Cost, Launcher, Row, Say
from tests.bench.plan import Plan
from tests.bench.script import write_script
from tests.parts.common import public_directory
from tests.parts.postfix_instance import PostfixInstance


@dataclass
class Samples:
    """All measurements, by lists, map type, what was measured, and the change."""

    costs: defaultdict[tuple[int, str, str, str], list[Cost]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, case: Case, what: str, change: str, cost: Cost) -> None:
        """Add a measurement."""
        self.costs[case.lists, case.map_type, what, change].append(cost)

    def rows(self) -> list[Row]:
        """Return the medians, and the ratios to postmap."""
        return [
            self._row(lists, map_type, what, change, costs)
            for (lists, map_type, what, change), costs in sorted(self.costs.items())
        ]

    def _row(self, lists: int, map_type: str, what: str, change: str, costs: Sequence[Cost]) -> Row:
        walls = [cost.wall for cost in costs if cost.wall != float("inf")]
        whole = median(cost.wall for cost in self.costs[lists, map_type, "postmap", ""])
        return {
            "lists": lists,
            "type": map_type,
            "what": what,
            "change": change,
            "rounds": len(costs),
            "seconds": median(walls) if walls else None,
            "least": min(walls) if walls else None,
            "most": max(walls) if walls else None,
            "ratio": median(walls) / whole if walls else None,
            "cpu_seconds": median(cost.cpu for cost in costs),
            "peak_bytes": round(median(cost.peak for cost in costs)),
            "after_bytes": round(median(cost.after for cost in costs)),
        }


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row for each case, and each of its changes."""
    samples = Samples()
    with ExitStack() as stack:
        directory = stack.enter_context(public_directory(base))
        launcher = stack.enter_context(Launcher())
        others = stack.enter_context(Others(directory, launcher))
        cases = []
        for lists in plan.sync_rounds:
            for map_type in plan.map_types:
                case = Case(directory / f"{lists}-{map_type}", lists, map_type)
                say(f"sync: {case.label}: first sync done")
                cases.append(stack.enter_context(case))
        for number in range(max(plan.sync_rounds.values())):
            current = [case for case in cases if number < plan.sync_rounds[case.lists]]
            if number:
                _retire(current)
            say(f"sync: round {number + 1}: {len(current)} cases")
            _round_of_once(current, samples, launcher, others)
            _retire(current)
            say(f"sync: round {number + 1}: the daemons")
            _round_of_daemons(current, samples)
    return samples.rows()


def _retire(cases: Sequence[Case]) -> None:
    """Have the routes of removed lists removed before the next change is measured."""
    for case in cases:
        case.retire()


def _round_of_once(
    cases: Sequence[Case], samples: Samples, launcher: Launcher, others: "Others"
) -> None:
    for case in cases:
        samples.add(case, "postmap", "", others.postmap(case))
        samples.add(case, "script", "", others.script(case))
    for change in CHANGES:
        for case in cases:
            if case.is_possible(change):
                samples.add(case, "--once", change.name, case.once(change, launcher))


def _round_of_daemons(cases: Sequence[Case], samples: Samples) -> None:
    for case in cases:
        seconds = case.start_daemon()
        assert case.daemon is not None
        meter = case.daemon.meter
        samples.add(case, "daemon", "start", Cost(seconds, meter.cpu, meter.peak, meter.memory))
    for change in CHANGES:
        for case in cases:
            if change.rewrites and case.is_possible(change):
                samples.add(case, "daemon", change.name, case.in_daemon(change))
    for case in cases:
        case.stop_daemon()


class Others:
    """What people use instead, each with a Postfix of its own; postmap's is stopped."""

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        self._directory = directory / "others"
        self._directory.mkdir(mode=0o755)
        self._launcher = launcher
        self._stopped = PostfixInstance(self._directory / "stopped")
        self._running = PostfixInstance(self._directory / "running")

    def __enter__(self) -> "Others":
        """Start the Postfix that the script reloads."""
        self._running.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop it."""
        self._running.stop()

    def postmap(self, case: Case) -> Cost:
        """Compile the routes whole, over the previous index, as Mailman itself does."""
        routes = self._place("postmap", case) / "postfix_lmtp"
        shutil.copyfile(case.files.files.directory / "postfix_lmtp", routes)
        etc = str(self._stopped.config_directory)
        return self._launcher.run("/usr/sbin/postmap", "-c", etc, f"{case.map_type}:{routes}")

    def script(self, case: Case) -> Cost:
        """Run the script."""
        maps = self._place("script", case)
        data, etc = case.files.files.directory, self._running.config_directory
        return self._launcher.run("/bin/sh", str(write_script(data, maps, case.map_type, etc)))

    def _place(self, what: str, case: Case) -> Path:
        place = self._directory / f"{what}-{case.lists}-{case.map_type}"
        if not place.exists():
            place.mkdir(mode=0o755)
            {"postmap": self.postmap, "script": self.script}[what](case)  # the index is there
        return place
