"""The manual pages, rendered by groff, mandoc and man."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need

PAGES = sorted((Path(__file__).parents[2] / "docs/man").iterdir())


def errors_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_reports_no_error(page: Path) -> None:
    need(shutil.which("groff"), "groff")
    assert not errors_of("groff", "-ww", "-man", "-Tutf8", "-Kutf8", "-z", str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_reports_no_error(page: Path) -> None:
    need(shutil.which("mandoc"), "mandoc")
    assert not errors_of("mandoc", "-Tlint", str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_renders_80_columns_without_hyphenation(page: Path) -> None:
    need(shutil.which("man"), "man")
    shown = subprocess.run(
        ["man", "--warnings", "-l", str(page)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "PAGER": "cat"},
        timeout=120,
    )
    assert not shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) > 100
    assert max(map(len, lines)) <= 80
    assert "\N{HYPHEN}" not in shown.stdout  # a hyphenated word cannot be searched for
