"""Run the subjects, print their tables, and keep the figures as JSON.

    python -m tests.bench [--full | --quick] [--only SUBJECT] [--most-lists N] [--results DIR]

`make bench` and `make bench-full` run this as root. They write docs/benchmarks/bench.json or
full.json, and docs/benchmarks.md with its plots from them.
"""

# ruff: noqa: T201 - a benchmark prints

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from tests.bench import (
    acceptance,
    backlog,
    document,
    fetching,
    losses,
    migration,
    recovery,
    sync,
    tables,
    throughput,
)
from tests.bench.machine import CHECKOUT, describe, disk_directory
from tests.bench.measure import Row, Say
from tests.bench.plan import BENCH, FULL, QUICK, Plan

Measure: TypeAlias = Callable[[Plan, Path, Say], list[Row]]

SUBJECTS: Mapping[str, Measure] = {
    "sync": sync.measure,
    "acceptance": acceptance.measure,
    "migration": migration.measure,
    "fetching": fetching.measure,
}
"""What `make bench` measures."""

ONLY_FULL: Mapping[str, Measure] = {
    "losses": losses.measure,
    "throughput": throughput.measure,
    "backlog": backlog.measure,
    "recovery": recovery.measure,
}
"""What `make bench-full` measures as well."""

ELSEWHERE = CHECKOUT / "build/bench"
"""The results of a run that is not for the documentation."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure."""
    options = _options(arguments)
    plan = QUICK if options.quick else FULL if options.full else BENCH
    if options.most_lists:
        plan = plan.limited(options.most_lists)
    subjects = {**SUBJECTS, **ONLY_FULL} if options.full or options.only else SUBJECTS
    if options.only:
        subjects = {name: subjects[name] for name in options.only}
    results: Path = options.results or (
        ELSEWHERE if options.only or options.quick or options.most_lists else document.RESULTS
    )
    results.mkdir(parents=True, exist_ok=True)
    _run(plan, subjects, disk_directory(options.directory), results / f"{plan.name}.json")
    if results == document.RESULTS:
        document.write()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0]
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="measure all subjects, with all sizes")
    size.add_argument("--quick", action="store_true", help="try the harness: tiny sizes, one round")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*SUBJECTS, *ONLY_FULL),
        help="measure only this subject; may be repeated",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help=f"directory for the JSON (default: {document.RESULTS.relative_to(CHECKOUT)};"
        f" with --quick, --only or --most-lists {ELSEWHERE.relative_to(CHECKOUT)})",
    )
    parser.add_argument(
        "--most-lists", type=int, metavar="N", help="leave out the sizes with more lists"
    )
    parser.add_argument("--directory", type=Path, help="directory on a disk to measure in")
    return parser.parse_args(arguments)


def _run(plan: Plan, subjects: Mapping[str, Measure], base: Path, kept: Path) -> None:
    """Measure each subject; the JSON is written after each, and the tables printed at the end."""
    begin = time.monotonic()

    def say(line: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        print(f"{minutes:3}:{seconds:02}  {line}", flush=True)

    result: Row = {
        "run": plan.name,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": describe(base),
        "subjects": {},
    }
    for name, measure in subjects.items():
        began = time.monotonic()
        say(f"{name}: begins")
        rows = measure(plan, base, say)
        result["subjects"][name] = {"seconds": round(time.monotonic() - began), "rows": rows}
        kept.write_text(json.dumps(result, indent=1) + "\n")
    for table in tables.all_tables(result):
        print(f"\n{table.as_text()}")
    say(f"written: {kept}")


if __name__ == "__main__":
    main()
