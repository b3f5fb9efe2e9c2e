"""What Postfix's running processes still remember of a change, and what makes them forget. Pure.

A table that has changed on the disk is not the end of it: each of Postfix's processes works for a
while with what it read, or was answered, before. RULES has a row for each kind of change, with who
may remember an answer that is now wrong. The sources of the rows:

- trivial-rewrite(8) reads its tables again every 10 s, and then ends itself (trivial-rewrite.c,
  check_table_stats()). Changes of an lmdb map are an exception: each lookup is a transaction of its
  own, so every process sees them at once (LMDB_README).
- Each client of trivial-rewrite(8), that is qmgr(8), smtpd(8) and cleanup(8), remembers its last
  answer for 30 s (clnt_stream(3), resolve_clnt.c).
- smtpd(8) also remembers 100 answers, class and transport, as long as it runs (smtpd_resolve.c):
  100 sessions, or 100 s without one (max_use, max_idle). It looks whether its tables changed
  between two sessions, cleanup(8) between two messages.
- qmgr(8) has resolved all messages of the active queue already. A reload moves them back.
- lmtp(8) keeps connections by the destination's name (connection_cache_ttl_limit, scache(8)). One
  that is in the middle of a delivery hands its connection on afterwards, to the scache(8) that a
  reload has started.

`postfix reload` makes all of them start again; it only sends signals, so who needs the effect waits
until trivial-rewrite(8) and qmgr(8) are other processes; and the kernel says which connections
are still open (apply.py). Everything here was measured with real
ones (tests/e2e/test_transitions.py): each row that needs a reload has a test that loses mail
without it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import Condition, Desired, Installed
from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Change, Diff
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import next_hops_of, parse_next_hops


class Need(IntEnum):
    """What a change needs before Postfix can be said to work with it."""

    NOTHING = 0
    BEFORE_DONE = 1
    """A reload. Nothing that the change accepts depends on it."""
    BEFORE_ACCEPTANCE = 2
    """A reload, before mail to new addresses is accepted."""


class Kind(Enum):
    """A kind of change of what is installed."""

    LIST_ADDED = "a list is added in a domain that Postfix knows"
    LIST_ADDED_DEFAULT_REFUSES = "the same, and without a route Postfix refuses the address"
    LIST_MOVED = "a list has a next hop that it did not have"
    LIST_RETURNED = "an address is accepted again whose kept route had other next hops"
    LIST_REORDERED = "a list has the same next hops in another order"
    LIST_REMOVED = "a list is not accepted any more; its route is kept"
    ALIAS_CHANGED = "a virtual alias is added, removed, or leads to another address"
    DOMAIN_ADDED = "a mail domain is added"
    DOMAIN_REMOVED = "a mail domain is removed"
    HOST_READDRESSED = "the host of an installed route has another IP address, or its first of ours"
    INDEX_DOUBTFUL = "an index may hold something else than its text"
    INDEX_REPLACED = "an index is a new file"


URGENT = frozenset({Kind.INDEX_DOUBTFUL, Kind.INDEX_REPLACED})
"""The kinds of change that do not wait for a turn to reload: all mail may be refused meanwhile."""

REROUTING = frozenset({Kind.LIST_MOVED, Kind.HOST_READDRESSED})
"""The kinds of change after which mail of a list goes elsewhere."""


@dataclass(frozen=True)
class Rule:
    """What a kind of change needs: with maps that are seen at once (lmdb), and with others."""

    at_once: Need
    otherwise: Need
    why: str


RULES: Mapping[Kind, Rule] = {
    Kind.LIST_ADDED: Rule(
        Need.NOTHING,
        Need.BEFORE_ACCEPTANCE,
        "trivial-rewrite(8) resolves with its old routes for up to 10 s, and qmgr(8) bounces",
    ),
    Kind.LIST_ADDED_DEFAULT_REFUSES: Rule(
        Need.BEFORE_DONE,
        Need.BEFORE_ACCEPTANCE,
        "smtpd(8) remembers that an address had the transport error(8) at an earlier RCPT",
    ),
    Kind.LIST_MOVED: Rule(
        Need.BEFORE_DONE,
        Need.BEFORE_DONE,
        "qmgr(8) has resolved the active queue, and remembers its last answer for 30 s",
    ),
    Kind.LIST_RETURNED: Rule(
        Need.BEFORE_ACCEPTANCE,
        Need.BEFORE_ACCEPTANCE,
        "as of a list that has moved; and no mail for it is taken so far, so that can wait",
    ),
    Kind.LIST_REORDERED: Rule(
        Need.NOTHING,
        Need.NOTHING,
        "lmtp(8) tries the other next hops on its own, whichever is first",
    ),
    Kind.LIST_REMOVED: Rule(
        Need.NOTHING,
        Need.NOTHING,
        "smtpd(8) sees it at its next session; mail accepted until then has its route",
    ),
    Kind.ALIAS_CHANGED: Rule(
        Need.NOTHING,
        Need.NOTHING,
        "cleanup(8) sees it at its next message; both the old and the new address have routes",
    ),
    Kind.DOMAIN_ADDED: Rule(
        Need.BEFORE_ACCEPTANCE,
        Need.BEFORE_ACCEPTANCE,
        "smtpd(8) remembers for 100 sessions that it may not relay to an address",
    ),
    Kind.DOMAIN_REMOVED: Rule(
        Need.BEFORE_DONE,
        Need.BEFORE_DONE,
        "smtpd(8) remembers that it relays to an address, and so refuses it as no recipient",
    ),
    Kind.HOST_READDRESSED: Rule(
        Need.BEFORE_DONE,
        Need.BEFORE_DONE,
        "lmtp(8) reuses connections to the old address, which are kept by the host's name",
    ),
    Kind.INDEX_DOUBTFUL: Rule(
        Need.BEFORE_ACCEPTANCE,
        Need.BEFORE_ACCEPTANCE,
        "what processes have read is not known",
    ),
    Kind.INDEX_REPLACED: Rule(
        Need.BEFORE_ACCEPTANCE,
        Need.BEFORE_ACCEPTANCE,
        "processes may hold the file that was there before, and never look at the new one",
    ),
}
"""By kind of change, who may remember an answer that is wrong now, and what has to be done."""


@dataclass(frozen=True)
class Reading:
    """How a Postfix reads the maps, and how it may be made to read them again."""

    at_once: bool
    """Whether all processes see a change of an index as soon as it is made."""
    default_refuses: bool = False
    """Whether mail without a route is refused: relay_transport or default_transport is error(8)."""
    reload: str = "auto"
    """The configuration's postfix.reload: auto, always or never."""
    reload_now: bool = True
    """Whether the last reload was long enough ago for another one."""
    rebuild: bool = False
    """Whether the index of a map that changes is rebuilt, however little of it changes."""

    def need(self, kind: Kind) -> Need:
        """Look up what a kind of change needs here."""
        rule = RULES.get(kind)
        if not rule:
            return Need.NOTHING
        return rule.at_once if self.at_once else rule.otherwise


