"""From what every source answered to what is wanted of Postfix. Pure.

Each source is judged by itself. What is wrong with one, out of reach, invalid or refused by a
guard, leaves it with its last good lists and stops nobody else. As long as there is one that does
not answer, no list goes but those that are known to be another's: it might be that one's.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from postfix_sync.changes import named
from postfix_sync.errors import Refused, SyncError
from postfix_sync.merge import (
    Claim,
    Merged,
    Ranking,
    host_addresses,
    host_names,
    merge,
    with_unclaimed,
    without,
)
from postfix_sync.model import (
    RECIPIENTS,
    ROUTES,
    Installed,
    MailmanTables,
    Maps,
    Notice,
    Policy,
    Record,
)
from postfix_sync.plan import guard
from postfix_sync.tables import lists_of

PEER = "ssh"
"""A source's address where it is that of the connected peer."""


@dataclass(frozen=True)
class Asked:
    """One source in a pass: what is configured, what was known, and what it answered, if asked."""

    name: str
    policy: Policy = field(default_factory=Policy)
    cluster: str | None = None
    address: str | None = None
    before: Record | None = None
    tables: MailmanTables | None = None
    """What it asks for now; None where that is not known to differ from before."""
    peer: str | None = None
    error: SyncError | None = None
    has_answered: bool = False
    """Whether what it asks for now is known."""

    @property
    def party(self) -> str:
        """What it is called together with its replicas."""
        return self.cluster or self.name

    def address_with(self, record: Record) -> str | None:
        """The IP address that its host names get."""
        return record.peer if self.address == PEER else self.address


@dataclass(frozen=True)
class Wanted:
    """What one pass is to bring about."""

    maps: Maps | None
    """None where it can't be told what of the installed maps has to stay."""
    addresses: Mapping[str, str]
    """Host names, and the addresses that the hosts file is to give them."""
    records: Mapping[str, Record]
    """What is to be remembered of the sources that anything is known of."""
    let_through: AbstractSet[str]
    """The sources whose answer is in their record now."""
    merged: Merged
    errors: Mapping[str, Sequence[SyncError]]
    """By source, what is wrong with it."""
    notices: Sequence[Notice]

    def served(self, source: str) -> AbstractSet[str]:
        """The addresses that are routed for a source; for an unknown one, all that are nobody's."""
        record = self.records.get(source)
        if record:
            return without(record.tables, record.left_out).routes.keys()
        routed = self.maps[ROUTES].keys() if self.maps else frozenset[str]()
        return routed - self.merged.tables.routes.keys()


def decide(
    asked: Sequence[Asked],
    installed: Installed,
    rankings: Mapping[str, Ranking],
    *,
    forgotten: Mapping[str, Record],
    several_hops: bool,
) -> Wanted:
    """What is wanted, by all that is known; `asked` are all sources in the configuration's order.

    `forgotten` is what is known of sources that are not configured any more. For `rankings` and
    `several_hops` see `merge`.
    """
    errors: dict[str, list[SyncError]] = {one.name: [] for one in asked}
    known = _let_through(asked, installed, errors)
    claims = _claims(asked, known)
    addresses, clashes = host_addresses(claims, _addresses(asked, known))
    for name, clash in clashes.items():
        own = _addresses(asked, known)[name]
        errors[name].append(
            Refused(
                f"{name}: names the host {clash.host}, which has the address {clash.address} for"
                f" {clash.source}, so it cannot have {own}; refused, its last good lists stay",
                f"give {name} a next hop that needs no name: destination: lmtp:[{own}]:8024",
            )
        )
        known[name] = next(one.before for one in asked if one.name == name)
    if clashes:
        claims = _claims(asked, known)
        addresses, _ = host_addresses(claims, _addresses(asked, known))
    merged = merge(claims, rankings, several_hops=several_hops)
    for name, lost in merged.left_out.items():
        if lost:
            errors[name].append(_conflict(name, lost))
    maps: Maps | None = Maps.of(merged.tables)
    if len(claims) < len(asked) or any(not one.has_answered for one in asked):
        before = [one.before.tables for one in asked if one.before]
        if len(claims) == len(asked):  # else one of these may have got another name
            before += [record.tables for record in forgotten.values()]
        present = installed.readable
        if present:
            maps = with_unclaimed(Maps.of(merged.tables), present, before)
        elif len(claims) < len(asked):
            maps = None
    records = {
        claim.source: replace(claim.record, left_out=frozenset(merged.left_out[claim.source]))
        for claim in claims
    }
    notices = _strangers(claims, addresses, _addresses(asked, known))
    let_through = {
        one.name
        for one in asked
        if not one.error
        and one.name in records
        and (one.tables is None or records[one.name].tables is one.tables)
    }
    return Wanted(maps, addresses, records, let_through, merged, errors, notices)


