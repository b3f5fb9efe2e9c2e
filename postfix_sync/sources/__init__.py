"""Where Mailman's files come from, one module a kind of source.

A source has `fetch`, which returns a whole Snapshot or raises; one on this host also has `changes`,
which tells when it is worth looking again. It never writes to where Mailman's files are.

Here is what all kinds of sources agree on: when a set of files counts as complete, and what is said
of files that Mailman would not have written.
"""

from pathlib import PurePath

from postfix_sync.errors import OutOfReach, Refused
from postfix_sync.model import ALIASES, DOMAINS, ROUTES
from postfix_sync.tables import MAILMAN_ALIASES

NAMES = (ROUTES, DOMAINS, ALIASES)
"""The files that Mailman writes; the last one only while a domain has an alias_domain."""

QUIET = 0.2
"""Seconds without a change after which a set of files counts as complete."""

SETTLE_AT_MOST = 2.0
"""Seconds after which changes count although they go on."""

NOT_WRITTEN_YET = f"Mailman writes it when a list is created, or now: {MAILMAN_ALIASES}"
"""What to do where the directory is there, and a file isn't."""


def not_regular(place: str, what: str, directory: PurePath) -> Refused:
    """There is something else where Mailman's file should be."""
    return Refused(
        f"{place}: is {what}, not a regular file; refused, Postfix keeps the last good maps",
        f"Mailman writes a regular file there: see ls -l {directory}",
    )


def too_large(place: str, size: int, limit: int) -> Refused:
    """A file has more bytes than guard.max_size."""
    return Refused(
        f"{place}: has {size} bytes, more than guard.max_size ({limit}) allows; refused, Postfix"
        " keeps the last good maps",
        "raise guard.max_size if Mailman really has so many lists",
    )


def restless(place: str, routes: PurePath) -> OutOfReach:
    """Files that were replaced each time before all of them were read."""
    return OutOfReach(
        f"{place}: the files change faster than they can be read; the last good maps stay",
        f"see what writes there: fuser -v {routes}",
    )
