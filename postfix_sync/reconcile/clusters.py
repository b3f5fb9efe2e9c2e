"""Sources that are replicas on one database: one party, with the next hops of all. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from postfix_sync.model.destination import Destination
from postfix_sync.model.list_addresses import list_with
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import destinations_of, parse_next_hops, render_next_hops


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
    united = MailmanTables.of({}, {}, {})
    for one in reversed(tables):
        united = MailmanTables(
            united.routes | one.routes,
            {**united.domains, **one.domains},
            united.aliases | one.aliases,
        )
    return united


def list_of(address: str, lists: AbstractSet[str]) -> str:
    """Return the list that has an address; if two share it, the one that has it as its name.

    Return the address itself if none of `lists` has it.
    """
    name = list_with(address)
    return name if name in lists and address not in lists else address


def cluster_party(
    name: str, shares: Sequence[MailmanTables], ranking: Ranking, several_hops: bool
) -> Party:
    """Make one party of replicas: each list is routed to all that have it."""
    hops: dict[str, set[Destination]] = {}
    for share in shares:
        for unit in share.routes.units():
            hops.setdefault(unit, set()).update(parse_next_hops(share.routes[unit]))
    names = frozenset[str]().union(*(share.routes.names() for share in shares))
    lists: dict[str, str] = {}
    parts: dict[str, str] = {}
    for unit, destinations in hops.items():
        tried = _ordered(list_of(unit, names), destinations, ranking)
        value = render_next_hops(tried if several_hops else tried[:1])
        (lists if unit in names else parts)[unit] = value
    united = united_tables(shares)
    replicas = {
        destination: known[0]
        for share in reversed(shares)
        for destination, known in destinations_of(share.routes).items()
    }
    return Party(name, replace(united, routes=Table.of_lists(lists, parts)), replicas)


def _ordered(
    name: str, destinations: AbstractSet[Destination], ranking: Ranking
) -> list[Destination]:
    """Order a list's destinations as they are tried: the same at every sync and on every host."""

    def rank(one: Destination) -> tuple[int, bytes]:
        group = 0 if one.endpoint in ranking.nameless else 2 if one.endpoint in ranking.last else 1
        return group, hashlib.sha256(f"{name} {one.endpoint}".encode()).digest()

    return sorted(destinations, key=rank)


def reordered(
    routes: Table[str],
    clusters: Mapping[str, AbstractSet[Destination]],
    rankings: Mapping[str, Ranking],
) -> Table[str]:
    """Order the next hops of a generation's routes as they are tried now.

    `clusters` are the current ones with their members; a route to others keeps its order.
    """
    if not clusters:
        return routes
    lists = routes.names()

    def order(key: str, value: str) -> str:
        hops = frozenset(parse_next_hops(value))
        known = (one for one, members in clusters.items() if not members.isdisjoint(hops))
        cluster = next(known, None)
        if len(hops) < 2 or cluster is None:
            return value
        ranking = rankings.get(cluster, Ranking())
        return render_next_hops(_ordered(list_of(key, lists), hops, ranking))

    return Table.of_lists(
        {name: order(name, value) for name, value in routes.lists.items()},
        {key: order(key, value) for key, value in routes.others.items()},
    )
