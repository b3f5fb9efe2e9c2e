"""Several Mailmans, one set of maps: who has which list, and the routes to replicas. Pure.

Sources that name the same cluster are one party: replicas on one database, any of which can take a
message. Every other source is a party of its own. An address belongs to one party. Where two want
it, the one that had it keeps it; the other's list is left out, whole, and named.

What comes out depends on what is known of the sources and on their order in the configuration, not
on which of them answered first, and routes an address to nobody but sources that name it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

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
)
from postfix_sync.tables import (
    addresses_of,
    domain_of,
    lists_of,
    next_hops_of,
    parse_next_hops,
    render_next_hops,
)


@dataclass(frozen=True)
class Ranking:
    """What is known to be wrong with destinations of a cluster: their endpoints."""

    last: AbstractSet[str] = frozenset()
    """To be tried last: they are down."""
    out: AbstractSet[str] = frozenset()
    """Not to be tried: they have no address. As the last of several, such a name bounces mail that
    waits for the others, where it would do no harm in any other place."""


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

    def had(self, name: str) -> bool:
        """Whether this list was served for this source before."""
        before = self.before
        return before is not None and name in before.tables.routes and name not in before.left_out


@dataclass(frozen=True)
class Party:
    """One Mailman, or several replicas of one, and what is served for it."""

    name: str
    tables: MailmanTables
    destinations: frozenset[Destination]
    is_cluster: bool


@dataclass(frozen=True)
class Merged:
    """What is served for all of them."""

    parties: tuple[Party, ...]
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By source, its lists that are left out, each with the name of the party that has it."""

    @property
    def tables(self) -> MailmanTables:
        """All parties' tables in one; where two name a domain, the first one's value counts."""
        shares = [party.tables for party in reversed(self.parties)]
        return MailmanTables(
            routes=_united(share.routes for share in shares),
            domains=_united(share.domains for share in shares),
            aliases=_united(share.aliases for share in shares),
        )


def _united(tables: Iterable[Table]) -> Table:
    """All entries, those of a later table winning."""
    united: dict[str, str] = {}
    for table in tables:
        united.update(table)
    return united


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
    found = []
    for party, members in parties.items():
        out = lost.get(party, {})
        for member in members:
            names = out.keys() & member.record.tables.routes.keys()
            left_out[member.source] = {name: out[name] for name in sorted(names)}
        shares = [without(member.record.tables, out.keys()) for member in members]
        is_cluster = party[0] == "cluster"
        ranking = rankings.get(party[1], Ranking())
        tables = _replicated(shares, ranking, several_hops) if is_cluster else shares[0]
        hops = frozenset(hop for share in shares for hop in next_hops_of(share.routes))
        found.append(Party(party[1], tables, hops, is_cluster))
    return Merged(tuple(found), left_out)


def _conflicts(
    parties: Mapping[tuple[str, str], Sequence[Claim]],
) -> dict[tuple[str, str], dict[str, str]]:
    """By party, its lists that another party has, each with that one's name."""
    contested = _contested(parties)
    if not contested:
        return {}
    wanted = []
    for number, (party, members) in enumerate(parties.items()):
        for name, addresses in _claimed(members, contested).items():
            had = any(member.had(name) for member in members)
            wanted.append((not had, number, name, party, addresses))
    owners: dict[str, tuple[str, str]] = {}
    lost: dict[tuple[str, str], dict[str, str]] = {}
    for *_, name, party, addresses in sorted(wanted):
        others = sorted({owners[one][1] for one in addresses if owners.get(one, party) != party})
        if others:
            lost.setdefault(party, {})[name] = others[0]
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


def _claimed(members: Iterable[Claim], contested: AbstractSet[str]) -> dict[str, tuple[str, ...]]:
    """A party's lists that touch contested addresses, each with all that it takes, aliases too."""
    found: dict[str, set[str]] = {}
    for member in members:
        tables = member.record.tables
        for name in lists_of(tables.routes):
            found.setdefault(name, set()).update(addresses_of(name))
        aliased = _by_list(tables.routes)
        for key, value in tables.aliases.items():
            found[aliased[value]].add(key)  # read_tables() lets no alias pass without its list
    return {
        name: tuple(sorted(addresses))
        for name, addresses in found.items()
        if not contested.isdisjoint(addresses)
    }


