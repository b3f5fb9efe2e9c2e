"""Fixtures that most tests share, and a table of the recorded figures at the end of the run.

A test that needs root, or a tool that is missing, is skipped with the reason; in CI it fails.
"""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.parts import postfix_version
from tests.parts.common import public_directory
from tests.parts.kill_at import Killer
from tests.parts.postfix_instance import PostfixInstance
from tests.parts.site import Site

# Hypothesis must not fail a test because the machine is slow.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

NEVER_AGAIN = frozenset({"load", "kill", "transition", "attack"})
"""The markers of tests that are never run again: a rare failure is a finding (see suite.py)."""

POSTFIX = "postfix version"
"""The name of a test's property with a version of Postfix that the test used."""

MEASURED = "measured "
"""The prefix of the names of a test's figures: each has a value and a line for the table."""

Measured = Callable[[str, object, str], None]
"""Record a figure: its name, its value for junit.xml, and its line for the table."""

IN_CI = bool(os.environ.get("CI"))

# A shell starts background commands with SIGINT ignored (POSIX, "Signals and Error Handling"), and
# the processes that the tests start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def need(condition: object, what: str) -> None:
    """Skip the test if `condition` is false; in CI, fail it instead."""
    if not condition:
        (pytest.fail if IN_CI else pytest.skip)(f"needs {what}")


@pytest.fixture
def root() -> None:
    """Skip the test unless root runs it."""
    need(os.geteuid() == 0, "root")


@pytest.fixture
def fuse() -> None:
    """Skip the test unless /dev/fuse can be used, for a file system that does not answer."""
    need(os.access("/dev/fuse", os.W_OK), "/dev/fuse")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach, including Postfix's own users."""
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    with public_directory() as directory:
        yield directory


@pytest.fixture
def idle_postfix(public: Path, root: None) -> PostfixInstance:
    """A Postfix instance that is configured, but not started."""
    return PostfixInstance(public / "postfix")


@pytest.fixture
def make_site(public: Path, idle_postfix: PostfixInstance) -> Callable[..., Site]:
    """Make a site beside a stopped Postfix: `make_site(map_type, **Site's other fields)`."""

    def make(map_type: str = "lmdb", **others: object) -> Site:
        site = Site(public, idle_postfix.config_directory, map_type, **others)  # type: ignore[arg-type]  # Site checks them
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        return site

    return make


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """Run commands that are killed before one of their steps."""
    with Killer() as started:
        yield started


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Record a figure for the table at the end of the run, and for junit.xml."""

    def keep(name: str, value: object, line: str) -> None:
        record_property(f"{MEASURED}{name}", {"value": value, "line": line})

    return keep


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for suite.py that names the file for the outcomes of the tests."""
    parser.addoption("--outcomes", type=Path, help="write what passed and what failed to this file")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget which versions of Postfix the previous test has used."""
    postfix_version.begin()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Record which versions of Postfix the test has used."""
    if call.when == "call":
        item.user_properties += [(POSTFIX, version) for version in sorted(postfix_version.USED)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write how many tests passed, on which Postfix, and which failed or were skipped, and why."""
    outcomes_file: Path | None = session.config.getoption("--outcomes")
    if not outcomes_file or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    passed = {report.nodeid for report in reporter.stats.get("passed", ())}
    failed = {
        # A test that ended its process has no keywords, so its markers are unknown.
        report.nodeid: sorted(NEVER_AGAIN.intersection(report.keywords or NEVER_AGAIN))
        for outcome in ("failed", "error")
        for report in reporter.stats.get(outcome, ())
        if isinstance(report, pytest.TestReport)
    }
    done = [report for outcome in ("passed", "failed") for report in reporter.getreports(outcome)]
    versions = Counter(
        version
        for report in done
        if report.when == "call"
        for name, version in report.user_properties
        if name == POSTFIX
    )
    skipped = Counter(_why(report) for report in reporter.getreports("skipped"))
    outcomes_file.write_text(
        json.dumps(
            {
                "passed": len(passed - failed.keys()),
                "failed": failed,
                "postfix": versions,
                "skipped": skipped,
            }
        )
    )


def _why(report: pytest.TestReport) -> str:
    """Return the reason why a test was skipped, as one line."""
    _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
    return " ".join(reason.removeprefix("Skipped: ").split())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of recorded figures."""
    lines = [
        figure["line"]
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, figure in report.user_properties
        if name.startswith(MEASURED)
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
