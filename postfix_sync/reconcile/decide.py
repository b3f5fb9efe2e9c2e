"""Stage 3: compute the desired maps from the sources' answers. Pure.

Each source is judged by itself. A source that is out of reach, invalid or refused by a guard keeps
its last good lists, and does not affect the others. As long as a source has not answered, a list is
removed only if it is known to be another source's: it might be that source's.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from postfix_sync.containers.relocate import by_address, unpublished
from postfix_sync.errors import Refused, SyncError
from postfix_sync.mailman.entries import REFUSED
from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import Installed
from postfix_sync.model.map_names import RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import Record
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import host_names, next_hops_of
from postfix_sync.reconcile.changes import named
from postfix_sync.reconcile.clusters import Ranking
from postfix_sync.reconcile.guard import guard, reached
from postfix_sync.reconcile.merge import Claim, Clash, Merged, host_addresses, merge
from postfix_sync.reconcile.partial_maps import with_unclaimed
from postfix_sync.reconcile.source_input import SourceInput


@dataclass(frozen=True)
class Allowed:
    """Which routes are possible on this host."""

    several_hops: bool = True
    """See `merge`."""
    by_name: Callable[[str], bool] = lambda _: True
    """Which host names routes may have; others are replaced by their addresses, if known."""


@dataclass(frozen=True)
class Decision:
    """What the sources' answers come to."""

    maps: Maps | None
    """None if we cannot determine which installed entries must be kept."""
    addresses: Mapping[str, str]
    """Host names with the addresses that the hosts file is to give them."""
    kept_out: Mapping[str, str]
    """Host names that must not enter the hosts file, and the addresses that routes have instead."""
    newly_kept_out: AbstractSet[str]
    """Those of them that the installed routes still name, or that no source named before."""
    replaced: Mapping[Destination, Destination]
    """Next hops with such an address, each with the next hop that has the name."""
    records: Mapping[str, Record]
    """By source, the lists to record as its last good ones."""
    let_through: AbstractSet[str]
    """The sources whose answer was accepted, so that their record has it."""
    merged: Merged
    errors: Mapping[str, Sequence[SyncError]]
    """By source, what is wrong with it."""

    def served(self, source: str) -> Table[str]:
        """Return the routes that are served for a source; for an unknown one, the unclaimed."""
        if source in self.merged.shares:
            return self.merged.shares[source].routes
        routes = self.maps[ROUTES] if self.maps else Table[str].of({})
        return routes.beyond(self.merged.tables.routes)


def decide(
    sources: Sequence[SourceInput],
    installed: Installed,
    rankings: Mapping[str, Ranking],
    *,
    forgotten: Mapping[str, Record],
    allowed: Allowed = Allowed(),
) -> Decision:
    """Compute the desired maps; `sources` are all of them, in the configuration's order.

    `forgotten` are the last good lists of sources that are no longer configured. For `rankings` see
    `merge`.
    """
    before = {source.name: source.before() for source in sources}
    claimed = _without_clashes(sources, before, _judged(sources, before, installed))
    kept_out = {
        host: address for host, address in claimed.addresses.items() if not allowed.by_name(host)
    }
    claims = [_by_address(claim, kept_out) for claim in claimed.claims]
    merged = merge(claims, rankings, several_hops=allowed.several_hops)
    records = {
        name: replace(judgement.record, left_out=frozenset(merged.left_out[name]))
        for name, judgement in claimed.judgements.items()
        if judgement.record
    }
    return Decision(
        maps=_with_what_is_kept(sources, records, merged, installed, forgotten),
        addresses={h: address for h, address in claimed.addresses.items() if h not in kept_out},
        kept_out=kept_out,
        newly_kept_out=_newly_kept_out(kept_out, sources, installed),
        replaced=_replaced(claimed.claims, kept_out),
        records=records,
        let_through={
            source.name
            for source in sources
            if not source.error
            and source.name in records
            and (source.tables is None or records[source.name].tables is source.tables)
        },
        merged=merged,
        errors={
            name: (*judgement.errors, *_conflicts(name, merged.left_out.get(name, {})))
            for name, judgement in claimed.judgements.items()
        },
    )


