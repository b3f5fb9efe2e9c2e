"""Merge several Mailmans into one set of maps: who has which list, routes to replicas. Pure.

Sources that name the same cluster are one party: replicas on one database, any of which can take a
message. Every other source is a party of its own. An address belongs to one party. If two claim it,
the one that had it keeps it; the other's list is left out, whole, and reported.

The result depends on the sources' lists and on their order in the configuration, not on which of
them answered first, and routes an address only to sources that claim it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.source import MailmanTables, Record
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import host_names
from postfix_sync.reconcile.clusters import Party, Ranking, cluster_party, list_of, united_tables

NOTHING = MailmanTables.of({}, {}, {})


@dataclass(frozen=True)
class Claim:
    """The lists that one source claims, and its last good ones."""

    source: str
    cluster: str | None
    record: Record
    before: Record | None = None

    @property
    def party(self) -> tuple[str, str]:
        """The cluster that it shares its lists with, or itself."""
        return ("cluster", self.cluster) if self.cluster else ("source", self.source)

    @property
    def served_before(self) -> MailmanTables:
        """The tables that were served for it until now."""
        if not self.before:
            return NOTHING
        return without(self.before.tables, self.before.left_out)


@dataclass(frozen=True)
class Merged:
    """The tables that are served for all parties."""

    parties: tuple[Party, ...]
    tables: MailmanTables
    """All parties' tables in one; if two have a domain, the first party's value counts."""
    shares: Mapping[str, MailmanTables]
    """By source, what is served of its own tables."""
    left_out: Mapping[str, Mapping[str, str]]
    """By source, its lists and aliases that are not served, each with the party that has it."""


def merge(
    claims: Sequence[Claim],
    rankings: Mapping[str, Ranking],
    *,
    several_hops: bool,
) -> Merged:
    """Merge the claims of all sources, which are in the configuration's order.

    `rankings` are by cluster. Without `several_hops` a route leads to the first destination only:
    Postfix before 3.5 reads several next hops as one.
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
            names = {name for name in out if name in tables.routes or name in tables.aliases}
            left_out[member.source] = {name: out[name] for name in sorted(names)}
            shares[member.source] = without(tables, names)
        own = [shares[member.source] for member in members]
        if party[0] == "cluster":
            found.append(
                cluster_party(party[1], own, rankings.get(party[1], Ranking()), several_hops)
            )
        else:
            found.append(Party(party[1], own[0]))
    return Merged(tuple(found), united_tables([party.tables for party in found]), shares, left_out)


def _conflicts(
    parties: Mapping[tuple[str, str], Sequence[Claim]],
) -> dict[tuple[str, str], dict[str, str]]:
    """Return by party its lists and aliases that another party has, each with that party's name."""
    contested = _contested(parties)
    if not contested:
        return {}
    wanted: list[tuple[bool, int, _Unit, tuple[str, str]]] = []
    for number, (party, members) in enumerate(parties.items()):
        before = united_tables([member.served_before for member in members])
        wanted += [
            (not unit.is_in(before), number, unit, party) for unit in _units(members, contested)
        ]
    owners: dict[str, tuple[str, str]] = {}
    lost: dict[tuple[str, str], dict[str, str]] = {}
    for _, _, unit, party in sorted(wanted):
        out = lost.setdefault(party, {})
        if unit.leads_to and out.keys() >= {*unit.leads_to}:
            continue  # aliases are left out with the list that they lead to
        addresses = list(addresses_of(unit.name))
        others = sorted({owners[one][1] for one in addresses if owners.get(one, party) != party})
        if others:
            out[unit.name] = others[0]
        else:
            owners.update(dict.fromkeys(addresses, party))
    return lost


def _contested(parties: Mapping[tuple[str, str], Sequence[Claim]]) -> Table[str]:
    """Return the addresses that more than one party claims."""
    seen = twice = Table[str].of({})
    for members in parties.values() if len(parties) > 1 else ():
        claimed = seen
        for member in members:
            for table in (member.record.tables.routes, member.record.tables.aliases):
                named = table.with_value("")
                twice |= named.common(seen)
                claimed |= named
        seen = claimed
    return twice


class _Unit(NamedTuple):
    """Nine addresses that are served together or not at all: a list, or the aliases of one."""

    leads_to: tuple[str, ...]
    """The lists that they are aliases of; none for a list: lists are sorted before aliases."""
    name: str

    def is_in(self, tables: MailmanTables) -> bool:
        """Check whether all its addresses are in `tables`, and those that they lead to."""
        table = tables.aliases if self.leads_to else tables.routes
        lists = [address for name in self.leads_to for address in addresses_of(name)]
        return all(address in table for address in addresses_of(self.name)) and all(
            address in tables.routes for address in lists
        )


def _units(members: Iterable[Claim], contested: Table[str]) -> Iterator[_Unit]:
    """Yield a party's lists and aliases that have a contested address."""
    lists: set[str] = set()
    aliases: dict[str, set[str]] = {}
    for member in members:
        tables = member.record.tables
        lists |= tables.routes.names()
        for name in tables.aliases.names():
            # read_tables() refuses an alias that leads to another part of a list.
            aliases.setdefault(name, set()).add(tables.aliases[name])
    for name in lists:
        if any(address in contested for address in addresses_of(name)):
            yield _Unit((), name)
    for name, leads_to in aliases.items():
        if any(address in contested for address in addresses_of(name)):
            yield _Unit(tuple(sorted(leads_to)), name)


def without(tables: MailmanTables, names: AbstractSet[str]) -> MailmanTables:
    """Remove some lists, and their aliases, from a source's tables."""
    if not names:
        return tables
    lists = tables.routes.names()

    def is_kept(alias: str) -> bool:
        return alias not in names and list_of(tables.aliases[alias], lists) not in names

    routes = tables.routes.of_units(lists - names)
    aliases = tables.aliases.of_units(filter(is_kept, tables.aliases.units()))
    used = routes.domains()
    domains = {key: value for key, value in tables.domains.items() if key in used}
    return MailmanTables(routes, domains, aliases)


@dataclass(frozen=True)
class Clash:
    """A host name to which two sources give different addresses."""

    host: str
    address: str | None
    """Its address by the source that named it first; None: the resolver's."""
    source: str


def host_addresses(
    claims: Sequence[Claim], addresses: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Clash]]:
    """Return the sources' host names with their addresses, and the clashes by source.

    A name has one address only, or none, as the source says that named it first. Mail of another
    source would go to the wrong Mailman.
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
