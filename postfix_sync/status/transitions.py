"""Compute the status after a sync, a probe or a flush. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from postfix_sync import __version__
from postfix_sync.errors import SyncError, worst
from postfix_sync.model.destination import Destination
from postfix_sync.model.probe_result import PHASES, ProbeResult
from postfix_sync.postfix.queue import DeferredMail
from postfix_sync.reconcile.clusters import Ranking
from postfix_sync.reconcile.report import Report, SourceReport
from postfix_sync.status.schema import (
    NOBODY_THERE,
    ClusterStatus,
    DestinationStatus,
    ErrorStatus,
    MapStatus,
    QueueStatus,
    SourceStatus,
    Status,
    SyncsStatus,
    _unknown_source,
    state_of,
    touched,
)
from postfix_sync.text import iso, seconds_of

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

OUTAGE = 300.0
"""Seconds of downtime after which a member of a cluster is tried last."""

RECOVERED = 1800.0
"""Seconds of uptime after which that member has its place in the order again."""

DOWN_AFTER = 2
"""Failed probes in a row after which a destination that was up counts as down."""


def after_sync(old: Status, config: "Config", report: Report, now: float) -> Status:
    """Return the status after a sync; `now` is in seconds since the epoch. Pure.

    Without probes, there is no state of destinations; without metrics, the queue is not counted.
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
            source.name: _source(old["sources"].get(source.name), source.name, report, now)
            for source in config.sources
        },
        maps=old["maps"],
        destinations=old["destinations"] if probing else {},
        clusters=old["clusters"],
        passes=_syncs(old["passes"], report, now),
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
        known = {destination.endpoint for destination in report.destinations}
        status["destinations"] = {
            endpoint: destination
            for endpoint, destination in status["destinations"].items()
            if endpoint in known
        }
        status["maps"] = {
            name: MapStatus(type=report.map_type, entries=len(table), updated=iso(updated))
            for name, table in report.installed.tables.items()
            if (updated := report.updated.get(name))
        }
    return status


