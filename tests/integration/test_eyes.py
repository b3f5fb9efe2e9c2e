"""Output of status and doctor: on a terminal of 80 columns, with NO_COLOR, in a pipe, as JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts.common import free_port
from tests.parts.daemon import install
from tests.parts.screen import at_a_terminal, width
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS = "ants@lists.example.net"

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that keeps maps that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def site(make_site: MakeSite, template: Path) -> Site:
    """A main.cf that names no map, a source that is missing, and a destination that is down."""
    made = make_site(options={"probe": {"level": "connect"}})
    install(made, ANTS, template=template)
    made.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    made.once(expect=69)
    made.files.directory.rename(made.directory / "away")
    made.once(expect=75)
    return made


def commands(site: Site) -> list[str]:
    """Return the fix of each of doctor's findings."""
    found = json.loads(site.call("doctor", "--json").stdout)
    return [check["fix"] for check in found["checks"] if check["fix"]]


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_output_except_commands_fits_80_columns(site: Site, command: str) -> None:
    shown = at_a_terminal(site, command)
    whole = {f"           {fix}" for fix in commands(site)}
    for line in shown.lines:
        assert width(line) <= 80 or line in whole, line
    if command == "doctor":
        assert whole <= set(shown.lines)
        assert any(width(line) > 80 for line in whole), "no command is longer than 80 columns"


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_colours_are_used_only_on_a_terminal_that_has_them(site: Site, command: str) -> None:
    assert "\x1b[" in at_a_terminal(site, command).written
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        written = at_a_terminal(site, command, environment=plain).written
        assert "\x1b[3" not in written
        assert "\x1b[1" not in written
    assert "\x1b" not in site.call(command).stdout
    shown = at_a_terminal(site, command, "--json")
    assert "\x1b[3" not in shown.written
    assert json.loads(shown.text)


def test_dumb_terminal_gets_plain_text(site: Site) -> None:
    assert "\x1b" not in at_a_terminal(site, "doctor", environment={"TERM": "dumb"}).written


def test_pipe_gets_the_same_lines_as_a_terminal(site: Site) -> None:
    for command in ("status", "doctor"):
        piped = site.run(command, environment={"COLUMNS": ""}).stdout.splitlines()
        shown = at_a_terminal(site, command).lines
        assert len(piped) == len(shown)
        assert piped[-1].split()[0] == shown[-1].split()[0]


def test_doctor_ends_with_a_summary(site: Site) -> None:
    shown = at_a_terminal(site, "doctor")
    found = json.loads(site.call("doctor", "--json").stdout)["checks"]
    numbers = {
        status: sum(check["status"] == status for check in found) for status in ("failure", "ok")
    }
    assert shown.lines[-1].startswith(f"{numbers['failure']} failures, ")
    assert shown.lines[-1].endswith(f"{numbers['ok']} ok")
    assert shown.status == 78


def test_doctor_quiet_prints_problems_only(site: Site) -> None:
    shown = at_a_terminal(site, "doctor", "-q")
    assert shown.lines[0].startswith("failure  ") or shown.lines[0].startswith("warning  ")
    assert not any(line.startswith("ok ") for line in shown.lines)


def test_control_characters_in_a_reply_are_escaped(site: Site) -> None:
    """The reply would clear the screen, or hide the text before it."""
    path = site.state / "status.json"
    status = site.status()
    [endpoint] = status["destinations"]
    status["destinations"][endpoint]["error"] = "\x1b[2J\x9b1A\rall is well\u202e"
    path.write_text(json.dumps(status))
    os.utime(path)
    written = at_a_terminal(site, "status", environment={"NO_COLOR": "1"}).written
    assert "\\x1b[2J\\x9b1A\\rall is well\\u202e" in written
    assert written.replace("\n", "").isprintable()