def _replaced(
    claims: Sequence[Claim], addresses: Mapping[str, str]
) -> dict[Destination, Destination]:
    """Map next hops with an address to those with the host name that it replaces."""
    hops = {hop for claim in claims for hop in next_hops_of(claim.record.tables.routes)}
    return {
        replace(hop, host=addresses[hop.host]): hop
        for hop in sorted(hops, reverse=True)  # of several names, the first one
        if hop.host in addresses
    }


def _by_address(claim: Claim, addresses: Mapping[str, str]) -> Claim:
    """Replace host names by their addresses in what a source claims."""
    tables = claim.record.tables
    routes = by_address(tables.routes, addresses)
    return replace(claim, record=replace(claim.record, tables=replace(tables, routes=routes)))


def _newly_kept_out(
    kept_out: Mapping[str, str], sources: Sequence[SourceInput], installed: Installed
) -> AbstractSet[str]:
    """Select the names that an operator has not been warned of.

    Routes of removed lists may still name a host, and do not count.
    """
    if not kept_out:
        return frozenset()
    routes = installed.table(ROUTES)
    present = host_names(routes.common(installed.table(RECIPIENTS)))
    before = [host_names(one.recorded.tables.routes) for one in sources if one.recorded]
    return kept_out.keys() - (frozenset[str]().union(*before) - present)


def _with_what_is_kept(
    sources: Sequence[SourceInput],
    records: Mapping[str, Record],
    merged: Merged,
    installed: Installed,
    forgotten: Mapping[str, Record],
) -> Maps | None:
    """Return what is served, and what may belong to a source that has not answered."""
    maps = Maps.of(merged.tables)
    all_known = len(records) == len(sources)
    if all_known and all(source.has_answered for source in sources):
        return maps
    known = [
        source.recorded.tables for source in sources if source.recorded and source.name in records
    ]
    if all_known:  # else one of these sources may have been renamed
        known += [record.tables for record in forgotten.values()]
    present = installed.readable
    if present:
        return with_unclaimed(maps, present, known)
    return maps if all_known else None


@dataclass(frozen=True)
class _Judgement:
    """What counts of one source, and what is wrong with it."""

    record: Record | None
    errors: tuple[SyncError, ...] = ()


def _judged(
    sources: Sequence[SourceInput], before: Mapping[str, Record | None], installed: Installed
) -> dict[str, _Judgement]:
    """Judge each source by itself."""
    first = _first_answers(sources)  # together: which of them has which installed list is unknown
    unclaimed = _unclaimed(sources, installed) if None in before.values() else frozenset[str]()
    return {
        source.name: _judge(source, before[source.name], unclaimed, first) for source in sources
    }


def _judge(
    source: SourceInput,
    before: Record | None,
    unclaimed: AbstractSet[str],
    first: AbstractSet[str],
) -> _Judgement:
    """Accept a source's answer if the guards permit it; else its last good lists count."""
    errors = [source.error] if source.error else []
    if source.misplaced:
        errors.append(_misplaced(source, source.misplaced, before))
    if source.tables is None or source.error:
        return _Judgement(before, tuple(errors))
    new = source.now(before)
    if not new:
        if source.peer and not source.misplaced:
            errors.append(_unpublished(source.name, unpublished(source.tables.routes, source.peer)))
        return _Judgement(before, tuple(errors))
    try:
        if not before:
            guard(source.name, unclaimed, first, source.policy)
        elif before.tables != source.tables:
            present = before.tables.routes.names()
            guard(source.name, present, reached(before.tables, source.tables), source.policy)
    except Refused as error:
        return _Judgement(before, (*errors, error))
    return _Judgement(new, tuple(errors))


@dataclass(frozen=True)
class _Claimed:
    """What the sources claim, without clashes of host names."""

    claims: Sequence[Claim]
    addresses: Mapping[str, str]
    """Host names with their addresses."""
    judgements: Mapping[str, _Judgement]


