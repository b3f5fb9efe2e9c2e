"""A plan in words: log lines, and the listing of a dry run. Pure."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.model.installed import Condition, Installed
from postfix_sync.model.map_names import ALIASES, DOMAINS, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Change, Diff, Maps
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_change import Publish
from postfix_sync.reconcile.plan import EnterHosts, MakeVisible, Plan
from postfix_sync.text import counted

NAMED_AT_MOST = 5

_WHY_BUILT = {
    Condition.BROKEN: "it had no index that could be read",
    Condition.STALE: "its index was older than its text, or a sync was interrupted",
}


def log_lines(
    plan: Plan, installed: Installed, done: AbstractSet[str], whose: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    """Yield what a plan changed: the source or cluster, and a log line for each kind of change.

    `done` are the maps that were published; `whose` names the source of a key. Routes that are only
    kept for a while are not mentioned.
    """
    changed = {name: _divided(diff, whose) for name, diff in plan.changes.items() if name in done}
    for party in sorted({party for parts in changed.values() for party in parts}):
        own = {name: parts[party] for name, parts in changed.items() if party in parts}
        for line in _lines_of(own):
            yield party, f"{party}: {line}"
    for name in MAP_NAMES:
        one = installed.maps[name]
        if name in done and not plan.changes[name] and one.table and one.condition in _WHY_BUILT:
            yield "", f"{name}: built again: {_WHY_BUILT[one.condition]}"


def _divided(diff: Diff, whose: Callable[[str], str]) -> dict[str, Diff]:
    """Divide a difference by source."""
    kinds = diff.added.units(), diff.removed.units(), diff.changed.units()
    parts: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for number, units in enumerate(kinds):
        for unit in units:
            parts.setdefault(whose(unit), ([], [], []))[number].append(unit)
    return {
        party: Diff(
            diff.added.of_units(added), diff.removed.of_units(removed), diff.changed.of_units(new)
        )
        for party, (added, removed, new) in parts.items()
    }


def difference(old: Maps, new: Maps) -> list[str]:
    """Describe the difference of two states: `+1 list: NAME`, `-2 domains: NAME, NAME`."""
    return list(_lines_of({name: Diff.between(old[name], new[name]) for name in MAP_NAMES}))


def _lines_of(changed: Mapping[str, Diff]) -> Iterator[str]:
    for name, what in ((RECIPIENTS, "list"), (DOMAINS, "domain"), (ALIASES, "alias")):
        if name in changed:
            for sign, table in (("+", changed[name].added), ("-", changed[name].removed)):
                if table:
                    yield f"{sign}{named(what, _lists(table))}"
    if ROUTES in changed:
        moved = changed[ROUTES].changed
        changes = moved.distinct_values()
        for next_hop in sorted({change.new for change in changes}):
            to_it = {change for change in changes if change.new == next_hop}
            names = _lists(moved.with_values_in(to_it))
            yield f"~{named('list', names)} -> {next_hop}"


def _lists(table: Table[str] | Table[Change]) -> AbstractSet[str]:
    """Return the lists of a table; its addresses, if it has only parts of lists."""
    return table.names() or table.keys()


def named(what: str, names: AbstractSet[str]) -> str:
    """Format names: `1 list: NAME`, `7 lists: NAME, NAME, NAME, NAME, NAME and 2 more`."""
    named = ", ".join(sorted(names)[:NAMED_AT_MOST])
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return f"{counted(len(names), what)}: {named}{more}"


def preview(plan: Plan, installed: Installed, hosts_file: object) -> Iterator[str]:
    """Yield the listing of a dry run: hosts entries, entries under their maps, reloads."""
    published = {step.name for step in plan.steps if isinstance(step, Publish)}
    for step in plan.steps:
        if isinstance(step, EnterHosts):
            yield str(hosts_file)
            hosts = Diff.between(Table.of(installed.hosts), Table.of(step.names))
            entered = list(entries(hosts))
            yield from entered or ["(its copy in the chroot is brought in step)"]
    for name in MAP_NAMES:
        if plan.changes[name]:
            yield name
            yield from entries(plan.changes[name])
        elif name in published:
            yield name
            empty = not plan.result[name]
            yield "(built; empty)" if empty else "(built again; its entries stay as they are)"
    if any(isinstance(step, MakeVisible) and step.reload for step in plan.steps):
        yield "postfix"
        yield "reload"


def entries(diff: Diff) -> Iterator[str]:
    """Yield a difference as `+ KEY VALUE`, `- KEY VALUE`, `~ KEY OLD -> NEW`."""
    lines = [
        *((key, f"+ {key} {value}") for key, value in diff.added.items()),
        *((key, f"- {key} {value}") for key, value in diff.removed.items()),
        *((key, f"~ {key} {old} -> {new}") for key, (old, new) in diff.changed.items()),
    ]
    yield from (line for _, line in sorted(lines))
