"""From what every source answered to what is wanted of Postfix. Pure.

Each source is judged by itself. What is wrong with one, out of reach, invalid or refused by a
guard, leaves it with its last good lists and stops nobody else. As long as there is one that does
not answer, no list goes but those that are known to be another's: it might be that one's.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from postfix_sync.containers.relocate import by_address, host_address, relocated, unpublished
from postfix_sync.errors import Refused, SyncError
from postfix_sync.mailman.addresses import lists_of
from postfix_sync.model import (
    RECIPIENTS,
    ROUTES,
    Destination,
    Installed,
    MailmanTables,
    Maps,
    Peer,
    Policy,
    Record,
    domain_of,
)
from postfix_sync.postfix.next_hop import host_names, next_hops_of
from postfix_sync.reconcile.changes import named
from postfix_sync.reconcile.guard import guard, reached
from postfix_sync.reconcile.merge import (
    Claim,
    Clash,
    Merged,
    Ranking,
    host_addresses,
    merge,
    with_unclaimed,
    without,
)

DISCOVERED = "found out"
"""A source's address where it is not configured, but that of its peer."""


@dataclass(frozen=True)
class SourceInput:
    """One source in a pass: what is configured, what was known, and what it answered, if asked."""

    name: str
    policy: Policy = field(default_factory=Policy)
    cluster: str | None = None
    address: str | None = None
    """The IP address that is configured, or DISCOVERED."""
    recorded: Record | None = None
    tables: MailmanTables | None = None
    """What it asks for now; None where that is not known to differ from what is recorded."""
    peer: Peer | None = None
    misplaced: SyncError | None = None
    """Why it could not be found out where it is."""
    error: SyncError | None = None
    has_answered: bool = False
    """Whether what it asks for now is known."""

    @property
    def party(self) -> str:
        """What it is called together with its replicas."""
        return self.cluster or self.name

    def address_with(self, record: Record) -> str | None:
        """The IP address that its host names get."""
        if self.address != DISCOVERED:
            return self.address
        return host_address(record.tables.routes, record.peer) if record.peer else None

    def before(self) -> Record | None:
        """What was known, as far as the configuration of today allows it.

        None also where it is not known how its lists could be reached.
        """
        if not self.recorded:
            return None
        tables = _confined(self.recorded.tables, self.policy)
        for peer in (self.peer or self.recorded.peer, self.recorded.peer):
            record = replace(self.recorded, tables=tables, peer=peer)
            if self.routed(record):
                return record
        return None

    def now(self, before: Record | None) -> Record | None:
        """What it asks for; None where it did not say, or not all of it can be reached."""
        if not self.tables:
            return None
        record = Record(self.tables, self.peer or (before.peer if before else None))
        return record if self.routed(record) else None

    def routed(self, record: Record) -> MailmanTables | None:
        """A record's tables with its next hops as this host reaches them; None: it does not."""
        if not self.policy.is_placed:
            return record.tables
        routes = relocated(record.tables.routes, record.peer or Peer())
        return None if routes is None else replace(record.tables, routes=routes)


def _confined(tables: MailmanTables, policy: Policy) -> MailmanTables:
    """Tables from another day, within the domains, and with the destination, that hold now."""
    if policy.domains:
        allowed = {domain.casefold() for domain in policy.domains}
        if any(domain_of(key) not in allowed for key in (*tables.aliases, *tables.domains)):
            lists = lists_of(tables.routes) | lists_of(tables.aliases)
            tables = without(tables, {name for name in lists if domain_of(name) not in allowed})
    if policy.destination:
        tables = replace(tables, routes=dict.fromkeys(tables.routes, policy.destination.next_hop))
    return tables


@dataclass(frozen=True)
class Allowed:
    """What routes may look like on this host."""

    several_hops: bool = True
    """See `merge`."""
    by_name: Callable[[str], bool] = lambda _: True
    """Which host names they may lead to; the others are replaced by their addresses, if known."""


