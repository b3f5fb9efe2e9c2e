"""Several Mailmans, one set of maps: who has which list, and the routes to replicas. Pure.

Sources that name the same cluster are one party: replicas on one database, any of which can take a
message. Every other source is a party of its own. An address belongs to one party. Where two want
it, the one that had it keeps it; the other's list is left out, whole, and named.

What comes out depends on what is known of the sources and on their order in the configuration, not
on which of them answered first, and routes an address to nobody but sources that name it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from postfix_sync.mailman.addresses import addresses_of, destinations_of, lists_of
from postfix_sync.model import (
    ALIASES,
    DOMAINS,
    MAP_NAMES,
    RECIPIENTS,
    ROUTES,
    Destination,
    MailmanTables,
    Maps,
    Record,
    Table,
    domain_of,
)
from postfix_sync.postfix.next_hop import host_names, parse_next_hops, render_next_hops

NOTHING = MailmanTables({}, {}, {})


@dataclass(frozen=True)
class Ranking:
    """What is known to be wrong with destinations of a cluster: their endpoints."""

    last: AbstractSet[str] = frozenset()
    """To be tried last: they are down."""
    nameless: AbstractSet[str] = frozenset()
    """Their names have no address. As the last of several next hops, such a name bounces mail that
    waits for the others; in any other place Postfix passes it over, so they come first."""


@dataclass(frozen=True)
class Claim:
    """What one source asks for, and what was known of it before."""

    source: str
    cluster: str | None
    record: Record
    before: Record | None = None

    @property
    def party(self) -> tuple[str, str]:
        """Whom it shares its lists with: nobody, or its cluster."""
        return ("cluster", self.cluster) if self.cluster else ("source", self.source)

    @property
    def served_before(self) -> MailmanTables:
        """What was served for it until now."""
        if not self.before:
            return NOTHING
        return without(self.before.tables, self.before.left_out)


@dataclass(frozen=True)
class Party:
    """One Mailman, or several replicas of one, and what is served for it."""

    name: str
    tables: MailmanTables
    replicas: Mapping[Destination, str] = field(default_factory=dict)
    """Of a cluster, each destination with a list that it must know."""


@dataclass(frozen=True)
class Merged:
    """What is served for all of them."""

    parties: tuple[Party, ...]
    tables: MailmanTables
    """All parties' tables in one; where two name a domain, the first one's value counts."""
    shares: Mapping[str, MailmanTables]
    """By source, what is served of its own tables."""
    left_out: Mapping[str, Mapping[str, str]]
    """By source, its lists and aliases that are not, each with the name of who has it."""


def merge(
    claims: Sequence[Claim],
    rankings: Mapping[str, Ranking],
    *,
    several_hops: bool,
) -> Merged:
    """What is served for all sources; `claims` are in the configuration's order.

    `rankings` are the clusters'. Without `several_hops` a route leads to the first destination
    only: Postfix before 3.5 would take several for one.
    """
    parties: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        parties.setdefault(claim.party, []).append(claim)
    lost = _conflicts(parties)
    left_out: dict[str, dict[str, str]] = {}
    shares: dict[str, MailmanTables] = {}
    found = []
    for party, members in parties.items():
        out = lost.get(party, {})
        for member in members:
            tables = member.record.tables
            names = out.keys() & (tables.routes.keys() | tables.aliases.keys())
            left_out[member.source] = {name: out[name] for name in sorted(names)}
            shares[member.source] = without(tables, names)
        own = [shares[member.source] for member in members]
        if party[0] == "cluster":
            found.append(_cluster(party[1], own, rankings.get(party[1], Ranking()), several_hops))
        else:
            found.append(Party(party[1], own[0]))
    return Merged(tuple(found), _united([party.tables for party in found]), shares, left_out)


def _united(tables: Sequence[MailmanTables]) -> MailmanTables:
    """All entries, those of an earlier table winning."""
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


def _conflicts(
    parties: Mapping[tuple[str, str], Sequence[Claim]],
) -> dict[tuple[str, str], dict[str, str]]:
    """By party, its lists and aliases that another party has, each with that one's name."""
    contested = _contested(parties)
    if not contested:
        return {}
    wanted: list[tuple[bool, int, _Unit, tuple[str, str]]] = []
    for number, (party, members) in enumerate(parties.items()):
        before = _united([member.served_before for member in members])
        wanted += [
            (not unit.is_in(before), number, unit, party) for unit in _units(members, contested)
        ]
    owners: dict[str, tuple[str, str]] = {}
    lost: dict[tuple[str, str], dict[str, str]] = {}
    for _, _, unit, party in sorted(wanted):
        out = lost.setdefault(party, {})
        if unit.leads_to and out.keys() >= {*unit.leads_to}:
            continue  # aliases go with the list that they lead to
        addresses = list(addresses_of(unit.name))
        others = sorted({owners[one][1] for one in addresses if owners.get(one, party) != party})
        if others:
            out[unit.name] = others[0]
        else:
            owners.update(dict.fromkeys(addresses, party))
    return lost


