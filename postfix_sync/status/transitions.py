"""How a sync, a probe or a flush changes the status. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from postfix_sync import __version__
from postfix_sync.errors import SyncError, worst
from postfix_sync.model import PHASES, Destination, ProbeResult
from postfix_sync.postfix.queue import Waiting
from postfix_sync.reconcile.merge import Ranking
from postfix_sync.reconcile.report import Report, SourceReport
from postfix_sync.status.schema import (
    NOBODY_THERE,
    ClusterStatus,
    DestinationStatus,
    ErrorStatus,
    MapStatus,
    PassesStatus,
    QueueStatus,
    SourceStatus,
    Status,
    _unknown_source,
    state_of,
    touched,
)
from postfix_sync.text import iso, seconds_of

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

OUTAGE = 300.0
"""Seconds after which a member of a cluster that is down is tried last."""

RECOVERED = 1800.0
"""Seconds after which one that is up again takes its place in the order again."""

DOWN_AFTER = 2
"""Probes in a row that have to fail until a destination that was up counts as down."""


def after_pass(old: Status, config: "Config", report: Report, now: float) -> Status:
    """The status after a pass. Pure.

    What is not probed has no state, and a queue that is not counted has no numbers.
    """
    probing = config.probe.level != "off"
    status = Status(
        version=__version__,
        updated=iso(now),
        generation=old["generation"],
        held=old["held"],
        held_since=old["held_since"],
        waiting=old["waiting"],
        sources={
            one.name: _source(old["sources"].get(one.name), one.name, report, now)
            for one in config.sources
        },
        maps=old["maps"],
        destinations=old["destinations"] if probing else {},
        clusters=old["clusters"],
        passes=_passes(old["passes"], report, now),
        queue=old["queue"] if config.metrics.enabled else None,
    )
    if report.sources:
        status["generation"] = report.generation
        status["held"] = report.held is not None
        status["held_since"] = iso(report.held.since) if report.held else None
        status["waiting"] = report.waiting
        status["clusters"] = {
            name: _cluster(old["clusters"].get(name) if probing else None, members)
            for name, members in report.clusters.items()
        }
    if report.installed:
        known = {one.endpoint for one in report.destinations}
        status["destinations"] = {
            endpoint: one for endpoint, one in status["destinations"].items() if endpoint in known
        }
        status["maps"] = {
            name: MapStatus(type=report.map_type, entries=len(table), updated=iso(updated))
            for name, table in report.installed.tables.items()
            if (updated := report.updated.get(name))
        }
    return status


def _passes(before: PassesStatus, report: Report, now: float) -> PassesStatus:
    failed = bool(report.failed)
    since = before["failing_since"] or iso(now)
    return PassesStatus(
        last_attempt=iso(now),
        last_success=before["last_success"] if failed else iso(now),
        failing_since=since if failed else None,
        error=_error(report.failed[0]) if failed else None,
        seconds=round(report.seconds, 3),
        made=before["made"] + 1,
        failed=before["failed"] + failed,
        reloads=before["reloads"] + report.reloads,
        entries={
            kind: before["entries"].get(kind, 0) + report.entries.get(kind, 0)
            for kind in ("added", "removed", "changed")
        },
    )


def _error(error: SyncError) -> ErrorStatus:
    return ErrorStatus(message=error.message, hint=error.hint)


def _source(before: SourceStatus | None, name: str, report: Report, now: float) -> SourceStatus:
    before = before or _unknown_source()
    one = report.sources.get(name)
    errors = [*(one.errors if one and not _is_outlived(one, before) else ()), *report.failed]
    counted = one if one and report.installed else None
    seen = iso(one.answered_at if one and one.answered_at else now)
    found = SourceStatus(
        **{
            **before,
            "lists": counted.lists if counted else before["lists"],
            "entries": counted.entries if counted else before["entries"],
            "last_change": seen if one and one.changed else before["last_change"],
        }
    )
    if errors:
        status = worst(error.status for error in errors)
        error = next(error for error in errors if error.status is status)
        found["state"] = state_of(error)
        found["error"] = _error(error)
        found["failing_since"] = before["failing_since"] or iso(now)
    elif one and one.answered_at:  # else it was not asked in the meantime
        found["state"], found["error"], found["failing_since"] = "ok", None, None
        found["last_success"] = seen
    return found


def _is_outlived(one: SourceReport, before: SourceStatus) -> bool:
    """Whether an error is older than a success that another process has noted meanwhile."""
    success = before["last_success"]
    return one.failed_at is not None and success is not None and seconds_of(success) > one.failed_at


def _cluster(before: ClusterStatus | None, hops: Mapping[Destination, str]) -> ClusterStatus:
    members = {one.endpoint for one in hops}
    return ClusterStatus(
        destinations=sorted(members),
        last=[one for one in before["last"] if one in members] if before else [],
        nameless=[one for one in before["nameless"] if one in members] if before else [],
        changed=before["changed"] if before else None,
    )


def after_probes(old: Status, results: Iterable[ProbeResult], now: float) -> Status:
    """The status after probes. Pure."""
    destinations = dict(old["destinations"])
    for result in results:
        endpoint = result.destination.endpoint
        destinations[endpoint] = _probed(destinations.get(endpoint), result, now)
    clusters = {
        name: _reordered(cluster, destinations, now) for name, cluster in old["clusters"].items()
    }
    return touched(Status(**{**old, "destinations": destinations, "clusters": clusters}), now)


def after_count(old: Status, deferred: Mapping[Destination, Waiting] | None, now: float) -> Status:
    """The status after the deferred queue was counted; None: it could not be. Pure."""
    queue = None
    if deferred is not None:
        queue = {
            destination.endpoint: QueueStatus(
                messages=len(found.queue_ids), oldest=iso(found.oldest) if found.queue_ids else None
            )
            for destination, found in deferred.items()
        }
    return touched(Status(**{**old, "queue": queue}), now)


def _probed(before: DestinationStatus | None, result: ProbeResult, now: float) -> DestinationStatus:
    """A destination after one more probe: one success and it is up, DOWN_AFTER failures and it is
    down. One that was never seen up is down at the first."""
    failures = 0 if result.up else (before["failures"] if before else 0) + 1
    up = result.up or bool(before and before["up"] and failures < DOWN_AFTER)
    return DestinationStatus(
        up=up,
        since=before["since"] if before and before["up"] == up else iso(now),
        phase=result.phase,
        reply=result.reply,
        seconds=result.seconds,
        error=result.error,
        failures=failures,
        last_failure=(before["last_failure"] if before else None) if result.up else iso(now),
        last_flush=before["last_flush"] if before else None,
    )


def doubted(status: Status, *, still_up: bool = False) -> AbstractSet[str]:
    """The destinations that did not answer the last time; `still_up`: those that count as up."""
    return {
        endpoint
        for endpoint, one in status["destinations"].items()
        if one["failures"] and (one["up"] or not still_up)
    }


def asked_soon(status: Status) -> AbstractSet[str]:
    """The destinations to be asked again before the next round of probes.

    Those are the ones in doubt, and those where nobody is, to see when somebody is back. One that
    answers, and does not take mail, has somebody at home: each question is work for that Mailman,
    and lines in its log, for as long as its database is away.
    """
    return {
        endpoint
        for endpoint, one in status["destinations"].items()
        if one["failures"] and (one["up"] or one["phase"] in NOBODY_THERE)
    }


def after_flush(old: Status, endpoints: Iterable[str], began: float) -> Status:
    """The status after what waited for these destinations was sent on its way. Pure.

    `began` is when the queue was looked at: what failed after that is not covered.
    """
    flushed = set(endpoints)
    destinations = {
        endpoint: DestinationStatus(**{**one, "last_flush": iso(began)})
        if endpoint in flushed
        else one
        for endpoint, one in old["destinations"].items()
    }
    return Status(**{**old, "destinations": destinations})


def _reordered(
    cluster: ClusterStatus, destinations: Mapping[str, DestinationStatus], now: float
) -> ClusterStatus:
    """A cluster with those of its members tried last that have been down for long.

    Postfix goes on to the next member by itself, so an outage of minutes is no reason to build all
    of the cluster's routes again. Where all are down, no order is better than another. A name that
    has no address is another matter (see `Ranking`), and does not wait.
    """
    probed = {one: destinations[one] for one in cluster["destinations"] if one in destinations}
    nameless = [
        one for one, found in probed.items() if found["failures"] and found["phase"] == PHASES[0]
    ]
    last = [
        name
        for name, one in probed.items()
        if name in nameless or _is_tried_last(one, name in cluster["last"], now)
    ]
    if last == cluster["last"] and nameless == cluster["nameless"]:
        return cluster
    lost = set(nameless) - set(cluster["nameless"])
    if len(last) == len(cluster["destinations"]) and not lost:
        return cluster
    return ClusterStatus(
        destinations=cluster["destinations"], last=last, nameless=nameless, changed=iso(now)
    )


def _is_tried_last(one: DestinationStatus, was_last: bool, now: float) -> bool:
    """Whether a member of a cluster goes last: down for OUTAGE, until it is up for RECOVERED."""
    lasted = now - seconds_of(one["since"])
    if one["up"]:
        return was_last and lasted < RECOVERED
    return was_last or lasted >= OUTAGE


def rankings(status: Status) -> dict[str, Ranking]:
    """What is known of the clusters' destinations."""
    return {
        name: Ranking(frozenset(cluster["last"]), frozenset(cluster["nameless"]))
        for name, cluster in status["clusters"].items()
    }
