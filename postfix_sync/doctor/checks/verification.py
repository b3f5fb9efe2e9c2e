"""Check that Postfix does not remember for hours that a new list did not exist.

With reject_unverified_recipient, smtpd(8) asks verify(8), which remembers the answer "no" for
address_verify_negative_refresh_time (ADDRESS_VERIFICATION_README). A reload does not clear that.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping

from postfix_sync.doctor.findings import ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.restrictions import CLASSES, LISTS, restrictions
from postfix_sync.postfix.time_value import seconds_of

PATIENCE = 300
"""Seconds for which a new list may be refused without a warning."""

TIME = "address_verify_negative_refresh_time"
CACHE = "address_verify_negative_cache"

VERIFIES = "reject_unverified_recipient"
LISTED = "reject_unlisted_recipient"
"""The restriction that refuses an address that no table has, before verify(8) is asked about it."""


async def verification(host: Host) -> AsyncIterator[Finding]:
    """Check that a list that got mail before it existed is soon accepted."""
    values = {
        **(await host.postfix.values(TIME, CACHE)),
        **(await restrictions(host.postfix, host.services)),
    }
    verifier = next((each for each in host.services if each.command == "verify"), None)
    own = {**values, **(verifier.overrides if verifier else {})}
    places = [
        f"{place} of {service.name} in master.cf" if place in service.overrides else place
        for service in host.services
        if service.command == "smtpd"
        for place in _unguarded({**values, **service.overrides})
    ]
    seconds = seconds_of(own[TIME], "h")
    if not places or own[CACHE] == "no" or (seconds is not None and seconds <= PATIENCE):
        yield ok(TIME, f"{TIME} = {own[TIME]}" + ("" if places else "; no listener asks verify(8)"))
        return
    where = f"{verifier.name}/{verifier.kind}/" if verifier and TIME in verifier.overrides else ""
    yield warning(
        TIME,
        f"{TIME} = {own[TIME]}, and {places[0]} has {VERIFIES}",
        f"if somebody writes to a list before it exists, verify(8) remembers that for {own[TIME]}:"
        " Postfix goes on refusing the list's mail after the maps have it, also after a reload."
        f" The command shortens that to a minute; {LISTED} before {VERIFIES} prevents it, too",
        host.edit(f"{where}{TIME}=1m", "-P") if where else host.edit(f"{TIME} = 1m"),
    )


def _unguarded(own: Mapping[str, str]) -> Iterator[str]:
    """Yield the lists of an smtpd(8) that ask verify(8) about addresses that no table has."""
    named = {item for name in LISTS for item in items(own[name])}
    # A class that no list names may be the result of an access table (RESTRICTION_CLASS_README).
    by_tables = [name for name in items(own[CLASSES]) if name not in named]
    for name in LISTS:
        order = list(_restrictions(own, own[name], by_tables))
        if VERIFIES in order and LISTED not in order[: order.index(VERIFIES)]:
            yield name


def _restrictions(
    own: Mapping[str, str], text: str, by_tables: list[str], within: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the restrictions in a list that reject, those in restriction classes included."""
    classes = set(items(own[CLASSES])) - {*within}
    previous = ""
    for item in items(text):
        called = [item] if item in classes else []
        if re.fullmatch(r"check_\w+_access", item):
            called = [name for name in by_tables if name in classes]
        for name in called:
            yield from _restrictions(own, own.get(name, ""), by_tables, (*within, name))
        if previous != "warn_if_reject":
            yield item
        previous = item
