"""The log: one line an event on standard error, as text or as JSON.

Messages carry subject, place and problem; a hint goes on a line of its own.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from postfix_sync.errors import SyncError
from postfix_sync.model import Notice

LOG = logging.getLogger("postfix_sync")


class _Text(logging.Formatter):
    def __init__(self, *, timed: bool) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        hint = getattr(record, "hint", "")
        lines = [*record.getMessage().split("\n"), *([f"hint: {hint}"] if hint else [])]
        if record.levelno >= logging.WARNING:
            lines[0] = f"{record.levelname.lower()}: {lines[0]}"
        start = f"{_when(record)} postfix-sync:" if self._timed else "postfix-sync:"
        text = "\n".join(f"{start} {line}" for line in lines)
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


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure(level: int, log_format: str, *, timed: bool) -> None:
    """Sends the log to standard error; `timed`: each line of text begins with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text(timed=timed))
    LOG.handlers = [handler]
    LOG.setLevel(level)
    LOG.propagate = False


def tell(error: SyncError | Notice, level: int = logging.ERROR) -> None:
    """Logs an error or a notice with its hint."""
    LOG.log(level, "%s", error.message, extra={"hint": error.hint})
