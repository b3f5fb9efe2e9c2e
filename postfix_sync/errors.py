"""What can go wrong, in the words an operator reads, with the exit status it leads to.

Every error that an operator can cause or mend is a `SyncError`: one line that says subject, place
and what is wrong, and a hint with the command or setting that mends it. Nothing else may reach a
user; anything else is a bug.
"""

import os
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses, after sysexits(3)."""

    OK = 0
    APPLY_FAILED = 1
    USAGE = 2
    REFUSED = 65
    PROBE_FAILED = 69
    OUT_OF_REACH = 75
    NOT_PERMITTED = 77
    CONFIG = 78


PRECEDENCE = (
    Exit.CONFIG,
    Exit.NOT_PERMITTED,
    Exit.REFUSED,
    Exit.APPLY_FAILED,
    Exit.OUT_OF_REACH,
    Exit.PROBE_FAILED,
)


def worst(statuses: Iterable[Exit]) -> Exit:
    """The one exit status that tells most of several."""
    seen = set(statuses)
    return next((status for status in PRECEDENCE if status in seen), Exit.OK)


class SyncError(Exception):
    """Something an operator can understand and mend; `hint` may be empty.

    `fix` is a command for a shell on this host that mends it by itself, where there is one that can
    be run without thinking it over.
    """

    status = Exit.APPLY_FAILED

    def __init__(self, message: str, hint: str = "", fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fix = fix


class ConfigError(SyncError):
    """The configuration, or the Postfix it points to, can't be used as it is."""

    status = Exit.CONFIG


class NotPermitted(SyncError):
    """The system or the source denies access."""

    status = Exit.NOT_PERMITTED


class Refused(SyncError):
    """The source's content is invalid, or a guard keeps the installed maps."""

    status = Exit.REFUSED


class HalfWritten(Refused):
    """The source's files contradict each other, as they do while Mailman writes them."""


class ApplyError(SyncError):
    """Something failed while the maps or the hosts file were being changed."""

    status = Exit.APPLY_FAILED


class OutOfReach(SyncError):
    """The source isn't there, or another pass holds the lock."""

    status = Exit.OUT_OF_REACH


class Missing(OutOfReach):
    """The source can be reached, but its files are not there (yet)."""


class NotPlaced(OutOfReach):
    """Where a container is to be reached can't be found out; `fix` may be a command that helps."""

    def __init__(self, message: str, hint: str = "", fix: str | None = None) -> None:
        super().__init__(message, hint or fix or "", fix)


class Busy(OutOfReach):
    """Another pass holds the lock."""


class TimedOut(ApplyError):
    """A command took too long, and was killed."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether there was no memory for something, or for one more thread.

    Python has no error of its own for a thread that can't be started.
    """
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def out_of_memory(subject: str) -> ApplyError:
    """Names what ran out of memory; only where that is limited does a process hear of it."""
    return ApplyError(
        f"{subject}: out of memory; Postfix keeps the maps that are installed",
        "raise what limits this process: ulimit -v and -u, the unit's MemoryMax= and TasksMax=;"
        " guard.max_size bounds what is read of a source",
    )


def why(error: Exception) -> str:
    """The reason alone, "No space left on device", without the path that a message names."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def escape(text: str) -> str:
    """Untrusted text for people: what is no printable character is spelt out, `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def quote(text: str, limit: int = 80) -> str:
    """Untrusted text for a message: quoted, escaped, and cut to `limit` characters."""
    escaped = escape(text[:limit])
    return f'"{escaped[:limit]}…"' if len(escaped) > limit or len(text) > limit else f'"{escaped}"'
