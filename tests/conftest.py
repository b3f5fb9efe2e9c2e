"""Fixtures that most tests share, and a table of what was measured at the end of the run.

What needs root, or a tool that isn't there, is skipped by name on a desk, and fails in CI.
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

# A slow machine is no failure.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

NEVER_AGAIN = frozenset({"load", "kill", "transition", "attack"})
"""The markers of tests of which one failure in a hundred runs is a finding (see suite.py)."""

POSTFIX = "postfix version"
"""The property of a test that has a version of Postfix that it used."""

MEASURED = "measured "
"""How a property of a test begins that is a figure: its value, and the line that tells it."""

Measured = Callable[[str, object, str], None]
"""Keep a figure: its name, its value for junit.xml, and the line that tells it."""

IN_CI = bool(os.environ.get("CI"))

# Who starts the tests in the background of a shell starts them with SIGINT ignored (POSIX, "Signals
# and Error Handling"), and what they start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def need(condition: object, what: str) -> None:
    """Skips the test where `condition` is false; in CI nothing is skipped."""
    if not condition:
        (pytest.fail if IN_CI else pytest.skip)(f"needs {what}")


@pytest.fixture
def root() -> None:
    """For tests that only root can make."""
    need(os.geteuid() == 0, "root")


@pytest.fixture
def fuse() -> None:
    """For tests of a file system that is dead."""
    need(os.access("/dev/fuse", os.W_OK), "/dev/fuse")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach, as Postfix's own users must."""
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    with public_directory() as directory:
        yield directory


@pytest.fixture
def idle_postfix(public: Path, root: None) -> PostfixInstance:
    """A Postfix instance that is configured, but not started."""
    return PostfixInstance(public / "postfix")


@pytest.fixture
def make_site(public: Path, idle_postfix: PostfixInstance) -> Callable[..., Site]:
    """Makes a site beside a stopped Postfix: `make_site(map_type, **Site's other fields)`."""

    def make(map_type: str = "lmdb", **others: object) -> Site:
        site = Site(public, idle_postfix.config_directory, map_type, **others)  # type: ignore[arg-type]  # Site checks them
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        return site

    return make


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """Runs commands that are killed before one of their steps."""
    with Killer() as started:
        yield started


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Keeps a figure for the end of the run, and for junit.xml."""

    def keep(name: str, value: object, line: str) -> None:
        record_property(f"{MEASURED}{name}", {"value": value, "line": line})

    return keep


def pytest_addoption(parser: pytest.Parser) -> None:
    """For suite.py: where to write what became of the tests."""
    parser.addoption("--outcomes", type=Path, help="write what passed and what failed to this file")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget which versions of Postfix the test before has used."""
    postfix_version.begin()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Keep which versions of Postfix the test has used."""
    if call.when == "call":
        item.user_properties += [(POSTFIX, version) for version in sorted(postfix_version.USED)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write how many tests passed, on which Postfix, and which failed or were skipped, and why."""
    told: Path | None = session.config.getoption("--outcomes")
    if not told or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    passed = {report.nodeid for report in reporter.stats.get("passed", ())}
    failed = {
        # Of a test that ended its process nothing is known, not even its markers.
        report.nodeid: sorted(NEVER_AGAIN.intersection(report.keywords or NEVER_AGAIN))
        for outcome in ("failed", "error")
        for report in reporter.stats.get(outcome, ())
        if isinstance(report, pytest.TestReport)
    }
    done = [one for outcome in ("passed", "failed") for one in reporter.getreports(outcome)]
    versions = Counter(
        version
        for report in done
        if report.when == "call"
        for name, version in report.user_properties
        if name == POSTFIX
    )
    skipped = Counter(_why(report) for report in reporter.getreports("skipped"))
    told.write_text(
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
    """Why a test was skipped, on one line."""
    _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
    return " ".join(reason.removeprefix("Skipped: ").split())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was measured."""
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
