"""Run all tests in phases, and then each failed test once more on its own: `make test`.

A test that fails among others and passes on its own is listed as flaky, and the run passes: the
cause must be found, but it does not block other work. Tests of load, kill, transition or attack are
never run again (NEVER_AGAIN), because the faults that they test for may occur once in a hundred
runs. If many tests fail, the cause is not chance, and no test is run again.
"""

# ruff: noqa: T201 - the summary is printed

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import NEVER_AGAIN

PHASES: Mapping[Sequence[str], Sequence[str]] = {
    ("-m", "not alone and not booted and not matrix and not corpus"): (
        "-n",
        "4",
        "--dist",
        "worksteal",
    ),
    ("-m", "alone and not matrix and not corpus"): (),
    ("-m", "booted"): ("-n", "2", "--dist", "loadscope"),
}
"""pytest's options to select and to run tests: most in parallel, those that measure alone."""

FEW = 20
"""Up to so many failures may be due to chance."""

NO_TESTS_RAN = 5
"""pytest's exit status (pytest.ExitCode)."""


@dataclass(frozen=True)
class Outcome:
    """The result of one run of pytest."""

    status: int
    passed: int = 0
    failed: tuple[str, ...] = ()
    """The node ids of the tests that failed and may be run again."""
    failed_for_good: tuple[str, ...] = ()
    """The node ids of failed tests that are marked with one of NEVER_AGAIN."""
    postfix: Mapping[str, int] = field(default_factory=dict)
    """The number of tests that used each version of Postfix."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """The number of skipped tests for each reason."""

    @property
    def is_broken(self) -> bool:
        """Whether pytest itself failed or found no test, apart from tests that failed."""
        has_failures = bool(self.failed or self.failed_for_good)
        return self.status != 0 and not (self.status == 1 and has_failures)


@dataclass(frozen=True)
class Verdict:
    """The result of all phases and second runs."""

    passed: int
    failed: tuple[str, ...]
    flaky: tuple[str, ...]
    broken: bool
    postfix: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The exit status for make."""
        return 1 if self.failed or self.broken else 0

    def lines(self) -> Iterable[str]:
        """Yield the lines of the summary; tools read the last one."""
        for test in self.flaky:
            yield f"FLAKY {test}: failed beside others, passed by itself; find out why"
        for test in self.failed:
            yield f"FAILED {test}"
        for reason, count in self.skipped.items():
            yield f"SKIPPED {count}: {reason}"
        versions = sorted(
            self.postfix, key=lambda version: [int(n) for n in re.findall(r"\d+", version)]
        )
        counts = (f"{self.postfix[version]} on {version}" for version in versions)
        yield f"tests by version of Postfix: {', '.join(counts) or 'none'}"
        if self.broken:
            yield "pytest itself failed, or found no test: see above"
        yield f"{self.passed + len(self.flaky)} passed, {len(self.failed) + self.broken} failed"


def run(arguments: Sequence[str]) -> Outcome:
    """Run pytest with `arguments`."""
    with tempfile.TemporaryDirectory() as directory:
        outcomes = Path(directory) / "outcomes.json"
        command = (sys.executable, "-m", "pytest", f"--outcomes={outcomes}", *arguments)
        status = subprocess.run(command, check=False).returncode
        if not outcomes.exists():
            return Outcome(status or NO_TESTS_RAN)
        found = json.loads(outcomes.read_text())
    again: dict[bool, list[str]] = {True: [], False: []}
    for test, markers in found["failed"].items():
        again[NEVER_AGAIN.isdisjoint(markers)].append(test)
    return Outcome(
        status,
        found["passed"],
        tuple(again[True]),
        tuple(again[False]),
        found["postfix"],
        found["skipped"],
    )


def judge(outcomes: Sequence[Outcome], rerun: Iterable[Outcome]) -> Verdict:
    """Decide on all phases.

    `rerun` yields the outcome of each failed test on its own, in order. It is not used if too many
    tests failed.
    """
    again = [test for outcome in outcomes for test in outcome.failed]
    failed = [test for outcome in outcomes for test in outcome.failed_for_good]
    flaky: list[str] = []
    if len(again) + len(failed) > FEW:
        failed += again
    else:
        for test, outcome in zip(again, rerun, strict=True):
            (failed if outcome.status else flaky).append(test)
    return Verdict(
        passed=sum(outcome.passed for outcome in outcomes),
        failed=tuple(failed),
        flaky=tuple(flaky),
        broken=any(outcome.is_broken for outcome in outcomes),
        postfix=_total(outcome.postfix for outcome in outcomes),
        skipped=_total(outcome.skipped for outcome in outcomes),
    )


def _total(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    return sum((Counter(count) for count in counts), Counter())


def main() -> int:
    """Run all phases, and each failed test once more; return the exit status."""
    outcomes = [run([*which, *how]) for which, how in PHASES.items()]
    verdict = judge(outcomes, (run([test]) for outcome in outcomes for test in outcome.failed))
    print(*verdict.lines(), sep="\n")
    return verdict.status


if __name__ == "__main__":
    sys.exit(main())
