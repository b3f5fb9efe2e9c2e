"""Stage 7: bring the plan about. What is known is on the disk before the maps change."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError
from postfix_sync.model.installed import MOVED_LISTS, Desired, Installed
from postfix_sync.model.map_names import ALIASES, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.notice import Notice
from postfix_sync.model.source import Record
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.reconcile.apply import Outcome, carry_out
from postfix_sync.reconcile.changes import log_lines, named, preview
from postfix_sync.reconcile.keep import keep, keep_present, state_of
from postfix_sync.reconcile.partial_maps import held_back
from postfix_sync.reconcile.plan import Plan, plan
from postfix_sync.reconcile.reload_spacing import TURN_TAKES, no_turn
from postfix_sync.reconcile.retirement import noted
from postfix_sync.reconcile.visibility import REROUTING, Reading
from postfix_sync.store.known_texts import Known, Recorded
from postfix_sync.store.records import Stamp
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.reconcile.desired import DesiredState
    from postfix_sync.reconcile.hosts_entries import Target
    from postfix_sync.reconcile.inputs import Inputs
    from postfix_sync.reconcile.locked import Locked
    from postfix_sync.reconcile.report import Request

SHORTEST_WAIT = 0.1
"""Seconds after which a sync is continued at the earliest."""

Whose = Callable[[str], str]
"""Names the source or cluster that a key of a map belongs to."""


@dataclass(frozen=True)
class Planned:
    """The steps of a sync, from what is installed to what is desired."""

    target: "Target"
    steps: Plan
    whose: Whose


@dataclass(frozen=True)
class Effects:
    """What a sync did; of a dry run, what another one would do."""

    found: Installed
    """What was installed before."""
    installed: Installed
    """What is installed after it."""
    failed: tuple[SyncError, ...] = ()
    notices: tuple[Notice, ...] = ()
    lines: tuple[str, ...] = ()
    """What changed, for the log."""
    preview: tuple[str, ...] = ()
    """What a dry run prints."""
    pending: tuple[str, ...] = ()
    """The entries among that, as log lines."""
    changed: frozenset[str] = frozenset()
    """The sources and clusters whose entries changed."""
    entries: Mapping[str, int] = field(default_factory=dict)
    """How many entries were added, removed and changed."""
    stamps: Mapping[str, Stamp | None] = field(default_factory=dict)
    """By source, the version of its record, if that has its answer."""
    reloads: int = 0
    rerouted: bool = False
    """Whether mail of lists that were installed before goes elsewhere now."""
    waits: float = 0.0
    """Seconds after which another sync has to continue; 0 if none has to."""


def previewed(place: "Locked", planned: Planned) -> Effects:
    """Put the plan into words, for a dry run; nothing is written."""
    steps, installed = planned.steps, planned.target.installed
    lines = log_lines(steps, installed, set(MAP_NAMES), planned.whose)
    return Effects(
        found=installed,
        installed=installed,
        notices=planned.target.notices,
        preview=tuple(preview(steps, installed, place.hosts.path)),
        pending=tuple(line for party, line in lines if party),
    )


async def bring_about(
    place: "Locked", inputs: "Inputs", goal: "DesiredState", planned: Planned
) -> Effects:
    """Record the sources' lists, keep what is installed, carry the plan out, and keep the result.

    What keeps a sync from recording or keeping something is reported and stops no list.
    """
    target, steps = planned.target, planned.steps
    place.generations.discard_staged()
    place.hosts.discard_staged()
    recorded = _Recorded({})
    notices = target.notices
    if goal.may_record:
        recorded = await _record(place, inputs, goal)
        if any(steps.changes.values()):
            notices += await keep_present(place, target.installed, goal.decision.replaced)
    failed = recorded.failed + await _note_retiring(place, planned)
    done = _Done(steps, target.desired, Outcome())
    state = state_of(target.desired.maps, goal.decision.replaced)
    if steps.steps or target.installed.interrupted:
        if steps.steps and goal.may_record and not steps.waits:
            state()  # while Postfix and the disk are waited for
        try:
            done = await _carry_out(place, inputs, planned)
        except SyncError as error:
            failed += (error,)
            found = target.installed
            return Effects(found, found, failed, notices, stamps=recorded.stamps)
    failed += done.failed
    if steps.changes[RECIPIENTS].removed or steps.changes[ALIASES].removed:
        # A session that began during the sync may still accept what was removed.
        failed += await _note_retiring(place, planned)
    if done.waits and place.directory.reload_note.age() > TURN_TAKES:
        failed += (no_turn(),)
    if not done.waits and done.is_whole and (goal.may_record or goal.generation):
        notices += await keep(place, state, held=goal.generation)
    if goal.may_record and len(goal.decision.records) == len(inputs.sources):
        for name in place.unconfigured():
            place.records.remove(name)
    waits = 0.0
    if done.waits:
        age = place.directory.postfix.processes.reload_age
        waits = max(inputs.request.reload_age - age, SHORTEST_WAIT)
    installed = target.installed.after(done.outcome.texts)
    # What the check of all keys has found is not repaired yet if the sync is not whole.
    checked_at = inputs.checked_at if done.is_whole else inputs.known.checked_at
    recorded_tables = [
        Recorded(name, stamp, goal.decision.records[name].tables)
        for name, stamp in recorded.written.items()
        if stamp
    ]
    known = Known(installed.texts, checked_at)
    await asyncio.to_thread(place.known_texts.update, inputs.known, known, recorded_tables)
    made = Effects(
        target.installed, installed, failed, notices, stamps=recorded.stamps, waits=waits
    )
    return _described(made, done, planned)


@dataclass(frozen=True)
class _Recorded:
    """What became of recording the last good lists."""

    written: Mapping[str, Stamp | None]
    """By source, the version of its record, which has the lists of the decision."""
    let_through: AbstractSet[str] = frozenset()
    """The sources whose record has their answer."""
    failed: tuple[SyncError, ...] = ()

    @property
    def stamps(self) -> Mapping[str, Stamp | None]:
        """Return the versions of the records that have their source's answer."""
        return {name: at for name, at in self.written.items() if name in self.let_through}


