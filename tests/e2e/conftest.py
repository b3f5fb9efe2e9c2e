"""What the end-to-end tests need, and a table of what they measured at the end of the run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import need
from tests.parts.postfix_instance import PostfixInstance

_LINES = pytest.StashKey[list[str]]()
_DOCUMENT = pytest.StashKey[dict[str, object]]()

FIGURES_FILE = "POSTFIX_SYNC_FIGURES"
"""The environment variable that names a file for the figures, as JSON."""

Measured = Callable[[str, object, str], None]
"""Keep a figure: its name, its value for JSON, and the line that tells it."""


def need_real_parts() -> None:
    """Skips, in CI fails, where Postfix can't be run."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")


def need_map_type(postfix: PostfixInstance, map_type: str) -> None:
    """Skips, in CI fails, where this Postfix has no such maps."""
    need(map_type in postfix.command("postconf", "-m").split(), f"a Postfix with {map_type} maps")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is measured yet."""
    config.stash[_LINES] = []
    config.stash[_DOCUMENT] = {}


@pytest.fixture
def measured(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Measured:
    """Keeps a figure for the end of the run, for junit.xml, and for the JSON file."""

    def keep(name: str, value: object, line: str) -> None:
        record_property(name, value)
        request.config.stash[_LINES].append(line)
        request.config.stash[_DOCUMENT][name] = value

    return keep


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints what was measured, and writes it down where asked for."""
    if config.stash[_LINES]:
        terminalreporter.section("measured")
        for line in config.stash[_LINES]:
            terminalreporter.write_line(line)
    if file := os.environ.get(FIGURES_FILE):
        Path(file).write_text(json.dumps(config.stash[_DOCUMENT], indent=2) + "\n")
