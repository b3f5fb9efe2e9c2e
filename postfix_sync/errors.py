"""The errors that postfix-sync reports, with their exit statuses, and untrusted text in messages.

Every error that an operator can cause or fix is a `SyncError`: one line that names subject, place
and problem, and a hint with the command or setting that fixes it. Any other exception that reaches
the user is a bug.
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
    """Return the first of the statuses in PRECEDENCE, or OK if none of them is there."""
    seen = set(statuses)
    return next((status for status in PRECEDENCE if status in seen), Exit.OK)


class SyncError(Exception):
    """An error that an operator can understand and fix; `hint` may be empty.

    `fix` is a shell command for this host that fixes the problem alone and is always safe to run,
    or None.
    """

    status = Exit.APPLY_FAILED

    def __init__(self, message: str, hint: str = "", fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fix = fix


class ConfigError(SyncError):
    """The configuration, or the Postfix instance that it names, can't be used as it is."""

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
    """The source does not answer, or another sync holds the lock."""

    status = Exit.OUT_OF_REACH


class Missing(OutOfReach):
    """The source can be reached, but its files are not there (yet)."""


class NotPlaced(OutOfReach):
    """The address of a container can't be determined; `fix` may be a command that helps."""

    def __init__(self, message: str, hint: str = "", fix: str | None = None) -> None:
        super().__init__(message, hint or fix or "", fix)


class Busy(OutOfReach):
    """Another sync holds the lock."""


class TimedOut(ApplyError):
    """A command took too long, and was killed."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error is a lack of memory, also of memory for a new thread.

    Python raises a plain RuntimeError if a thread can't be started.
    """
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def out_of_memory(subject: str) -> ApplyError:
    """Return an error for `subject`, which ran out of memory; a limit must have caused it.

    Without a limit, the kernel would kill the process instead.
    """
    return ApplyError(
        f"{subject}: out of memory; Postfix keeps using the installed maps",
        "raise the limits of this process: ulimit -v and -u, the unit's MemoryMax= and TasksMax=;"
        " guard.max_size limits the size of a source's files",
    )


def why(error: Exception) -> str:
    """Return the reason of an error, such as "No space left on device", without the path."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def escape(text: str) -> str:
    """Escape untrusted text for people: unprintable characters become, for example, `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def quote(text: str, limit: int = 80) -> str:
    """Quote untrusted text for a message: escaped, and cut to `limit` characters."""
    escaped = escape(text[:limit])
    return f'"{escaped[:limit]}…"' if len(escaped) > limit or len(text) > limit else f'"{escaped}"'
