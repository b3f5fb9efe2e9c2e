"""The guards: refuse a change that removes too many lists at once. Pure."""

from collections.abc import Set as AbstractSet

from postfix_sync.errors import Refused
from postfix_sync.mailman.entries import REFUSED
from postfix_sync.model.source import MailmanTables, Policy

FEW_LISTS = 10
"""So few lists may be removed in one sync, whatever part of all lists they are."""


def reached(old: MailmanTables, new: MailmanTables) -> AbstractSet[str]:
    """Find the lists of `new`, and those of `old` that are still reached by another name.

    A list whose domain gets an alias_domain, or loses it, keeps one of its names.
    """
    lists = new.routes.names()
    if not (old.aliases or new.aliases):
        return lists
    names = lists | new.aliases.names()
    return (
        lists
        | {old.aliases[alias] for alias in old.aliases.names() & names}
        | (old.routes.names() & names)
    )


def guard(
    source: str, installed: AbstractSet[str], wanted: AbstractSet[str], policy: Policy
) -> None:
    """Raise Refused if more lists would be removed than the configuration permits in one sync."""
    gone = len(installed - wanted)
    if installed and not wanted:
        if not policy.allow_empty:
            raise Refused(
                f"{source}: names no list at all, {len(installed)} are installed; {REFUSED}",
                f"if all lists were really removed: {policy.override}, or set guard.allow_empty",
            )
    elif gone > FEW_LISTS and gone > policy.max_removed * len(installed):
        raise Refused(
            f"{source}: {gone} of {len(installed)} lists are gone, more than guard.max_removed"
            f" ({policy.max_removed:.0%}) allows; {REFUSED}",
            f"if they were really removed: {policy.override}",
        )
