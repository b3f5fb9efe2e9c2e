"""status and doctor where people read them: a terminal of 80 columns, NO_COLOR, a pipe, --json."""

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
    """Where maps are kept that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def site(make_site: MakeSite, template: Path) -> Site:
    """A main.cf that names no map, a source that is gone, and nobody who takes mail."""
    made = make_site(options={"probe": {"level": "connect"}})
    install(made, ANTS, template=template)
    made.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    made.once(expect=69)
    made.files.directory.rename(made.directory / "away")
    made.once(expect=75)
    return made


def commands(site: Site) -> list[str]:
    """What doctor would have somebody run."""
    found = json.loads(site.call("doctor", "--json").stdout)
    return [one["fix"] for one in found["checks"] if one["fix"]]


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_what_is_shown_fits_80_columns_but_for_commands(site: Site, command: str) -> None:
    shown = at_a_terminal(site, command)
    whole = {f"           {one}" for one in commands(site)}
    for line in shown.lines:
        assert width(line) <= 80 or line in whole, line
    if command == "doctor":
        assert whole <= set(shown.lines)
        assert any(width(line) > 80 for line in whole), "none was too long to tell"


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_colours_are_for_eyes_alone(site: Site, command: str) -> None:
    assert "\x1b[" in at_a_terminal(site, command).written
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        written = at_a_terminal(site, command, environment=plain).written
        assert "\x1b[3" not in written
        assert "\x1b[1" not in written
    assert "\x1b" not in site.call(command).stdout
    shown = at_a_terminal(site, command, "--json")
    assert "\x1b[3" not in shown.written
    assert json.loads(shown.text)


def test_a_dumb_terminal_is_sent_text_alone(site: Site) -> None:
    assert "\x1b" not in at_a_terminal(site, "doctor", environment={"TERM": "dumb"}).written


def test_a_pipe_gets_what_a_terminal_shows(site: Site) -> None:
    for command in ("status", "doctor"):
        piped = site.run(command, environment={"COLUMNS": ""}).stdout.splitlines()
        shown = at_a_terminal(site, command).lines
        assert len(piped) == len(shown)
        assert piped[-1].split()[0] == shown[-1].split()[0]


def test_doctor_sums_up_above_the_prompt(site: Site) -> None:
    shown = at_a_terminal(site, "doctor")
    found = json.loads(site.call("doctor", "--json").stdout)["checks"]
    numbers = {one: sum(check["status"] == one for check in found) for one in ("failure", "ok")}
    assert shown.lines[-1].startswith(f"{numbers['failure']} failures, ")
    assert shown.lines[-1].endswith(f"{numbers['ok']} ok")
    assert shown.status == 78


def test_doctor_quiet_tells_problems_alone(site: Site) -> None:
    shown = at_a_terminal(site, "doctor", "-q")
    assert shown.lines[0].startswith("failure  ") or shown.lines[0].startswith("warning  ")
    assert not any(line.startswith("ok ") for line in shown.lines)


def test_what_a_server_says_is_no_command_to_the_terminal(site: Site) -> None:
    """A reply that clears the screen, or hides what stands before it."""
    path = site.state / "status.json"
    status = site.status()
    [endpoint] = status["destinations"]
    status["destinations"][endpoint]["error"] = "\x1b[2J\x9b1A\rall is well\u202e"
    path.write_text(json.dumps(status))
    os.utime(path)
    written = at_a_terminal(site, "status", environment={"NO_COLOR": "1"}).written
    assert "\\x1b[2J\\x9b1A\\rall is well\\u202e" in written
    assert written.replace("\n", "").isprintable()
