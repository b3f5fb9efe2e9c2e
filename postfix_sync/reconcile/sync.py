"""One sync, top to bottom. Each stage is a function of the ones before, in a module of its own.

    inputs     what is installed, what each source said, what was known   inputs.py
    order      a generation is held, or the hold released                 hold.py
    decision   what counts of each source, merged into one set of maps    decide.py, merge.py
    desired    what the maps and the hosts file are to hold               desired.py, deliverable.py
    target     with the names that are ours to enter                      hosts_entries.py
    plan       the ordered steps from installed to desired                plan.py, visibility.py
    effects    the steps carried out, or previewed                        effects.py, apply.py
    report     what an operator, the status and the log are given         reporting.py

A sync is level-triggered: it acts on the difference between the disk and the sources, and why it
was started plays no part. So a killed sync is completed by the next one, and a daemon agrees with
a `--once` beside it. The sources were polled before (fetch.py): a sync waits for none of them.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError, SyncError, is_out_of_memory, out_of_memory, why
from postfix_sync.reconcile.clusters import Ranking
from postfix_sync.reconcile.decide import Allowed, Decision, decide
from postfix_sync.reconcile.desired import DesiredState, desired_state
from postfix_sync.reconcile.effects import Effects, Planned, bring_about, previewed, reading_of
from postfix_sync.reconcile.fetch import Fetched
from postfix_sync.reconcile.hold import obey
from postfix_sync.reconcile.hosts_entries import with_hosts_entries
from postfix_sync.reconcile.inputs import Inputs, gather
from postfix_sync.reconcile.locked import Locked, locked
from postfix_sync.reconcile.plan import plan
from postfix_sync.reconcile.report import PLAIN, Report, Request
from postfix_sync.reconcile.reporting import report, wiring_notices
from postfix_sync.system.tasks import to_its_end
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.postfix.inspection import Inspector
    from postfix_sync.reconcile.effects import Whose


async def sync(
    config: "Config",
    answers: Mapping[str, Fetched],
    rankings: Mapping[str, Ranking],
    request: Request = PLAIN,
    inspector: "Inspector | None" = None,
) -> Report:
    """Make one sync. What an operator can fix is in the report's errors, not raised.

    `answers` are the sources' by name; of a source without one, its last good lists count.
    `rankings` are the clusters'. `inspector` has inspected Postfix before.
    """
    began = time.monotonic()
    made = await _reported(config, answers, rankings, request, inspector)
    return replace(made, seconds=time.monotonic() - began)


async def _reported(
    config: "Config",
    answers: Mapping[str, Fetched],
    rankings: Mapping[str, Ranking],
    request: Request,
    inspector: "Inspector | None",
) -> Report:
    """Make the sync under the lock; whatever stops it is the report's error."""
    try:
        async with locked(config, inspector, create=not request.dry_run) as place:
            return await _stages(place, answers, rankings, request)
    except SyncError as error:
        return Report(failed=(error,))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Report(failed=(out_of_memory("the sync"),))
    except OSError as error:
        # What no stage foresaw, such as a file that another process removes while it is read.
        failed = ApplyError(f"{error.filename or 'the sync'}: {why(error)}")
        return Report(failed=(failed,))


async def _stages(
    place: Locked,
    answers: Mapping[str, Fetched],
    rankings: Mapping[str, Ranking],
    request: Request,
) -> Report:
    inputs = await gather(place, answers, rankings, request)
    order = await obey(place, inputs)
    decision = await run_in_daemon_thread(
        decide,
        inputs.sources,
        order.installed,
        rankings,
        forgotten=inputs.forgotten,
        allowed=Allowed(place.directory.postfix.several_next_hops, inputs.routable),
    )
    goal = await desired_state(place, inputs, order, decision)
    effects = await _effects(place, inputs, goal)
    wiring = await wiring_notices(place, goal)
    return await run_in_daemon_thread(report, place, inputs, goal, effects, wiring)


async def _effects(place: Locked, inputs: Inputs, goal: DesiredState) -> Effects:
    """Plan, and carry the plan out or preview it. The work is not cancelled halfway."""
    found = inputs.installed
    if not goal.desired:
        return Effects(found, found)
    try:
        target = with_hosts_entries(place, goal.desired, found)
        found = target.installed
        reading = reading_of(place, inputs.request)
        steps = await run_in_daemon_thread(plan, found, target.desired, reading)
        planned = Planned(target, steps, _owner(inputs, goal.decision))
        if inputs.request.dry_run:
            return previewed(place, planned)
        return await to_its_end(bring_about(place, inputs, goal, planned))
    except SyncError as error:
        return Effects(found, found, failed=(error,))


def _owner(inputs: Inputs, decision: Decision) -> "Whose":
    """Name the source or cluster that a key is, or was, served for."""
    owners = [(party.name, party.tables) for party in decision.merged.parties]
    owners += [(one.party, one.recorded.tables) for one in inputs.sources if one.recorded]
    owners += [(name, record.tables) for name, record in inputs.forgotten.items()]
    unknown = ", ".join(dict.fromkeys(source.party for source in inputs.sources))
    return lambda key: next((name for name, tables in owners if tables.names(key)), unknown)
