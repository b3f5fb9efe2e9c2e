"""Sources that are replicas on one database: one party, with the next hops of all. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from postfix_sync.mailman.addresses import addresses_of, destinations_of, lists_of
from postfix_sync.model import Destination, MailmanTables, Table
from postfix_sync.postfix.next_hop import parse_next_hops, render_next_hops


@dataclass(frozen=True)
class Ranking:
    """Which destinations of a cluster have a failure, by their endpoints."""

    last: AbstractSet[str] = frozenset()
    """Those that are down: to be tried last."""
    nameless: AbstractSet[str] = frozenset()
    """Those whose names have no address. As the last of several next hops, such a name bounces
    mail that is deferred for the others; in any other place Postfix passes it over, so they are
    first."""


@dataclass(frozen=True)
class Party:
    """One Mailman, or several replicas of one, and the tables that are served for it."""

    name: str
    tables: MailmanTables
    replicas: Mapping[Destination, str] = field(default_factory=dict)
    """Of a cluster, each destination with a list that it must know."""


def united_tables(tables: Sequence[MailmanTables]) -> MailmanTables:
    """Return all entries; those of an earlier table win."""
    if len(tables) == 1:
        return tables[0]
    united = MailmanTables({}, {}, {})
    for one in reversed(tables):
        united = MailmanTables(
            {**united.routes, **one.routes},
            {**united.domains, **one.domains},
            {**united.aliases, **one.aliases},
        )
    return united


def by_list(routes: Mapping[str, object]) -> dict[str, str]:
    """Map each address to its list; if two lists share one, to the list that has it as its name."""
    lists = lists_of(routes)
    found = {address: name for name in sorted(lists) for address in addresses_of(name)}
    return {**found, **{name: name for name in lists}}


def cluster_party(
    name: str, shares: Sequence[MailmanTables], ranking: Ranking, several_hops: bool
) -> Party:
    """Make one party of replicas: each address is routed to all that have it."""
    routes: dict[str, str] = {}
    hops: dict[str, set[Destination]] = {}
    for share in shares:
        for address, value in share.routes.items():
            hops.setdefault(address, set()).update(parse_next_hops(value))
    orders: dict[tuple[str, frozenset[Destination]], str] = {}
    for address, list_name in by_list(hops).items():
        order = (list_name, frozenset(hops[address]))
        if order not in orders:
            tried = _ordered(*order, ranking)
            orders[order] = render_next_hops(tried if several_hops else tried[:1])
        routes[address] = orders[order]
    united = united_tables(shares)
    replicas = {
        destination: lists[0]
        for share in reversed(shares)
        for destination, lists in destinations_of(share.routes).items()
    }
    return Party(name, MailmanTables(routes, united.domains, united.aliases), replicas)


def _ordered(
    name: str, destinations: AbstractSet[Destination], ranking: Ranking
) -> list[Destination]:
    """Order a list's destinations as they are tried: the same at every sync and on every host."""

    def rank(one: Destination) -> tuple[int, bytes]:
        group = 0 if one.endpoint in ranking.nameless else 2 if one.endpoint in ranking.last else 1
        return group, hashlib.sha256(f"{name} {one.endpoint}".encode()).digest()

    return sorted(destinations, key=rank)


def reordered(
    routes: Table,
    clusters: Mapping[str, AbstractSet[Destination]],
    rankings: Mapping[str, Ranking],
) -> Table:
    """Order the next hops of a generation's routes as they are tried now.

    `clusters` are the current ones with their members; a route to others keeps its order.
    """
    if not clusters:
        return routes
    hops = {value: frozenset(parse_next_hops(value)) for value in set(routes.values())}
    several = {address: hops[value] for address, value in routes.items() if len(hops[value]) > 1}
    found = dict(routes)
    orders: dict[tuple[str, frozenset[Destination]], str] = {}
    for address, list_name in by_list(several).items():
        order = (list_name, several[address])
        if order not in orders:
            known = (one for one, members in clusters.items() if not members.isdisjoint(order[1]))
            cluster = next(known, None)
            ranking = rankings.get(cluster, Ranking()) if cluster else None
            tried = _ordered(*order, ranking) if ranking else parse_next_hops(routes[address])
            orders[order] = render_next_hops(tried)
        found[address] = orders[order]
    return found
