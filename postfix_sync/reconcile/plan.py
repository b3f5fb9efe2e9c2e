"""Order the steps from what is installed to what is desired. Pure.

The plan is all that a sync changes; the dry run prints it, and the apply carries it out. Its order
is make before break. First it is noted if Postfix has to be reloaded; then

1. host names enter the hosts file and the chroot's copy;
2. routes are widened: what is installed or desired, what is desired winning; mail domains become
   what is desired;
3. where a process may remember an answer that is wrong now (visibility.py), Postfix is reloaded;
4. acceptance is widened in all maps, then narrowed in all maps: an address counts as accepted if
   recipients or aliases have it.

Nothing that a process may remember is removed: routes and host names that are no longer needed are
kept, and removed later (retirement.py).

Every state between two steps is one that Postfix can live with for as long as it likes: each
address that is accepted has a route that is seen, and each that is accepted before and after is
accepted in between. So a sync may be killed anywhere; and if Postfix was reloaded a moment ago, it
ends before the addresses that need another reload are accepted, which the next sync goes on with.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeAlias

from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import EVERY_DOMAIN, MOVED_LISTS, Condition, Desired, Installed
from postfix_sync.model.map_names import ALIASES, DOMAINS, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Diff, Maps, differences
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_change import Publish
from postfix_sync.reconcile.visibility import (
    REROUTING,
    RULES,
    URGENT,
    Kind,
    Need,
    Reading,
    addresses_left,
    kinds_of,
    returning,
)

ACCEPTING = (RECIPIENTS, ALIASES)
"""The maps of which an address has to be in one to be accepted."""


@dataclass(frozen=True)
class EnterHosts:
    """Make `names`, with their IP addresses, our block of the hosts file; the copy follows."""

    names: Mapping[str, str]


@dataclass(frozen=True)
class Owe:
    """Note on the disk that Postfix has to be reloaded, and what waits for it."""

    unseen: frozenset[str]
    left: frozenset[Destination] = frozenset()
    """Where nothing may be delivered any more, though the name leads elsewhere now."""


@dataclass(frozen=True)
class MakeVisible:
    """Make every process of Postfix that may remember a wrong answer start again."""

    reload: bool
    """By a reload; else by waiting."""
    remembered: bool
    """Whether waiting is not enough: processes remember more than their tables."""
    left: frozenset[Destination] = frozenset()
    """The addresses to which no open connection may be used any more."""


Step: TypeAlias = EnterHosts | Owe | Publish | MakeVisible


@dataclass(frozen=True)
class Plan:
    """The steps of one apply, what they change, by map, and what the maps hold after them."""

    steps: tuple[Step, ...]
    kinds: frozenset[Kind]
    changes: Mapping[str, Diff]
    result: Maps
    may_reload: bool = True
    """Whether Postfix may be reloaded at all."""
    waits: bool = False
    """Whether the next sync has to go on with it, because Postfix was reloaded a moment ago."""


def plan(installed: Installed, desired: Desired, reading: Reading) -> Plan:
    """Order the steps from `installed` to `desired`; none where nothing needs to be done."""
    wanted = _with_followed(desired.maps, installed.table(ROUTES))
    diffs = differences(Maps({name: installed.table(name) for name in MAP_NAMES}), wanted)
    kinds = frozenset(kinds_of(installed, diffs, desired, default_refuses=reading.default_refuses))
    need = max((reading.need(kind) for kind in kinds), default=Need.NOTHING)
    owed = installed.reload_owed
    left = addresses_left(installed, desired) | installed.left
    visible = _visible(kinds, reading, left, owed=owed) if need or owed else None
    unseen = _unseen(kinds, diffs, reading) | installed.unseen
    if not REROUTING.isdisjoint(kinds):
        unseen |= {MOVED_LISTS}
    waits = bool(need or owed) and not visible
    result = _result(installed, wanted, diffs, unseen if waits else frozenset())
    changes = {
        name: diffs[name]
        if result[name] is wanted[name]
        else Diff.between(installed.table(name), result[name])
        for name in MAP_NAMES
    }
    publishing = [
        *_repaired(installed),
        *_routed(installed, result, changes),
        *([visible] if visible else ()),
    ]
    if any(_is_lost(installed, name) for name in ACCEPTING):
        # A process that is started without a map answers for it with an error as long as it runs.
        again = MakeVisible(reload=reading.reload != "never", remembered=True)
        publishing += [Owe(frozenset()), *_accepting(installed, result, changes), again]
    else:
        publishing += _accepting(installed, result, changes)
    if publishing and not (need or visible) and reading.reload == "always":
        need = Need.BEFORE_DONE
        waits = not reading.reload_now
        publishing += [] if waits else [MakeVisible(reload=True, remembered=False)]
    steps = (
        *([Owe(unseen, left)] if need else ()),
        *_entered(installed, desired),
        *(publishing if reading.rebuild else _with_before(publishing, installed, changes)),
    )
    return Plan(steps, kinds, changes, result, reading.reload != "never", waits)


def _with_before(
    steps: Sequence[Step], installed: Installed, changes: Mapping[str, Diff]
) -> Iterator[Step]:
    """Say in each step that publishes a map what it changes, if that is certain."""
    held = {
        name: one.table for name, one in installed.maps.items() if one.condition is Condition.SOUND
    }
    names = [step.name for step in steps if isinstance(step, Publish)]
    for step in steps:
        if isinstance(step, Publish):
            whole = changes[step.name] if names.count(step.name) == 1 else None
            yield step.over(held.get(step.name), whole, installed.maps[step.name].version)
            held[step.name] = step.table
        else:
            yield step


def _with_followed(wanted: Maps, present: Table[str]) -> Maps:
    """Have the kept routes of addresses that are aliases now lead where the aliases do.

    Mail that cleanup(8) took before is delivered to the address itself, and the host that had its
    list may not know it any more.
    """
    routes, aliases = wanted[ROUTES], wanted[ALIASES]
    kept = present.common(aliases).beyond(routes)
    if not kept:
        return wanted
    followed = {key: routes[aliases[key]] for key in kept if aliases[key] in routes}
    return Maps({**wanted.tables, ROUTES: routes | Table.of(followed)})


def _visible(
    kinds: AbstractSet[Kind], reading: Reading, left: frozenset[Destination], *, owed: bool
) -> MakeVisible | None:
    """Choose how Postfix is made to see a change; None if the change has to wait for its turn."""
    remembered = owed or any(RULES[kind].at_once for kind in kinds)
    if reading.reload == "never":
        return MakeVisible(reload=False, remembered=remembered)
    now = reading.reload_now or not URGENT.isdisjoint(kinds)
    return MakeVisible(reload=True, remembered=remembered, left=left) if now else None


def _unseen(
    kinds: AbstractSet[Kind], diffs: Mapping[str, Diff], reading: Reading
) -> frozenset[str]:
    """Find the domains in which new addresses can't be accepted before a reload."""
    waiting = {kind for kind in kinds if reading.need(kind) is Need.BEFORE_ACCEPTANCE}
    if not waiting <= {Kind.DOMAIN_ADDED, Kind.LIST_RETURNED}:
        return frozenset({EVERY_DOMAIN})
    added = diffs[DOMAINS].added.keys() if Kind.DOMAIN_ADDED in waiting else frozenset[str]()
    back = returning(diffs).domains() if Kind.LIST_RETURNED in waiting else frozenset[str]()
    return frozenset({*added, *back})


