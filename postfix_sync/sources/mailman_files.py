"""The files of a Mailman that every kind of source reads, and when they are whole."""

from pathlib import PurePath

from postfix_sync.errors import OutOfReach, Refused
from postfix_sync.mailman.files import MAILMAN_ALIASES
from postfix_sync.model import ALIASES, DOMAINS, ROUTES

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