def _let_through(
    asked: Sequence[Asked], installed: Installed, errors: Mapping[str, list[SyncError]]
) -> dict[str, Record | None]:
    """By source, what counts of it: its answer if the guards let it pass, else what was known."""
    first = _first_answers(asked)  # together: which of them has which installed list is not known
    known: dict[str, Record | None] = {}
    for one in asked:
        known[one.name] = one.before and replace(one.before, peer=one.peer or one.before.peer)
        if one.error:
            errors[one.name].append(one.error)
        if one.tables is None or one.error:
            continue
        try:
            if not one.before:
                guard(one.name, _unclaimed(asked, installed), first, one.policy)
            elif one.before.tables != one.tables:
                present = lists_of(one.before.tables.routes)
                guard(one.name, present, lists_of(one.tables.routes), one.policy)
        except Refused as error:
            errors[one.name].append(error)
        else:
            peer = one.peer or (one.before.peer if one.before else None)
            known[one.name] = Record(one.tables, peer)
    return known


def _first_answers(asked: Sequence[Asked]) -> AbstractSet[str]:
    """The lists of the sources that nothing was known of before."""
    answers = (one.tables.routes for one in asked if one.tables and not one.before)
    return frozenset[str]().union(*map(lists_of, answers))


def _unclaimed(asked: Sequence[Asked], installed: Installed) -> AbstractSet[str]:
    """The installed lists that no source is known to have."""
    claimed = (lists_of(one.before.tables.routes) for one in asked if one.before)
    present = lists_of(installed.table(RECIPIENTS) or installed.table(ROUTES))
    return present.difference(*claimed)


def _claims(asked: Sequence[Asked], known: Mapping[str, Record | None]) -> list[Claim]:
    return [
        Claim(one.name, one.cluster, record, one.before)
        for one in asked
        if (record := known[one.name])
    ]


def _addresses(asked: Sequence[Asked], known: Mapping[str, Record | None]) -> dict[str, str]:
    return {
        one.name: address
        for one in asked
        if (record := known[one.name]) and (address := one.address_with(record))
    }


def _conflict(name: str, lost: Mapping[str, str]) -> Refused:
    owners = ", ".join(sorted(set(lost.values())))
    verb = "is" if len(lost) == 1 else "are"
    return Refused(
        f"{name}: {named('list', lost.keys())} {verb} left out: {owners} had an address of"
        f" {'it' if len(lost) == 1 else 'them'} first; everything else of {name} goes in",
        "remove the list from one of the Mailmans; or, if they are replicas on one database,"
        " give their sources the same cluster:",
    )


def _strangers(
    claims: Sequence[Claim], addresses: Mapping[str, str], own: Mapping[str, str]
) -> list[Notice]:
    """A name that got one source's address, and that another uses without having one."""
    return [
        Notice(
            f"{claim.source}: names the host {host}, too, which the hosts file says is"
            f" {addresses[host]}; if its Mailman is another one, it gets none of its mail",
            f"give {claim.source} an address: or a destination: of its own",
        )
        for claim in claims
        if claim.source not in own
        for host in sorted(host_names(claim.record.tables.routes) & addresses.keys())
    ]
