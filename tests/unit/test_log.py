"""The log where standard error is the journal."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from postfix_sync.log import LOG, configure


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The journal; the log goes there."""
    path = tmp_path / "journal"
    handlers = LOG.handlers, logging.getLogger().handlers
    with path.open("w", encoding="utf-8") as stream:
        found = path.stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        configure(logging.INFO, "text", timed=True)
        yield path
        LOG.handlers, logging.getLogger().handlers = handlers
        LOG.propagate = True


def test_each_line_of_a_traceback_has_its_priority(journal: Path) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        LOG.exception("an error that should have been named")
    lines = journal.read_text().splitlines()
    assert lines[0] == "<3>error: an error that should have been named"
    assert lines[-2:] == ["<3>ValueError: first", "<3>second"]
    assert {line[:3] for line in lines} == {"<3>"}


def test_what_a_library_complains_of_has_one_too(journal: Path) -> None:
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    logging.getLogger("asyncio").critical("worse")
    lines = ["<3>error: Task exception was never retrieved", "<2>critical: worse"]
    assert journal.read_text().splitlines() == lines