@dataclass(frozen=True)
class Decision:
    """What one pass is to bring about."""

    maps: Maps | None
    """None where it can't be told what of the installed maps has to stay."""
    addresses: Mapping[str, str]
    """Host names, and the addresses that the hosts file is to give them."""
    kept_out: Mapping[str, str]
    """Host names that must not enter the hosts file, and the addresses that routes have instead."""
    newly_kept_out: AbstractSet[str]
    """Those of them that the installed routes still name, or that no source named before."""
    replaced: Mapping[Destination, Destination]
    """Next hops with such an address, each with the next hop that has the name."""
    records: Mapping[str, Record]
    """What is to be remembered of the sources that anything is known of."""
    let_through: AbstractSet[str]
    """The sources whose answer is in their record now."""
    merged: Merged
    errors: Mapping[str, Sequence[SyncError]]
    """By source, what is wrong with it."""

    def served(self, source: str) -> AbstractSet[str]:
        """The addresses that are routed for a source; for an unknown one, all that are nobody's."""
        if source in self.merged.shares:
            return self.merged.shares[source].routes.keys()
        routed = self.maps[ROUTES].keys() if self.maps else frozenset[str]()
        return routed - self.merged.tables.routes.keys()


def decide(
    asked: Sequence[SourceInput],
    installed: Installed,
    rankings: Mapping[str, Ranking],
    *,
    forgotten: Mapping[str, Record],
    allowed: Allowed = Allowed(),
) -> Decision:
    """What is wanted, by all that is known; `asked` are all sources in the configuration's order.

    `forgotten` is what is known of sources that are not configured any more. For `rankings` see
    `merge`.
    """
    errors: dict[str, list[SyncError]] = {one.name: [] for one in asked}
    before = {one.name: one.before() for one in asked}
    known = _let_through(asked, before, installed, errors)
    claims, addresses = _without_clashes(asked, before, known, errors)
    kept_out = {host: address for host, address in addresses.items() if not allowed.by_name(host)}
    replaced = _replaced(claims, kept_out)
    claims = [_by_address(claim, kept_out) for claim in claims]
    merged = merge(claims, rankings, several_hops=allowed.several_hops)
    for name, lost in merged.left_out.items():
        if lost:
            errors[name].append(_conflict(name, lost))
    records = {
        name: replace(record, left_out=frozenset(merged.left_out[name]))
        for name, record in known.items()
        if record
    }
    let_through = {
        one.name
        for one in asked
        if not one.error
        and one.name in records
        and (one.tables is None or records[one.name].tables is one.tables)
    }
    maps = _with_what_stays(asked, records, merged, installed, forgotten)
    return Decision(
        maps,
        {host: address for host, address in addresses.items() if host not in kept_out},
        kept_out,
        _newly_kept_out(kept_out, asked, installed),
        replaced,
        records,
        let_through,
        merged,
        errors,
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
    """Replace host names by their addresses in what a source asks for."""
    tables = claim.record.tables
    routes = by_address(tables.routes, addresses)
    return replace(claim, record=replace(claim.record, tables=replace(tables, routes=routes)))


def _newly_kept_out(
    kept_out: Mapping[str, str], asked: Sequence[SourceInput], installed: Installed
) -> AbstractSet[str]:
    """Select the names that an operator has not been warned of.

    Routes of removed lists may go on naming a host, and are not counted.
    """
    if not kept_out:
        return frozenset()
    recipients = installed.table(RECIPIENTS)
    routes = installed.table(ROUTES)
    present = host_names({key: value for key, value in routes.items() if key in recipients})
    before = [host_names(one.recorded.tables.routes) for one in asked if one.recorded]
    return kept_out.keys() - (frozenset[str]().union(*before) - present)


def _with_what_stays(
    asked: Sequence[SourceInput],
    records: Mapping[str, Record],
    merged: Merged,
    installed: Installed,
    forgotten: Mapping[str, Record],
) -> Maps | None:
    """What is served, and what may be a source's that does not answer."""
    maps = Maps.of(merged.tables)
    all_known = len(records) == len(asked)
    if all_known and all(one.has_answered for one in asked):
        return maps
    known = [one.recorded.tables for one in asked if one.recorded and one.name in records]
    if all_known:  # else one of these may have got another name
        known += [record.tables for record in forgotten.values()]
    present = installed.readable
    if present:
        return with_unclaimed(maps, present, known)
    return maps if all_known else None


def _let_through(
    asked: Sequence[SourceInput],
    before: Mapping[str, Record | None],
    installed: Installed,
    errors: Mapping[str, list[SyncError]],
) -> dict[str, Record | None]:
    """By source, what counts of it: its answer if the guards let it pass, else what was known."""
    first = _first_answers(asked)  # together: which of them has which installed list is not known
    known = dict(before)
    for one in asked:
        old = before[one.name]
        if one.error:
            errors[one.name].append(one.error)
        if one.misplaced:
            errors[one.name].append(_misplaced(one, one.misplaced, old))
        if one.tables is None or one.error:
            continue
        new = one.now(old)
        if not new:
            if one.peer and not one.misplaced:
                ports = unpublished(one.tables.routes, one.peer)
                errors[one.name].append(_unpublished(one.name, ports))
            continue
        try:
            if not old:
                guard(one.name, _unclaimed(asked, installed), first, one.policy)
            elif old.tables != one.tables:
                present = lists_of(old.tables.routes)
                guard(one.name, present, reached(old.tables, one.tables), one.policy)
        except Refused as error:
            errors[one.name].append(error)
        else:
            known[one.name] = new
    return known


def _without_clashes(
    asked: Sequence[SourceInput],
    before: Mapping[str, Record | None],
    known: dict[str, Record | None],
    errors: Mapping[str, list[SyncError]],
) -> tuple[list[Claim], Mapping[str, str]]:
    """What is asked for, and the hosts' addresses; who would turn a name away is refused."""
    claims, own = _claims(asked, before, known)
    addresses, clashes = host_addresses(claims, own)
    if not clashes:
        return claims, addresses
    for name, clash in clashes.items():
        errors[name].append(_clash(name, own.get(name), clash))
        known[name] = before[name]
    claims, own = _claims(asked, before, known)
    return claims, host_addresses(claims, own)[0]


def _claims(
    asked: Sequence[SourceInput],
    before: Mapping[str, Record | None],
    known: Mapping[str, Record | None],
) -> tuple[list[Claim], dict[str, str]]:
    """What is asked for, and the addresses that sources have."""
    claims = []
    addresses = {}
    for one in asked:
        record = known[one.name]
        if record and (tables := one.routed(record)):
            served = replace(record, tables=tables)
            claims.append(Claim(one.name, one.cluster, served, before[one.name]))
            if address := one.address_with(record):
                addresses[one.name] = address
    return claims, addresses


def _first_answers(asked: Sequence[SourceInput]) -> AbstractSet[str]:
    """The lists of the sources that nothing was known of before."""
    answers = (one.tables.routes for one in asked if one.tables and not one.recorded)
    return frozenset[str]().union(*map(lists_of, answers))


def _unclaimed(asked: Sequence[SourceInput], installed: Installed) -> AbstractSet[str]:
    """The installed lists that no source is known to have."""
    claimed = (lists_of(one.recorded.tables.routes) for one in asked if one.recorded)
    present = lists_of(installed.table(RECIPIENTS) or installed.table(ROUTES))
    return present.difference(*claimed)


def _misplaced(one: SourceInput, error: SyncError, before: Record | None) -> SyncError:
    """It is not known where a source is; what was known of that stays."""
    peer = before.peer if before else None
    last = peer.addresses[:1] if peer else ()
    if last:
        stays = f"; its last known address, {last[0]}, stays in use, and mail waits for it"
    elif peer:
        stays = "; its last known ports stay in use, and mail waits for them"
    else:
        stays = "; no address of it is known from before, so its lists can't be taken in yet"
    return type(error)(f"{one.name}: {error.message}{stays}", error.hint)


def _unpublished(name: str, ports: AbstractSet[int]) -> Refused:
    """A source's container is reached at published ports only, and these are not all it needs."""
    first = min(ports)
    return Refused(
        f"{name}: leads to port {', '.join(map(str, sorted(ports)))} of its container, which is not"
        " published on this host; refused, its last good lists stay",
        f"publish it: -p 127.0.0.1:{first}:{first}; or connect the container to a network",
    )


def _conflict(name: str, lost: Mapping[str, str]) -> Refused:
    owners = ", ".join(sorted(set(lost.values())))
    verb = "is" if len(lost) == 1 else "are"
    return Refused(
        f"{name}: {named('list', lost.keys())} {verb} left out: {owners} had an address of"
        f" {'it' if len(lost) == 1 else 'them'} first; everything else of {name} goes in",
        "remove the list from one of the Mailmans; or, if they are replicas on one database,"
        " give their sources the same cluster:",
    )


def _clash(name: str, own: str | None, clash: Clash) -> Refused:
    there = f"has the address {clash.address}" if clash.address else "has no address: here"
    return Refused(
        f"{name}: names the host {clash.host}, which {there} for {clash.source}, so it cannot"
        f" {f'have {own}' if own else 'be looked up'}; refused, its last good lists stay",
        f"give {name} a next hop that needs no name: destination: lmtp:[{own or 'ADDRESS'}]:8024;"
        " or, if both are on one host, give both the same address:",
    )
