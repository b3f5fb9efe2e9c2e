"""Log to standard error, one line for each event, as text or as JSON.

A message has subject, place and problem; a hint is on a line of its own. If standard error is the
journal, which adds the time and the program's name, each line has its priority instead: the hint of
an error, too, so that `journalctl -p warning` shows both.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from postfix_sync.errors import SyncError
from postfix_sync.model.notice import Notice

LOG = logging.getLogger("postfix_sync")


PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""The priority of each level (syslog(3)); the journal reads it at the start of a line
(sd-daemon(3))."""


class _Text(logging.Formatter):
    def __init__(self, start: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._start = start

    def format(self, record: logging.LogRecord) -> str:
        hint = getattr(record, "hint", "")
        lines = [*record.getMessage().split("\n"), *([f"hint: {hint}"] if hint else [])]
        if record.levelno >= logging.WARNING:
            lines[0] = f"{record.levelname.lower()}: {lines[0]}"
        start = self._start(record)
        text = "\n".join(f"{start}{line}" for line in lines)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if hint := getattr(record, "hint", ""):
            entry["hint"] = hint
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _ForJournal(logging.Formatter):
    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        lines = self._inner.format(record).split("\n")
        return "\n".join(f"<{PRIORITIES[record.levelno]}>{line}" for line in lines)


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_journal(stream: TextIO) -> bool:
    """Return whether a stream is connected to the journal ($JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def configure(level: int, log_format: str, *, timed: bool) -> None:
    """Send the log to standard error.

    If `timed` is set, each line of text begins with the time, except in the journal.
    """
    handler = logging.StreamHandler(sys.stderr)
    journal = is_journal(sys.stderr)
    formatter: logging.Formatter
    if log_format == "json":
        formatter = _Json()
    elif journal:
        formatter = _Text(lambda _: "")
    elif timed:
        formatter = _Text(lambda record: f"{_when(record)} postfix-sync: ")
    else:
        formatter = _Text(lambda _: "postfix-sync: ")
    handler.setFormatter(_ForJournal(formatter) if journal else formatter)
    LOG.handlers = [handler]
    logging.getLogger().handlers = [handler]  # warnings of libraries
    LOG.setLevel(level)
    LOG.propagate = False


def log_problem(error: SyncError | Notice, level: int = logging.ERROR) -> None:
    """Log an error or a notice with its hint."""
    LOG.log(level, "%s", error.message, extra={"hint": error.hint})
