"""Parse Mailman's files to tables. Pure.

Mailman (its mta/postfix.py) writes three files: postfix_lmtp with nine addresses a list, each with
its LMTP next hop; postfix_domains; and postfix_vmap where a domain has an alias_domain. For any
bytes, each parser returns a table or raises `Refused`; entries.py reads the lines.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from postfix_sync import __version__
from postfix_sync.errors import HalfWritten, Refused, quote
from postfix_sync.mailman.blocks import read_whole, reread
from postfix_sync.mailman.entries import (
    MAILMAN_ALIASES,
    MAX_DESTINATIONS,
    MAX_LISTS,
    REFUSED,
    Checks,
    UnfitError,
    parse_entries,
    refuse,
)
from postfix_sync.mailman.lists import parse_lists
from postfix_sync.mailman.names import check_address, check_domain
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST, domain_of
from postfix_sync.model.map_names import ALIASES, ROUTES
from postfix_sync.model.source import Blocks, MailmanTables, Origin, Policy, Snapshot, SourceFile
from postfix_sync.model.table import Table
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.next_hop import parse_destination, parse_unjudged

T = TypeVar("T", bound=Table[str])

READER = 1
"""The number of the parser: a change of what it accepts needs the next one, so that files which the
previous one has read are read as a whole."""

WHOLE_EVERY = 3600.0
"""Seconds after which files are read as a whole, though they have changed in part."""


def parse_routes(file: SourceFile, fold: Fold, policy: Policy) -> Table[str]:
    """Parse postfix_lmtp: address -> next hop. Raises `Refused`."""
    check = _confined(check_address, fold, policy)
    if policy.destination:
        next_hop = policy.destination.next_hop
        return parse_lists(Table, file, Checks(fold, check, lambda _key, _text: next_hop))
    read = parse_unjudged if policy.is_placed else parse_destination
    known: dict[str, str] = {}

    def read_next_hop(_key: str, text: str) -> str:
        if text not in known:
            next_hop = read(text).next_hop
            if len(known) == MAX_DESTINATIONS:
                # Each destination is probed, so a source may have a limited number of them.
                raise ValueError(f"the file has more than {MAX_DESTINATIONS} different next hops")
            known[text] = next_hop
        return known[text]

    return parse_lists(Table, file, Checks(fold, check, read_next_hop))


def parse_domains(file: SourceFile, fold: Fold, policy: Policy) -> dict[str, str]:
    """Parse postfix_domains: domain -> the mail host of its lists. Raises `Refused`.

    A domain that is not its own mail host is the alias_domain of its mail host.
    """
    allowed = _allowed(fold, policy)
    hosts: dict[str, str] = {}

    def read_host(domain: str, text: str) -> str:
        host = fold(check_domain(text))
        if allowed and domain not in allowed:
            is_alias = f"is the alias_domain of {quote(host)}, and " if host != domain else ""
            raise _not_allowed(domain, f"{is_alias}is not")
        if hosts.setdefault(domain, host) != host:
            raise _ambiguous(domain, *sorted({hosts[domain], host} - {domain}))
        return host

    return parse_entries(file, Checks(fold, check_domain, read_host), MAX_LISTS)


def _ambiguous(domain: str, host: str, other: str = "") -> UnfitError:
    """Return the error for a domain that is the alias_domain of `host`, and has another use.

    The domain is the alias_domain of `other` as well, or, if `other` is empty, has lists of its
    own. Mailman's runners/lmtp.py takes mail to an alias_domain as mail to the first mail host that
    has it, and finds only the lists of that host.
    """
    if other:
        problem = (
            f"{quote(domain)} is the alias_domain of both {quote(host)} and {quote(other)}, but"
            " Mailman takes mail to it as mail to the first, and refuses that of the other's lists"
        )
    else:
        problem = (
            f"{quote(domain)} has lists of its own and is the alias_domain of {quote(host)}, but"
            f" Mailman takes all mail to it as mail to {host}, and refuses that of its own lists"
        )
    changed = other or host
    return UnfitError(
        problem,
        f"in Mailman, give {changed} an alias_domain of its own, or none (in Postorius, or by PATCH"
        f" on domains/{changed} of its REST API); it writes its files when a list is created or"
        f" removed, or on: {MAILMAN_ALIASES}",
    )


def parse_aliases(file: SourceFile, fold: Fold, policy: Policy) -> Aliases:
    """Parse postfix_vmap: address in a list's domain -> in its alias_domain. Raises `Refused`."""
    check = _confined(check_address, fold, policy)
    return parse_lists(Aliases, file, Checks(fold, check, lambda _key, text: fold(check(text))))


def _confined(check: Callable[[str], str], fold: Fold, policy: Policy) -> Callable[[str], str]:
    """Return `check` with a test of whether the source may name the address's domain."""
    allowed = _allowed(fold, policy)
    if not allowed:
        return check

    def check_confined(text: str) -> str:
        domain = domain_of(check(text))
        if fold(domain) not in allowed:
            raise _not_allowed(domain)
        return text

    return check_confined