def _without_clashes(
    sources: Sequence[SourceInput],
    before: Mapping[str, Record | None],
    judgements: Mapping[str, _Judgement],
) -> _Claimed:
    """Refuse the answers that give a host name another address than an earlier source does."""
    claims, own = _claims(sources, before, judgements)
    addresses, clashes = host_addresses(claims, own)
    if not clashes:
        return _Claimed(claims, addresses, judgements)
    refused = {
        name: _Judgement(before[name], (*judgements[name].errors, _clash(name, own.get(name), one)))
        for name, one in clashes.items()
    }
    judgements = {**judgements, **refused}
    claims, own = _claims(sources, before, judgements)
    return _Claimed(claims, host_addresses(claims, own)[0], judgements)


def _claims(
    sources: Sequence[SourceInput],
    before: Mapping[str, Record | None],
    judgements: Mapping[str, _Judgement],
) -> tuple[list[Claim], dict[str, str]]:
    """Return what each source claims, and the addresses that sources have."""
    claims = []
    addresses = {}
    for source in sources:
        record = judgements[source.name].record
        if record and (tables := source.routed(record)):
            served = replace(record, tables=tables)
            claims.append(Claim(source.name, source.cluster, served, before[source.name]))
            if address := source.address_with(record):
                addresses[source.name] = address
    return claims, addresses


def _first_answers(sources: Sequence[SourceInput]) -> AbstractSet[str]:
    """Return the lists of the sources that answer for the first time."""
    answers = (one.tables.routes for one in sources if one.tables and not one.recorded)
    return frozenset[str]().union(*(routes.names() for routes in answers))


def _unclaimed(sources: Sequence[SourceInput], installed: Installed) -> AbstractSet[str]:
    """Return the installed lists that no source is known to have."""
    claimed = (one.recorded.tables.routes.names() for one in sources if one.recorded)
    present = (installed.table(RECIPIENTS) or installed.table(ROUTES)).names()
    return frozenset(present).difference(*claimed)


def _misplaced(source: SourceInput, error: SyncError, before: Record | None) -> SyncError:
    """Report that a source's address is unknown; its last known address stays in use."""
    peer = before.peer if before else None
    last = peer.addresses[:1] if peer else ()
    if last:
        stays = f"; its last known address, {last[0]}, stays in use, and mail waits for it"
    elif peer:
        stays = "; its last known ports stay in use, and mail waits for them"
    else:
        stays = "; no address of it is known from before, so its lists can't be taken in yet"
    return type(error)(f"{source.name}: {error.message}{stays}", error.hint)


def _unpublished(name: str, ports: AbstractSet[int]) -> Refused:
    """Report that a container publishes other ports than its next hops need."""
    first = min(ports)
    return Refused(
        f"{name}: leads to port {', '.join(map(str, sorted(ports)))} of its container, which is not"
        f" published on this host; {REFUSED}",
        f"publish it: -p 127.0.0.1:{first}:{first}; or connect the container to a network",
    )


def _conflicts(name: str, lost: Mapping[str, str]) -> tuple[Refused, ...]:
    """Report the lists of a source that another source had first."""
    if not lost:
        return ()
    owners = ", ".join(sorted(set(lost.values())))
    verb = "is" if len(lost) == 1 else "are"
    error = Refused(
        f"{name}: {named('list', lost.keys())} {verb} left out: {owners} had an address of"
        f" {'it' if len(lost) == 1 else 'them'} first; everything else of {name} goes in",
        "remove the list from one of the Mailmans; or, if they are replicas on one database,"
        " give their sources the same cluster:",
    )
    return (error,)


def _clash(name: str, own: str | None, clash: Clash) -> Refused:
    there = f"has the address {clash.address}" if clash.address else "has no address: here"
    return Refused(
        f"{name}: names the host {clash.host}, which {there} for {clash.source}, so it cannot"
        f" {f'have {own}' if own else 'be looked up'}; {REFUSED}",
        f"give {name} a next hop that needs no name: destination: lmtp:[{own or 'ADDRESS'}]:8024;"
        " or, if both are on one host, give both the same address:",
    )
