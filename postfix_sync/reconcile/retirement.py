"""Decide when routes and host names that are no longer needed may be removed. Pure.

A sync removes no route and no host name: mail that was accepted before may still need them. It
notes since when they are not needed. They are removed later: a route when its list has not been
accepted for ROUTE_KEPT, every smtpd(8) process that saw it has ended, and no recipient of it is in
the queue; a host name when no route has led to it for NAME_KEPT. Mail that was deferred for the old
destination of a list that has moved is handed to Postfix for another try.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.mailman.addresses import addresses_of, lists_of
from postfix_sync.model import ALIASES, RECIPIENTS, ROUTES, Desired, Installed, Maps, Table
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.next_hop import host_names
from postfix_sync.postfix.queue import Queued, without_extensions
from postfix_sync.reconcile.plan import Plan
from postfix_sync.reconcile.visibility import moved_addresses
from postfix_sync.store.retirement_record import Retiring


def noted(
    old: Retiring, plan: Plan, installed: Installed, desired: Desired, now: float
) -> Retiring:
    """Note what a plan keeps beyond what is desired, and since when that is not needed.

    Of a list that is still accepted when the sync begins, that is now. `now` is in seconds since
    the epoch.
    """
    routes = plan.result[ROUTES]
    spare = routes.keys() - desired.maps[ROUTES].keys()
    names = {**installed.hosts, **desired.hosts}.keys() - desired.hosts.keys() - host_names(routes)
    accepted = spare & _accepted(installed.table(RECIPIENTS), installed.table(ALIASES))
    refused = {name: at for name, at in old.routes.items() if name not in accepted}
    reached = desired.maps[ROUTES].keys() | desired.maps[ALIASES].keys()
    kept = {name: min(at, now) for name, at in old.moved.items() if name in reached}
    return Retiring(
        _since(refused, units_of(spare), now),
        _since(old.names, names, now),
        {**kept, **dict.fromkeys(units_of(moved_addresses(plan.changes[ROUTES])), now)},
    )


def units_of(addresses: Iterable[str]) -> AbstractSet[str]:
    """Name addresses by their lists; an address that is part of no whole list, by itself."""
    known = frozenset(addresses)
    lists = lists_of(known)
    return lists | known.difference(*map(addresses_of, lists)) if known else known


def narrowed(maps: Maps, due: AbstractSet[str], queued: AbstractSet[str]) -> Table:
    """Remove the routes of the lists in `due`, except those that are accepted or queued for.

    `queued` are the addresses of queued mail, without their extensions.
    """
    accepted = _accepted(maps[RECIPIENTS], maps[ALIASES])
    gone = {
        address
        for name in due
        if queued.isdisjoint(addresses_of(name))
        for address in addresses_of(name)
        if address not in accepted
    }
    return {key: value for key, value in maps[ROUTES].items() if key not in gone}


def _accepted(recipients: Table, aliases: Table) -> AbstractSet[str]:
    """Find the addresses that need a route: recipients, and what aliases lead to."""
    return recipients.keys() | set(aliases.values())


def deferred_for(
    messages: Iterable[Queued], lists: Iterable[str], fold: Fold, delimiters: str
) -> tuple[str, ...]:
    """Find the queue ids of deferred messages with a recipient among some lists' addresses."""
    wanted = {address for name in lists for address in addresses_of(name)}
    return tuple(
        message.queue_id
        for message in messages
        if message.is_deferred
        and not wanted.isdisjoint(
            key
            for address, _ in message.recipients
            for key in without_extensions(fold(address), delimiters)
        )
    )


def _since(old: Mapping[str, float], present: AbstractSet[str], now: float) -> dict[str, float]:
    """Return when each name was noted first, but no time after `now`: the clock may be set back."""
    return {name: min(old.get(name, now), now) for name in sorted(present)}