def _allowed(fold: Fold, policy: Policy) -> frozenset[str]:
    """Return the only domains that the source may name, folded; empty: any."""
    return frozenset(fold(domain) for domain in policy.domains)


def _not_allowed(domain: str, verb: str = "is not") -> UnfitError:
    return UnfitError(
        f"{quote(domain)} {verb} among the domains that this source may name",
        f"if this Mailman may route its mail, add it to the source's domains: - {domain}",
    )


def _check_whole(file: SourceFile, table: Table[str]) -> None:
    """Check that each address belongs to a list with all nine addresses. Raises `Refused`."""
    if address := min(table.parts(), default=""):
        raise Refused(
            f"{file.place}: {quote(address)} belongs to no list that has all its"
            f" {ADDRESSES_PER_LIST} addresses: the file is truncated or was edited; {REFUSED}",
            f"let Mailman write it again: {MAILMAN_ALIASES}",
        )


def read_tables(
    snapshot: Snapshot,
    fold: Fold,
    policy: Policy,
    known: MailmanTables | None = None,
    now: float = 0.0,
) -> MailmanTables:
    """Parse a snapshot, and check that its files agree.

    `known` are tables that were read before; the result is the same without them. `now` is the
    time, in seconds since the epoch.

    Raises:
        Refused: a file is invalid.
        HalfWritten: the files are valid, but contradict each other.
    """
    domains = parse_domains(
        snapshot.domains, fold, policy
    )  # first, because its errors explain alias domains
    reader = f"{__version__} {READER} {fold.__name__} {_limits(policy)}"
    before: Mapping[str, Blocks] = {}
    origin = known.origin if known else None
    if origin and origin.reader == reader and now - WHOLE_EVERY < origin.read_at <= now:
        before, now = origin.files, origin.read_at
    files: dict[str, Blocks | None] = {}
    routes, files[ROUTES] = _read_lists(
        snapshot.lmtp,
        lambda file: parse_routes(file, fold, policy),
        known.routes if known else None,
        before.get(ROUTES),
    )
    aliases = Aliases.of({})
    if snapshot.vmap:
        aliases, files[ALIASES] = _read_lists(
            snapshot.vmap,
            lambda file: parse_aliases(file, fold, policy),
            known.aliases if known else None,
            before.get(ALIASES),
        )
    _check_whole(snapshot.lmtp, routes)
    if snapshot.vmap:
        if not snapshot.vmap.size:
            # Mailman removes a postfix_vmap without entries, so an empty file lost its content in a
            # crash. It must not remove every alias; the guards protect lists, but not aliases.
            raise refuse(snapshot.vmap, 1, "the file is empty, without even Mailman's header")
        _check_whole(snapshot.vmap, aliases)
        _check_aliases(snapshot.vmap, aliases, snapshot.lmtp, routes)
    _check_domains(snapshot, routes, domains)
    origin = Origin(reader, now, {name: blocks for name, blocks in files.items() if blocks})
    return MailmanTables(routes, domains, aliases, origin)


def _limits(policy: Policy) -> tuple[object, ...]:
    """Return what a policy says of how files are read."""
    return sorted(policy.domains), policy.destination, policy.is_placed


def _read_lists(
    file: SourceFile, parse: Callable[[SourceFile], T], known: T | None, blocks: Blocks | None
) -> tuple[T, Blocks | None]:
    """Parse a file of lists: what has changed of it, if its blocks are `known`, or all of it."""
    if known is not None and blocks and (found := reread(file, blocks, known, parse)):
        return found
    return read_whole(file, parse)


def _check_domains(snapshot: Snapshot, routes: Table[str], domains: Mapping[str, str]) -> None:
    """Check that postfix_domains has exactly the domains of the lists. Raises `HalfWritten`."""
    for domain in sorted(routes.domains() ^ domains.keys()):
        has, lacks = snapshot.lmtp, snapshot.domains
        if domain in domains:
            has, lacks = lacks, has
        raise _half_written(f"{has.place} has the domain {quote(domain)}, {lacks.place} has not")


def _check_aliases(
    vmap: SourceFile, aliases: Aliases, lmtp: SourceFile, routes: Table[str]
) -> None:
    """Check that each alias has the same local part as its key, and a route.

    Raises `Refused` or `HalfWritten`. Mailman's mta/postfix.py writes no other aliases.
    """
    for key, target in (*aliases.lists.items(), *aliases.others.items()):
        if key.rpartition("@")[0] != target.rpartition("@")[0]:
            raise Refused(
                f"{vmap.place}: {quote(key)} leads to {quote(target)}, which is not an address of"
                f" the same list; {REFUSED}",
                f"let Mailman write it again: {MAILMAN_ALIASES}",
            )
    if target := min(aliases.targets().beyond(routes), default=""):
        raise _half_written(f"{vmap.place} leads to {quote(target)}, which is not in {lmtp.place}")


def _half_written(problem: str) -> HalfWritten:
    return HalfWritten(
        f"{problem}: the set is half-updated; {REFUSED}",
        f"if this persists, let Mailman write all of them again: {MAILMAN_ALIASES}",
    )
