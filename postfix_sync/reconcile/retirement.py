"""Decide when routes and host names that are no longer needed may be removed. Pure.

A sync removes no route and no host name: mail that was accepted before may still need them. It
notes since when they are not needed. They are removed later: a route when its list has not been
accepted for ROUTE_KEPT, every smtpd(8) process that saw it has ended, and no recipient of it is in
the queue; a host name when no route has led to it for NAME_KEPT. Mail that was deferred for the old
destination of a list that has moved is handed to Postfix for another try.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.installed import Desired, Installed
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.map_names import ALIASES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.table import Table
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
    spare = routes.beyond(desired.maps[ROUTES])
    names = {**installed.hosts, **desired.hosts}.keys() - desired.hosts.keys() - host_names(routes)
    accepted = spare and _accepted(spare, installed.table(RECIPIENTS), installed.table(ALIASES))
    refused = {name: at for name, at in old.routes.items() if name not in accepted}
    wanted = desired.maps[ROUTES], desired.maps[ALIASES]
    kept = {
        name: min(at, now)
        for name, at in old.moved.items()
        if any(name in table for table in wanted)
    }
    return Retiring(
        _since(refused, spare.units(), now),
        _since(old.names, names, now),
        {**kept, **dict.fromkeys(moved_addresses(plan.changes[ROUTES]).units(), now)},
    )


def narrowed(maps: Maps, due: AbstractSet[str], queued: AbstractSet[str]) -> Table[str]:
    """Remove the routes of the lists in `due`, except those that are accepted or queued for.

    `queued` are the addresses of queued mail, without their extensions.
    """
    routes = maps[ROUTES]
    spare = {
        address: routes[address]
        for name in due
        if queued.isdisjoint(addresses_of(name))
        for address in addresses_of(name)
        if address in routes
    }
    accepted = _accepted(Table.of(spare), maps[RECIPIENTS], maps[ALIASES])
    return routes.without(spare.keys() - accepted.keys())


def _accepted(routes: Table[str], recipients: Table[str], aliases: Table[str]) -> Table[str]:
    """Return the routes that are needed: those of recipients, and of what aliases lead to."""
    return routes.common(recipients) | routes.common(Aliases.of(aliases).targets())


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
