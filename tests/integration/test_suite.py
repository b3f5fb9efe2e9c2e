"""The test suite: a failed test is run again alone, unless its marker forbids it."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests import suite
from tests.conftest import NEVER_AGAIN
from tests.suite import FEW, Outcome, Verdict, judge

CHECKOUT = Path(__file__).parents[2]

LEFT_OUT = {
    "tests/corpus/test_corpus.py",
    "tests/e2e/test_crowds.py",
    "tests/e2e/test_transition_matrix.py",
}

TESTS = """
import os, pathlib, pytest

def first_time(name):
    seen = pathlib.Path(__file__).with_name(name)
    was = seen.exists()
    seen.touch()
    return not was

def test_passes():
    pass

def test_flaky():
    assert not first_time("flaky")

def test_fails():
    assert False

@pytest.mark.{marker}
def test_never_again():
    assert not first_time("never")

@pytest.fixture
def broken():
    assert not first_time("fixture")

def test_setup(broken):
    pass
"""


def outcomes_of(directory: Path, content: str, *options: str) -> tuple[Outcome, list[str]]:
    """Run pytest on one file; return its outcome, and the arguments it was run with."""
    file = directory / "test_some.py"
    file.write_text(content)
    arguments = ["-p", "tests.conftest", f"--rootdir={CHECKOUT}", "-q", *options]
    return suite.run([*arguments, str(file)]), arguments


def rerun(directory: Path, arguments: list[str], outcome: Outcome) -> Iterator[Outcome]:
    """Run each failed test again, alone."""
    for test in outcome.failed:
        name = test.rpartition("::")[2]
        yield suite.run([*arguments, f"{directory / 'test_some.py'}::{name}"])


def names(tests: Iterable[str]) -> set[str]:
    """Return the function names of node ids."""
    return {test.rpartition("::")[2] for test in tests}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("marker", "options"),
    [*((marker, ()) for marker in sorted(NEVER_AGAIN)), ("kill", ("-n", "2"))],
)
def test_flaky_test_is_listed_and_passes_unless_its_marker_forbids_it(
    tmp_path: Path, marker: str, options: tuple[str, ...]
) -> None:
    outcome, arguments = outcomes_of(tmp_path, TESTS.replace("{marker}", marker), *options)
    assert names(outcome.failed) == {"test_flaky", "test_fails", "test_setup"}
    assert names(outcome.failed_for_good) == {"test_never_again"}
    verdict = judge([outcome], rerun(tmp_path, arguments, outcome))
    assert names(verdict.flaky) == {"test_flaky", "test_setup"}
    assert names(verdict.failed) == {"test_fails", "test_never_again"}
    assert (verdict.status, verdict.passed) == (1, 1)
    assert list(verdict.lines())[-1] == "3 passed, 2 failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    ["import nothing_of_this_name", "", "import os\ndef test_ends(): os._exit(1)"],
    ids=["import", "no test", "ends the process"],
)
def test_error_of_pytest_itself_fails_the_run(tmp_path: Path, content: str) -> None:
    outcome, _ = outcomes_of(tmp_path, content)
    assert judge([outcome], []).status == 1


@pytest.mark.slow
def test_test_that_ends_its_worker_is_not_run_again(tmp_path: Path) -> None:
    content = "import os\ndef test_ends(): os._exit(1)\ndef test_passes(): pass\n"
    outcome, _ = outcomes_of(tmp_path, content, "-n", "1")
    assert (outcome.failed, names(outcome.failed_for_good)) == ((), {"test_ends"})


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_summary_counts_by_postfix_version_and_lists_skipped_tests(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    content = """
import pytest
from tests.parts import postfix_version

def test_two():
    postfix_version.used("3.7.11")
    postfix_version.used("3.11.7")

def test_one():
    postfix_version.used("3.11.7")

def test_none():
    pass

def test_skipped():
    pytest.skip("no root can be made")
"""
    outcome, _ = outcomes_of(tmp_path, content, *options)
    lines = list(judge([outcome, Outcome(0, postfix={"3.7.11": 2})], []).lines())
    assert lines[:-1] == [
        "SKIPPED 1: no root can be made",
        "tests by version of Postfix: 3 on 3.7.11, 2 on 3.11.7",
    ]
    assert lines[-1] == "3 passed, 0 failed"


def test_run_with_flaky_tests_only_passes() -> None:
    first = Outcome(1, passed=5, failed=("a",))
    verdict = judge([Outcome(0, passed=3), first], [Outcome(0, passed=1)])
    assert verdict == Verdict(passed=8, failed=(), flaky=("a",), broken=False)
    assert verdict.status == 0
    assert list(verdict.lines())[-1] == "9 passed, 0 failed"


def test_many_failures_are_not_run_again() -> None:
    def never() -> Iterator[Outcome]:
        pytest.fail("a test was run again")
        yield

    many = tuple(f"test{number}" for number in range(FEW + 1))
    verdict = judge([Outcome(1, failed=many)], never())
    assert (verdict.failed, verdict.flaky, verdict.status) == (many, (), 1)


@pytest.mark.slow
def test_each_test_is_in_exactly_one_phase() -> None:
    """The tests of the matrix and the corpus are the exception: they are in no phase."""

    def collected(*arguments: str) -> list[str]:
        done = subprocess.run(
            (sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments),
            cwd=CHECKOUT,
            env=os.environ | {"PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line for line in done.stdout.splitlines() if "::" in line]

    phases = [collected(*which) for which in suite.PHASES]
    everything = collected()
    tested = [test for phase in phases for test in phase]
    left_out = {*everything} - {*tested}
    assert {test.partition("::")[0] for test in left_out} == LEFT_OUT
    assert sorted([*tested, *left_out]) == sorted(everything)