def _entered(installed: Installed, desired: Desired) -> Iterator[EnterHosts]:
    kept = {name: ip for name, ip in installed.hosts.items() if name not in desired.dropped}
    block = {**kept, **desired.hosts}
    if block != installed.hosts or (block and not installed.hosts_copied):
        yield EnterHosts(block)


def _repaired(installed: Installed) -> Iterator[Publish]:
    """Give each index that can't be read a new file, with what its text says.

    A map that is gone altogether is published once, in its turn: Postfix puts mail off for as long
    as it has no map, and would refuse it by an empty one.
    """
    for name in MAP_NAMES:
        one = installed.maps[name]
        if one.condition is Condition.BROKEN and one.table:
            yield Publish(name, one.table, fresh=True)


def _routed(installed: Installed, result: Maps, changes: Mapping[str, Diff]) -> Iterator[Publish]:
    for name in (ROUTES, DOMAINS):
        if changes[name] or _is_in_doubt(installed, name):
            yield Publish(name, result[name], fresh=_is_lost(installed, name))


def _result(
    installed: Installed, wanted: Maps, diffs: Mapping[str, Diff], held: AbstractSet[str]
) -> Maps:
    """What the maps hold in the end; new addresses in domains of `held`, and those, come later.

    An address that goes from one map to the other stays in the one until it is in the other.
    """
    routes = wanted[ROUTES]
    if diffs[ROUTES].removed:
        routes = installed.table(ROUTES) | routes
    if not held:
        return Maps({**wanted.tables, ROUTES: routes})

    def is_held(domain: str) -> bool:
        return EVERY_DOMAIN in held or domain in held

    def entering(name: str) -> Table[str]:
        # An alias does not lead to another address, either, before that one's route is seen.
        free = wanted[name].without(wanted[name].within(is_held))
        return free | installed.table(name).common(wanted[name]).within(is_held)

    tables = {name: entering(name) for name in (DOMAINS, *ACCEPTING)}
    late = [wanted[name].beyond(tables[name]).with_value("") for name in ACCEPTING]
    for name in ACCEPTING:
        present = installed.table(name)
        tables[name] = present.common(late[0] | late[1]) | tables[name]
    return Maps({**tables, ROUTES: routes})


def _accepting(
    installed: Installed, result: Maps, changes: Mapping[str, Diff]
) -> Iterator[Publish]:
    """Widen acceptance in both maps, then narrow it in both.

    A map is published twice only if an address leaves it that the other map is to accept.
    """
    narrowed = []
    for name in ACCEPTING:
        table, change = result[name], changes[name]
        if not change and not _is_in_doubt(installed, name):
            continue
        lost = _is_lost(installed, name)
        if not (change.added or change.changed or lost):
            narrowed.append(Publish(name, table))
        elif not any(change.removed.common(result[other]) for other in ACCEPTING):
            yield Publish(name, table, fresh=lost)
        else:
            yield Publish(name, installed.table(name) | table, fresh=lost)
            narrowed.append(Publish(name, table))
    yield from narrowed


def _is_in_doubt(installed: Installed, name: str) -> bool:
    """Whether the index may hold something else than the text says, or nothing at all."""
    return installed.maps[name].condition is Condition.STALE or _is_lost(installed, name)


def _is_lost(installed: Installed, name: str) -> bool:
    """Whether there is neither an index that can be read, nor entries to make one of."""
    one = installed.maps[name]
    return one.condition is Condition.BROKEN and not one.table
