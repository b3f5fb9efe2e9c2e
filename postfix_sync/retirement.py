"""What is not needed any more, and stays until nobody can remember it. Pure.

A sync takes no route and no host name away: mail that was accepted before may still need them. It
notes since when they are not needed. They go later, by themselves: a route when its list has not
been accepted for ROUTE_KEPT, no smtpd(8) from before is left, and no recipient of it is in the
queue; a host name when no route has led to it for NAME_KEPT. Mail that was deferred for the old
destination of a list that has moved is handed to Postfix for another try.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from postfix_sync.merge import host_names
from postfix_sync.model import ALIASES, RECIPIENTS, ROUTES, Desired, Installed, Maps, Table
from postfix_sync.plan import Plan
from postfix_sync.queue import Queued, without_extensions
from postfix_sync.tables import Fold, addresses_of, lists_of
from postfix_sync.visibility import moved_addresses

ROUTE_KEPT = 60.0
"""Seconds in which a removed list may come back without another change of the routes."""

NAME_KEPT = 600.0
"""Seconds: longer than qmgr(8) keeps a message in the active queue without resolving it again."""

MOVED_FOR = 60.0
"""Seconds after a move in which mail may still be deferred by a try at the old destination."""


@dataclass(frozen=True)
class Retiring:
    """What is kept for a while, each with when it was noted, in seconds since the epoch."""

    routes: Mapping[str, float] = field(default_factory=dict)
    """By list, or by address where it is part of none, routes that no accepted address needs."""
    names: Mapping[str, float] = field(default_factory=dict)
    """Names in our block of the hosts file that are not wanted there."""
    moved: Mapping[str, float] = field(default_factory=dict)
    """By list, those whose next hop has changed."""

    def __bool__(self) -> bool:
        return bool(self.routes or self.names or self.moved)

    def due_routes(self, now: float, oldest: float) -> AbstractSet[str]:
        """Find the lists whose routes may go if nothing in the queue needs them.

        `oldest` is for how many seconds the oldest smtpd(8) has been running: one from before may
        be taking a message, and one that has tables from before accepts more of them.
        """
        return _older(self.routes, now - max(ROUTE_KEPT, oldest))

    def due_names(self, now: float) -> AbstractSet[str]:
        """Find the host names that may go if no route leads to them."""
        return _older(self.names, now - NAME_KEPT)

    def without(self, routes: AbstractSet[str], names: AbstractSet[str], now: float) -> "Retiring":
        """Take out what has been retired, and the moves that are long over."""
        return Retiring(
            {name: at for name, at in self.routes.items() if name not in routes},
            {name: at for name, at in self.names.items() if name not in names},
            {name: at for name, at in self.moved.items() if now - MOVED_FOR < at},
        )


def noted(
    old: Retiring, plan: Plan, installed: Installed, desired: Desired, now: float
) -> Retiring:
    """Note what a plan leaves beyond what is desired, and since when that is not needed.

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
    """Name addresses by their lists, and those that are no whole list by themselves."""
    known = frozenset(addresses)
    lists = lists_of(known)
    return lists | known.difference(*map(addresses_of, lists)) if known else known


def narrowed(maps: Maps, due: AbstractSet[str], queued: AbstractSet[str]) -> Table:
    """Take the routes of the lists in `due` out, but for what is accepted or queued.

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
    """When each was noted first; on a clock that was set back, now."""
    return {name: min(old.get(name, now), now) for name in sorted(present)}


def _older(noted: Mapping[str, float], limit: float) -> AbstractSet[str]:
    return {name for name, at in noted.items() if at <= limit}
