"""The files of a Mailman that every kind of source reads, and the time after which they count."""

from pathlib import PurePath

from postfix_sync.errors import OutOfReach, Refused
from postfix_sync.mailman.entries import MAILMAN_ALIASES, REFUSED
from postfix_sync.model.map_names import ALIASES, DOMAINS, ROUTES

NAMES = (ROUTES, DOMAINS, ALIASES)
"""The files that Mailman writes; the last one only while a domain has an alias_domain."""

QUIET = 0.2
"""Seconds without a change after which a set of files counts as complete."""

SETTLE_AT_MOST = 2.0
"""Seconds after which the files are read although they are still changing."""

NOT_WRITTEN_YET = f"Mailman writes it when a list is created, or now: {MAILMAN_ALIASES}"
"""The hint if the directory exists, but a file does not."""

KEPT = "the last good lists stay in use"
"""The consequence of a source that can't be read, for messages."""


def not_regular(place: str, what: str, directory: PurePath) -> Refused:
    """Return the error for a `place` that is not a regular file, but `what`."""
    return Refused(
        f"{place}: is {what}, not a regular file; {REFUSED}",
        f"Mailman writes a regular file there: see ls -l {directory}",
    )


def too_large(place: str, size: int, limit: int) -> Refused:
    """Return the error for a file of `size` bytes, which are more than guard.max_size (`limit`)."""
    return Refused(
        f"{place}: has {size} bytes, more than guard.max_size ({limit}) allows; {REFUSED}",
        "raise guard.max_size if Mailman really has so many lists",
    )


def restless(place: str, routes: PurePath) -> OutOfReach:
    """Return the error for files that were replaced during each read."""
    return OutOfReach(
        f"{place}: the files change faster than they can be read; {KEPT}",
        f"see what writes there: fuser -v {routes}",
    )
