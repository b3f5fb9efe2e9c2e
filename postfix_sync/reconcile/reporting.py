"""Stage 8: the report, from what the sync did and what is on the disk after it."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError
from postfix_sync.model.map_names import RECIPIENTS
from postfix_sync.model.maps import Maps
from postfix_sync.model.notice import Notice
from postfix_sync.model.table import Table
from postfix_sync.postfix.main_cf.address_classes import classify
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.main_cf.map_type import type_notices
from postfix_sync.postfix.main_cf.requirements import cluster_notices
from postfix_sync.postfix.main_cf.requirements import notices as main_cf_notices
from postfix_sync.reconcile.locked import installation
from postfix_sync.reconcile.report import Report, SourceReport

if TYPE_CHECKING:
    from postfix_sync.config.schema import SourceSection
    from postfix_sync.reconcile.desired import DesiredState
    from postfix_sync.reconcile.effects import Effects
    from postfix_sync.reconcile.inputs import Inputs
    from postfix_sync.reconcile.locked import Locked


async def wiring_notices(place: "Locked", goal: "DesiredState") -> tuple[Notice, ...]:
    """Warn of what main.cf lacks for the desired maps to work. No table of others is queried."""
    if not goal.desired:
        return ()
    directory = place.directory
    ours = installation(place.config, directory.map_type, bool(goal.desired.hosts))
    tables = Tables(directory.postfix, ours, goal.desired.maps.tables, queries_others=False)
    classes = await classify(tables)
    # The maps are built always, but in a dry run before the first sync.
    first = "" if directory.is_built else place.config.command("--once")
    found = [
        *main_cf_notices(directory.postfix, ours, classes, first),
        *type_notices(directory.kind, place.config.command("doctor")),
    ]
    if any(party.replicas for party in goal.decision.merged.parties):
        found += cluster_notices(directory.postfix)
    return tuple(found)


def report(
    place: "Locked",
    inputs: "Inputs",
    goal: "DesiredState",
    effects: "Effects",
    wiring: tuple[Notice, ...],
) -> Report:
    """Describe the sync and what is installed after it; `wiring` are the notices of main.cf."""
    known_hosts: dict[str, str] = {}
    with suppress(SyncError):  # reported before, and no error if no hosts entry is desired
        known_hosts = place.hosts.read().lookup()
    installed = effects.installed.readable
    return Report(
        failed=(*goal.failed, *effects.failed),
        sources={
            section.name: _source_report(section, inputs, goal, effects, installed)
            for section in place.config.sources
        },
        notices=(*inputs.notices, *goal.notices, *effects.notices, *wiring),
        lines=effects.lines,
        preview=effects.preview,
        pending=effects.pending,
        found=effects.found,
        map_type=place.directory.map_type,
        installed=installed,
        updated=place.directory.updated(),
        clusters={
            party.name: party.replicas for party in goal.decision.merged.parties if party.replicas
        },
        entries=effects.entries,
        reloads=effects.reloads,
        rerouted=effects.rerouted,
        waits=effects.waits,
        generation=place.generations.installed(place.directory.texts()),
        held=goal.hold,
        waiting=goal.waiting,
        lmtp=replace(place.directory.postfix.lmtp, known=known_hosts),
    )


def _source_report(
    section: "SourceSection",
    inputs: "Inputs",
    goal: "DesiredState",
    effects: "Effects",
    installed: Maps | None,
) -> SourceReport:
    name = section.name
    answer = inputs.answers.get(name)
    has_failed = answer is not None and answer.error is not None
    served = Table[str].of({})
    if installed:
        served = goal.decision.served(name).common(installed[RECIPIENTS])
    return SourceReport(
        errors=tuple(goal.decision.errors[name]),
        lists=len(served.names()),
        entries=len(served),
        changed=(section.cluster or name) in effects.changed,
        stamp=effects.stamps.get(name),
        answered_at=answer.at if answer and not has_failed else None,
        failed_at=answer.at if answer and has_failed else None,
        outdated=name in inputs.outdated,
    )