def _by_list(routes: Iterable[str]) -> dict[str, str]:
    """The list of each address; of two lists that share one, that whose name it is."""
    lists = lists_of(routes)
    found = {address: name for name in sorted(lists) for address in addresses_of(name)}
    return {**found, **{name: name for name in lists}}


def without(tables: MailmanTables, lists: AbstractSet[str]) -> MailmanTables:
    """A source's tables without some of its lists."""
    if not lists:
        return tables
    kept = {one for name in lists_of(tables.routes) - lists for one in addresses_of(name)}
    routes = {key: value for key, value in tables.routes.items() if key in kept}
    list_of = _by_list(tables.routes)
    aliases = {key: value for key, value in tables.aliases.items() if list_of[value] not in lists}
    used = {domain_of(address) for address in routes}
    domains = {key: value for key, value in tables.domains.items() if key in used}
    return MailmanTables(routes, domains, aliases)


def _replicated(
    shares: Sequence[MailmanTables], ranking: Ranking, several_hops: bool
) -> MailmanTables:
    """The tables of replicas in one: each address is routed to all that know it."""
    routes: dict[str, str] = {}
    hops: dict[str, set[Destination]] = {}
    for share in shares:
        for address, value in share.routes.items():
            hops.setdefault(address, set()).update(parse_next_hops(value))
    orders: dict[tuple[str, frozenset[Destination]], str] = {}
    for address, name in _by_list(hops).items():
        order = (name, frozenset(hops[address]))
        if order not in orders:
            tried = _ordered(*order, ranking)
            orders[order] = render_next_hops(tried if several_hops else tried[:1])
        routes[address] = orders[order]
    return MailmanTables(
        routes=routes,
        domains=_united(share.domains for share in reversed(shares)),
        aliases=_united(share.aliases for share in reversed(shares)),
    )


def _ordered(
    name: str, destinations: AbstractSet[Destination], ranking: Ranking
) -> list[Destination]:
    """The order in which a list's destinations are tried: its own, always the same."""
    usable = {one for one in destinations if one.endpoint not in ranking.out} or destinations

    def rank(one: Destination) -> tuple[bool, bytes]:
        own = hashlib.sha256(f"{name} {one.endpoint}".encode()).digest()
        return one.endpoint in ranking.last, own

    return sorted(usable, key=rank)


@dataclass(frozen=True)
class Clash:
    """A host name that has one address by one source, and another by another."""

    host: str
    address: str
    source: str
    """Whose address it keeps."""


def host_addresses(
    claims: Sequence[Claim], addresses: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Clash]]:
    """The host names of the sources that have an address, and by source, what it clashes with.

    A name can have one address only: it keeps that of the source that named it first.
    """
    wanted = [
        (not _had_host(claim, host), number, host)
        for number, claim in enumerate(claims)
        if claim.source in addresses
        for host in host_names(claim.record.tables.routes)
    ]
    owners: dict[str, str] = {}
    clashes: dict[str, Clash] = {}
    for _, number, host in sorted(wanted):
        source = claims[number].source
        owner = owners.setdefault(host, source)
        if addresses[owner] != addresses[source]:
            clashes.setdefault(source, Clash(host, addresses[owner], owner))
    return {host: addresses[owner] for host, owner in owners.items()}, clashes


def _had_host(claim: Claim, host: str) -> bool:
    before = claim.before
    return before is not None and host in host_names(before.tables.routes)


def host_names(routes: Table) -> set[str]:
    """The host names, not addresses, that routes lead to."""
    return {hop.host for hop in next_hops_of(routes) if hop.is_name}


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
    used = {domain_of(address) for address in kept[RECIPIENTS]}
    kept[DOMAINS] = {
        key: value
        for key, value in installed[DOMAINS].items()
        if key in used or key in kept[DOMAINS]
    }
    kept[ALIASES] = {k: v for k, v in kept[ALIASES].items() if k not in maps[ROUTES]}
    return Maps({name: {**kept[name], **maps[name]} for name in MAP_NAMES})