def _syncs(before: SyncsStatus, report: Report, now: float) -> SyncsStatus:
    failed = bool(report.failed)
    since = before["failing_since"] or iso(now)
    return SyncsStatus(
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
    source = report.sources.get(name)
    errors = [
        *(source.errors if source and not _is_outlived(source, before) else ()),
        *report.failed,
    ]
    counted = source if source and report.installed else None
    seen = iso(source.answered_at if source and source.answered_at else now)
    found = SourceStatus(
        **{
            **before,
            "lists": counted.lists if counted else before["lists"],
            "entries": counted.entries if counted else before["entries"],
            "last_change": seen if source and source.changed else before["last_change"],
        }
    )
    if errors:
        status = worst(error.status for error in errors)
        error = next(error for error in errors if error.status is status)
        found["state"] = state_of(error)
        found["error"] = _error(error)
        found["failing_since"] = before["failing_since"] or iso(now)
    elif source and source.answered_at:  # else it was not polled meanwhile
        found["state"], found["error"], found["failing_since"] = "ok", None, None
        found["last_success"] = seen
    return found


def _is_outlived(source: SourceReport, before: SourceStatus) -> bool:
    """Return whether an error is older than a success that another process has recorded since."""
    success = before["last_success"]
    return (
        source.failed_at is not None
        and success is not None
        and seconds_of(success) > source.failed_at
    )


def _cluster(before: ClusterStatus | None, hops: Mapping[Destination, str]) -> ClusterStatus:
    members = {hop.endpoint for hop in hops}
    return ClusterStatus(
        destinations=sorted(members),
        last=[endpoint for endpoint in before["last"] if endpoint in members] if before else [],
        nameless=[endpoint for endpoint in before["nameless"] if endpoint in members]
        if before
        else [],
        changed=before["changed"] if before else None,
    )


def after_probes(old: Status, results: Iterable[ProbeResult], now: float) -> Status:
    """Return the status after probes; `now` is in seconds since the epoch. Pure."""
    destinations = dict(old["destinations"])
    for result in results:
        endpoint = result.destination.endpoint
        destinations[endpoint] = _probed(destinations.get(endpoint), result, now)
    clusters = {
        name: _reordered(cluster, destinations, now) for name, cluster in old["clusters"].items()
    }
    return touched(Status(**{**old, "destinations": destinations, "clusters": clusters}), now)


def after_count(
    old: Status, deferred: Mapping[Destination, DeferredMail] | None, now: float
) -> Status:
    """Return the status after a count of the deferred queue; None if that failed. Pure."""
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
    """Return a destination's status after one more probe.

    One success makes it up. DOWN_AFTER failures in a row make it down, or the first failure if no
    probe has found it up yet.
    """
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
    """Return the destinations whose last probe failed, as HOST:PORT.

    With `still_up`, only those that still count as up.
    """
    return {
        endpoint
        for endpoint, destination in status["destinations"].items()
        if destination["failures"] and (destination["up"] or not still_up)
    }


def due_early(status: Status) -> AbstractSet[str]:
    """Return the destinations to probe again before the next round of probes, as HOST:PORT.

    Those are the destinations that still count as up after a failed probe, and those where no
    Mailman runs, so that its return is noticed early. A Mailman that answers but does not accept
    mail is not probed early: each probe costs it work and lines in its log, for as long as its
    database is down.
    """
    return {
        endpoint
        for endpoint, destination in status["destinations"].items()
        if destination["failures"] and (destination["up"] or destination["phase"] in NOBODY_THERE)
    }


def after_flush(old: Status, endpoints: Iterable[str], began: float) -> Status:
    """Return the status after the deferred mail of these destinations was retried. Pure.

    `began` is when the queue was first listed, in seconds since the epoch: a probe that fails later
    makes another recovery due.
    """
    flushed = set(endpoints)
    destinations = {
        endpoint: DestinationStatus(**{**destination, "last_flush": iso(began)})
        if endpoint in flushed
        else destination
        for endpoint, destination in old["destinations"].items()
    }
    return Status(**{**old, "destinations": destinations})


def _reordered(
    cluster: ClusterStatus, destinations: Mapping[str, DestinationStatus], now: float
) -> ClusterStatus:
    """Return a cluster whose members that have been down for OUTAGE are tried last.

    Postfix fails over to the next member automatically, so an outage of minutes does not justify a
    rebuild of all the cluster's routes. If all members are down, the order does not matter. A
    member whose name resolves to no address (see `Ranking`) is moved at once.
    """
    probed = {
        endpoint: destinations[endpoint]
        for endpoint in cluster["destinations"]
        if endpoint in destinations
    }
    nameless = [
        endpoint
        for endpoint, found in probed.items()
        if found["failures"] and found["phase"] == PHASES[0]
    ]
    last = [
        name
        for name, found in probed.items()
        if name in nameless or _is_tried_last(found, name in cluster["last"], now)
    ]
    if last == cluster["last"] and nameless == cluster["nameless"]:
        return cluster
    lost = set(nameless) - set(cluster["nameless"])
    if len(last) == len(cluster["destinations"]) and not lost:
        return cluster
    return ClusterStatus(
        destinations=cluster["destinations"], last=last, nameless=nameless, changed=iso(now)
    )


def _is_tried_last(destination: DestinationStatus, was_last: bool, now: float) -> bool:
    """Return whether a member of a cluster is tried last: after OUTAGE down, until RECOVERED up."""
    lasted = now - seconds_of(destination["since"])
    if destination["up"]:
        return was_last and lasted < RECOVERED
    return was_last or lasted >= OUTAGE


def rankings(status: Status) -> dict[str, Ranking]:
    """Return, by name of a cluster, which of its destinations are tried last, or are nameless."""
    return {
        name: Ranking(frozenset(cluster["last"]), frozenset(cluster["nameless"]))
        for name, cluster in status["clusters"].items()
    }