def _contested(parties: Mapping[tuple[str, str], Sequence[Claim]]) -> set[str]:
    """The addresses that more than one party names."""
    seen: set[str] = set()
    twice: set[str] = set()
    for members in parties.values() if len(parties) > 1 else ():
        named = {
            address
            for member in members
            for table in (member.record.tables.routes, member.record.tables.aliases)
            for address in table
        }
        twice |= seen & named
        seen |= named
    return twice


class _Unit(NamedTuple):
    """Nine addresses that stand or fall together: a list, or the aliases of one."""

    leads_to: tuple[str, ...]
    """The lists that they are aliases of; none for a list: lists are sorted before aliases."""
    name: str

    def is_in(self, tables: MailmanTables) -> bool:
        """Whether it is all there, and where it leads to as well."""
        table = tables.aliases if self.leads_to else tables.routes
        lists = [one for name in self.leads_to for one in addresses_of(name)]
        return table.keys() >= {*addresses_of(self.name)} and tables.routes.keys() >= {*lists}


def _units(members: Iterable[Claim], contested: AbstractSet[str]) -> Iterator[_Unit]:
    """A party's lists, and its lists' aliases, that touch contested addresses."""
    lists: set[str] = set()
    aliases: dict[str, set[str]] = {}
    for member in members:
        tables = member.record.tables
        lists |= lists_of(tables.routes)
        for name in lists_of(tables.aliases):
            # read_tables() lets no alias pass that leads to another part of a list.
            aliases.setdefault(name, set()).add(tables.aliases[name])
    for name in lists:
        if not contested.isdisjoint(addresses_of(name)):
            yield _Unit((), name)
    for name, leads_to in aliases.items():
        if not contested.isdisjoint(addresses_of(name)):
            yield _Unit(tuple(sorted(leads_to)), name)


def _by_list(routes: Mapping[str, object]) -> dict[str, str]:
    """The list of each address; of two lists that share one, that whose name it is."""
    lists = lists_of(routes)
    found = {address: name for name in sorted(lists) for address in addresses_of(name)}
    return {**found, **{name: name for name in lists}}


def without(tables: MailmanTables, names: AbstractSet[str]) -> MailmanTables:
    """A source's tables without some of its lists, and without the aliases of some."""
    if not names:
        return tables
    kept = {one for name in lists_of(tables.routes) - names for one in addresses_of(name)}
    routes = {key: value for key, value in tables.routes.items() if key in kept}
    list_of, alias_of = _by_list(tables.routes), _by_list(tables.aliases)
    aliases = {
        key: value
        for key, value in tables.aliases.items()
        if alias_of.get(key, key) not in names and list_of.get(value, value) not in names
    }
    used = {domain_of(address) for address in routes}
    domains = {key: value for key, value in tables.domains.items() if key in used}
    return MailmanTables(routes, domains, aliases)


def _cluster(
    name: str, shares: Sequence[MailmanTables], ranking: Ranking, several_hops: bool
) -> Party:
    """Replicas in one: each address is routed to all that know it."""
    routes: dict[str, str] = {}
    hops: dict[str, set[Destination]] = {}
    for share in shares:
        for address, value in share.routes.items():
            hops.setdefault(address, set()).update(parse_next_hops(value))
    orders: dict[tuple[str, frozenset[Destination]], str] = {}
    for address, list_name in _by_list(hops).items():
        order = (list_name, frozenset(hops[address]))
        if order not in orders:
            tried = _ordered(*order, ranking)
            orders[order] = render_next_hops(tried if several_hops else tried[:1])
        routes[address] = orders[order]
    united = _united(shares)
    replicas = {
        destination: lists[0]
        for share in reversed(shares)
        for destination, lists in destinations_of(share.routes).items()
    }
    return Party(name, MailmanTables(routes, united.domains, united.aliases), replicas)


def _ordered(
    name: str, destinations: AbstractSet[Destination], ranking: Ranking
) -> list[Destination]:
    """The order in which a list's destinations are tried: its own, always the same."""

    def rank(one: Destination) -> tuple[int, bytes]:
        group = 0 if one.endpoint in ranking.nameless else 2 if one.endpoint in ranking.last else 1
        return group, hashlib.sha256(f"{name} {one.endpoint}".encode()).digest()

    return sorted(destinations, key=rank)


