"""The log if standard error is the journal: priorities instead of times (sd-daemon(3)).

$JOURNAL_STREAM names the file that is the journal, so the tests can use any file.
"""

import json
from collections.abc import Callable

import pytest

from tests.parts.daemon import RunningDaemon
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS = "ants@lists.example.net"

MakeSite = Callable[..., Site]


def run_with_journal(site: Site, *arguments: str, matches: bool = True) -> list[str]:
    """Run the command with a file as the journal, and return the lines that it writes there."""
    path = site.directory / "journal"
    with path.open("w") as stream:
        found = path.stat()
        journal = f"{found.st_dev}:{found.st_ino + (not matches)}"
        process = site.start(*arguments, environment={"JOURNAL_STREAM": journal}, stderr=stream)
        process.communicate(timeout=60)
    return path.read_text().splitlines()


@pytest.fixture
def broken(make_site: MakeSite) -> Site:
    """A site whose source is missing."""
    return make_site()


def test_warning_and_its_hint_have_priority_4(broken: Site) -> None:
    lines = run_with_journal(broken, "--once")
    first = lines.index(next(line for line in lines if "relay_domains" in line))
    warning, hint = lines[first : first + 2]
    assert warning.startswith("<4>warning: main.cf: ")
    assert hint.startswith("<4>hint: ")


def test_error_and_its_hint_have_priority_3(broken: Site) -> None:
    error, hint = run_with_journal(broken, "--once")[-2:]
    assert error.startswith(f"<3>error: {broken.files.directory}/postfix_lmtp: ")
    assert hint.startswith("<3>hint: ")


def test_each_line_of_a_long_message_has_its_priority(broken: Site) -> None:
    broken.config.write_text("sauces: []\nprobes: {}\n")
    lines = run_with_journal(broken, "--once")
    assert len(lines) >= 3
    assert {line[:3] for line in lines} == {"<3>"}


def test_each_json_line_has_its_priority(broken: Site) -> None:
    lines = run_with_journal(broken, "--once", "--log-format", "json")
    found = {line[:3]: json.loads(line[3:])["level"] for line in lines}
    assert found == {"<4>": "warning", "<3>": "error"}


@pytest.mark.parametrize(("log_format", "start"), [("text", "postfix-sync: "), ("json", "{")])
def test_log_has_no_priorities_if_the_journal_is_another_file(
    broken: Site, log_format: str, start: str
) -> None:
    """A service may start a command with its standard error redirected to another file."""
    lines = run_with_journal(broken, "--once", "--log-format", log_format, matches=False)
    assert lines
    assert all(line.startswith(start) for line in lines)


@pytest.mark.slow
def test_daemon_writes_no_time_and_no_name_to_the_journal(make_site: MakeSite) -> None:
    site = make_site()
    site.files.write(ANTS)
    with RunningDaemon(site, journal=True) as daemon:
        daemon.wait_for(f"<6>lists: +1 list: {ANTS}")
        assert daemon.stop() == 0
        assert daemon.lines[-1].startswith("<6>stopped; ")
        assert not [line for line in daemon.lines if not line.startswith(("<6>", "<4>"))]