def kinds_of(
    installed: Installed,
    changes: Mapping[str, Diff],
    desired: Desired,
    *,
    default_refuses: bool,
) -> Iterator[Kind]:
    """Yield the kinds of change that lead from what is installed to what is desired.

    `changes` are those of each map.
    """
    routes, domains = changes[ROUTES], changes[DOMAINS]
    if routes.added:
        yield Kind.LIST_ADDED_DEFAULT_REFUSES if default_refuses else Kind.LIST_ADDED
    away = moved_addresses(routes)
    if away:
        yield Kind.LIST_MOVED
    if away != routes.changed:
        yield Kind.LIST_REORDERED
    if returning(changes):
        yield Kind.LIST_RETURNED
    if changes[RECIPIENTS].removed:
        yield Kind.LIST_REMOVED
    if changes[ALIASES]:
        yield Kind.ALIAS_CHANGED
    if domains.added:
        yield Kind.DOMAIN_ADDED
    if domains.removed:
        yield Kind.DOMAIN_REMOVED
    entering = (desired.hosts.keys() | desired.dropped) - installed.hosts.keys()
    used = {hop.host for hop in next_hops_of(installed.table(ROUTES))} if entering else set()
    if not entering.isdisjoint(used) or _old_addresses(installed, desired):
        yield Kind.HOST_READDRESSED
    conditions = {one.condition for one in installed.maps.values()}
    if Condition.BROKEN in conditions:
        yield Kind.INDEX_REPLACED
    if Condition.STALE in conditions:
        yield Kind.INDEX_DOUBTFUL


def addresses_left(installed: Installed, desired: Desired) -> frozenset[Destination]:
    """Find the addresses that hosts of routes had, and are not to have any more."""
    old = _old_addresses(installed, desired)
    if not old:
        return frozenset()
    hops = next_hops_of(installed.table(ROUTES)) | next_hops_of(desired.maps[ROUTES])
    return frozenset(Destination(old[hop.host], hop.port) for hop in hops if hop.host in old)


def _old_addresses(installed: Installed, desired: Desired) -> dict[str, str]:
    """Return the installed addresses of the host names that get another one, or are dropped."""
    return {
        name: installed.hosts[name]
        for name, address in {**desired.hosts, **dict.fromkeys(desired.dropped, "")}.items()
        if installed.hosts.get(name, address) != address
    }


def returning(changes: Mapping[str, Diff]) -> Table[str]:
    """Find the addresses that are accepted again, or lead elsewhere, to a route that has moved.

    Only the addresses of the result count, not their values.
    """
    away = moved_addresses(changes[ROUTES])
    if not away:
        return Table({}, {})
    aliases = changes[ALIASES]
    leading = {
        **{address: target for address, target in aliases.added.items() if target in away},
        **{address: new for address, (_, new) in aliases.changed.items() if new in away},
    }
    return changes[RECIPIENTS].added.common(away) | Table.of(leading)


def moved_addresses(routes: Diff) -> Table[Change]:
    """Find the addresses whose old next hops, as a process may remember them, are wrong now.

    They are right as long as each of them is still among the new ones, in whichever order.
    """
    moves = {change for change in routes.changed.distinct_values() if _is_move(change)}
    return routes.changed.with_values_in(moves)


def _is_move(change: Change) -> bool:
    old = set(parse_next_hops(change.old))
    return not old or not old <= set(parse_next_hops(change.new))