def reordered(
    routes: Table,
    clusters: Mapping[str, AbstractSet[Destination]],
    rankings: Mapping[str, Ranking],
) -> Table:
    """Routes of an earlier time, their next hops in the order in which they are tried today.

    `clusters` are today's, with their members; what was a cluster of others keeps its order.
    """
    if not clusters:
        return routes
    hops = {value: frozenset(parse_next_hops(value)) for value in set(routes.values())}
    several = {address: hops[value] for address, value in routes.items() if len(hops[value]) > 1}
    found = dict(routes)
    orders: dict[tuple[str, frozenset[Destination]], str] = {}
    for address, list_name in _by_list(several).items():
        order = (list_name, several[address])
        if order not in orders:
            known = (one for one, members in clusters.items() if not members.isdisjoint(order[1]))
            cluster = next(known, None)
            ranking = rankings.get(cluster, Ranking()) if cluster else None
            tried = _ordered(*order, ranking) if ranking else parse_next_hops(routes[address])
            orders[order] = render_next_hops(tried)
        found[address] = orders[order]
    return found


@dataclass(frozen=True)
class Clash:
    """A host name that leads elsewhere by one source than by another."""

    host: str
    address: str | None
    """What it has by the source that named it first; None: what the resolver says."""
    source: str


def host_addresses(
    claims: Sequence[Claim], addresses: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Clash]]:
    """The host names of the sources that have an address, and by source, what it clashes with.

    A name leads to one place only: as the source says that named it first, be it with an address
    or without. Another one's mail would go to the wrong Mailman.
    """
    had = [host_names(claim.served_before.routes) for claim in claims]
    wanted = [
        (host not in had[number], number, host)
        for number, claim in enumerate(claims)
        for host in host_names(claim.record.tables.routes)
    ]
    owners: dict[str, str] = {}
    clashes: dict[str, Clash] = {}
    for _, number, host in sorted(wanted):
        source = claims[number].source
        owner = owners.setdefault(host, source)
        if addresses.get(owner) != addresses.get(source):
            clashes.setdefault(source, Clash(host, addresses.get(owner), owner))
    names = {host: addresses[owner] for host, owner in owners.items() if owner in addresses}
    return names, clashes


def held_back(maps: Maps, installed: Maps, keys: AbstractSet[str]) -> Maps:
    """`maps` without any change for some addresses: they are as installed, or not there. Pure.

    Aliases of these addresses and domains that nothing else needs are held back with them.
    """
    kept = {
        name: {
            **{key: value for key, value in maps[name].items() if key not in keys},
            **{key: value for key, value in installed[name].items() if key in keys},
        }
        for name in (ROUTES, RECIPIENTS)
    }
    kept[ALIASES] = {
        **{key: value for key, value in maps[ALIASES].items() if value not in keys},
        **{
            key: value
            for key, value in installed[ALIASES].items()
            if value in keys & kept[ROUTES].keys() and key not in kept[ROUTES]
        },
    }
    used = {domain_of(key) for name in (RECIPIENTS, ALIASES) for key in kept[name]}
    gone = {domain_of(key) for name in (RECIPIENTS, ALIASES) for key in maps[name]} - used
    kept[DOMAINS] = {
        **{key: value for key, value in installed[DOMAINS].items() if key in used},
        **{key: value for key, value in maps[DOMAINS].items() if key not in gone},
    }
    return Maps({name: kept[name] for name in MAP_NAMES})


def with_unclaimed(maps: Maps, installed: Maps, known: Iterable[MailmanTables]) -> Maps:
    """`maps`, and what is installed that is in none of `known`: nobody can be said to drop it."""
    claimed = [*known]
    kept = {
        name: {
            key: value
            for key, value in installed[name].items()
            if not any(tables.names(key) for tables in claimed)
        }
        for name in MAP_NAMES
    }
    # Routes of removed lists are kept without this, and are nobody's to want.
    needed = kept[RECIPIENTS].keys() | set(kept[ALIASES].values())
    kept[ROUTES] = {key: value for key, value in kept[ROUTES].items() if key in needed}
    used = {domain_of(address) for name in (RECIPIENTS, ALIASES) for address in kept[name]}
    kept[DOMAINS] = {
        key: value
        for key, value in installed[DOMAINS].items()
        if key in used or key in kept[DOMAINS]
    }
    kept[ALIASES] = {k: v for k, v in kept[ALIASES].items() if k not in maps[ROUTES]}
    return Maps({name: {**kept[name], **maps[name]} for name in MAP_NAMES})