async def _record(place: "Locked", inputs: "Inputs", goal: "DesiredState") -> _Recorded:
    """Write the last good lists of each source, if they changed."""
    records = place.records
    records.discard_staged()
    before = inputs.recorded
    written: dict[str, Stamp | None] = {}
    failed = []
    for name, record in goal.decision.records.items():
        try:
            if record != before.get(name) or _is_read_anew(record, before.get(name)):
                await records.write(name, record)
        except SyncError as error:
            if record != before.get(name):
                # No list has to wait for that: see `decide` for what is not in any record.
                failed.append(error)
                continue
        written[name] = records.stamp(name)
    return _Recorded(written, goal.decision.let_through, tuple(failed))


def _is_read_anew(record: Record, before: Record | None) -> bool:
    """Return whether the files of a record were read as a whole since it was written."""
    new, old = record.tables.origin, before.tables.origin if before else None
    if new is None:
        return False
    return old is None or (old.reader, old.read_at) != (new.reader, new.read_at)


async def _note_retiring(place: "Locked", planned: Planned) -> tuple[SyncError, ...]:
    """Note what is not needed from now on; what can't be noted is kept longer, and reported."""
    target = planned.target
    old = place.retirement.read()
    new = await run_in_daemon_thread(
        noted, old, planned.steps, target.installed, target.desired, time.time()
    )
    try:
        if new != old:
            place.retirement.write(new)
    except SyncError as error:
        return (error,)
    return ()


@dataclass(frozen=True)
class _Done:
    """The plan that was carried out in the end, and how far."""

    steps: Plan
    desired: Desired
    outcome: Outcome
    without_hosts: SyncError | None = None
    """Why the hosts file could not be written, and which lists are held back for it."""

    @property
    def failed(self) -> tuple[SyncError, ...]:
        """What went wrong."""
        return tuple(filter(None, (self.without_hosts, self.outcome.error)))

    @property
    def is_whole(self) -> bool:
        """Whether everything that was desired is installed."""
        return not self.failed

    @property
    def waits(self) -> bool:
        """Whether the rest waits for a reload of Postfix."""
        return self.steps.waits and not self.outcome.error


async def _carry_out(place: "Locked", inputs: "Inputs", planned: Planned) -> _Done:
    """Carry the plan out; if the hosts file can't be written, all of it that needs no new name."""
    target, steps = planned.target, planned.steps
    outcome = await carry_out(steps, target.installed, place)
    if not outcome.without_hosts:
        return _Done(steps, target.desired, outcome)
    desired, error = _without_names(place, outcome.without_hosts, target)
    installed = replace(target.installed, hosts_copied=True)  # it can't be, and is no reason
    reading = reading_of(place, inputs.request)
    steps = await run_in_daemon_thread(plan, installed, desired, reading)
    outcome = await carry_out(steps, installed, place)
    return _Done(steps, desired, outcome, error)


def _without_names(
    place: "Locked", error: SyncError, target: "Target"
) -> tuple[Desired, SyncError]:
    """Hold back the lists that are routed to a name which the hosts file lacks, and no others.

    Raises `error` if it is unknown which entries must be kept.
    """
    present = target.installed.readable
    if not present:
        raise error
    lacking = place.hosts.lacking(target.desired.hosts)
    routes = target.desired.maps[ROUTES]
    values = {
        value
        for value in routes.distinct_values()
        if any(hop.host in lacking for hop in parse_next_hops(value))
    }
    held = routes.with_values_in(values)
    if held:
        needed = f"held back, for want of {' and '.join(sorted(lacking))} there"
        left = named("list", held.names())
        error = type(error)(
            f"{error.message}; {needed}: {left}; every other list goes in", error.hint
        )
    return Desired(held_back(target.desired.maps, present, held), target.installed.hosts), error


def _described(made: Effects, done: _Done, planned: Planned) -> Effects:
    """Add what was carried out, in words and numbers."""
    outcome, steps, installed = done.outcome, done.steps, planned.target.installed
    lines = list(log_lines(steps, installed, outcome.published, planned.whose))
    entries: Counter[str] = Counter()
    for name in outcome.published:
        diff = steps.changes[name]
        entries.update(added=len(diff.added), removed=len(diff.removed), changed=len(diff.changed))
    rerouted = MOVED_LISTS in installed.unseen or not REROUTING.isdisjoint(steps.kinds)
    return replace(
        made,
        lines=(*outcome.lines, *(line for _, line in lines)),
        changed=frozenset(party for party, _ in lines),
        entries=entries,
        reloads=outcome.reloads,
        rerouted=rerouted and not steps.waits,
    )


def reading_of(place: "Locked", request: "Request") -> Reading:
    """Determine how this Postfix reads the maps, and whether it may be reloaded now."""
    instance = place.directory.postfix
    return Reading(
        at_once=place.directory.is_seen_at_once,
        default_refuses=instance.default_refuses,
        reload=place.config.postfix.reload,
        reload_now=instance.processes.reload_age >= request.reload_age,
        rebuild=request.force,
    )
