"""What the end-to-end tests need, and how they keep what they measure."""

import os
import shutil
from collections.abc import Callable

import pytest

from tests.conftest import MEASURED, need
from tests.parts.postfix_instance import PostfixInstance

Measured = Callable[[str, object, str], None]
"""Keep a figure: its name, its value for junit.xml, and the line that tells it."""


def need_real_parts() -> None:
    """Skips, in CI fails, where Postfix can't be run."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")


def need_map_type(postfix: PostfixInstance, map_type: str) -> None:
    """Skips, in CI fails, where this Postfix has no such maps."""
    need(map_type in postfix.command("postconf", "-m").split(), f"a Postfix with {map_type} maps")


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Keeps a figure for the end of the run (tests/conftest.py), and for junit.xml."""

    def keep(name: str, value: object, line: str) -> None:
        record_property(f"{MEASURED}{name}", {"value": value, "line": line})

    return keep
