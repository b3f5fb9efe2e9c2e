"""status.json: what the last passes and probes found, for `postfix-sync status` and for monitoring.

The file is the only memory: a daemon and a `--once` beside it both add to what they find there. It
is replaced at once, never half written, and only under the lock. A file that can't be read is
started anew: it holds nothing that the next pass doesn't find out again.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypedDict

from postfix_sync import __version__
from postfix_sync.changes import iso, seconds_of
from postfix_sync.errors import NotPermitted, OutOfReach, Refused, SyncError, why, worst
from postfix_sync.log import LOG
from postfix_sync.merge import Ranking
from postfix_sync.model import PHASES, Destination, ProbeResult
from postfix_sync.queue import Waiting
from postfix_sync.stored import loads, shaped
from postfix_sync.sync import LOCK_NAME, Report, SourceReport
from postfix_sync.system import denied_hint, lock, read_file, replace_file, unwritable

if TYPE_CHECKING:
    from postfix_sync.config import Config

STATUS_NAME = "status.json"

OUTAGE = 300.0
"""Seconds after which a member of a cluster that is down is tried last."""

RECOVERED = 1800.0
"""Seconds after which one that is up again takes its place in the order again."""

DOWN_AFTER = 2
"""Probes in a row that have to fail until a destination that was up counts as down."""

NOBODY_THERE = PHASES[:3]
"""A probe that fails in one of these phases, up to the greeting, has met no Mailman."""


def _is_moment(text: str) -> bool:
    """Whether `iso` could have written it."""
    try:
        return iso(seconds_of(text)) == text
    except (ValueError, OverflowError):
        return False


Moment: TypeAlias = Annotated[str, _is_moment]
"""A time as `iso` writes it."""


class ErrorStatus(TypedDict):
    """An error as its message and the hint to mend it."""

    message: str
    hint: str


class SourceStatus(TypedDict):
    """How a source stands: ok, stale (out of reach), refused, or failed."""

    state: str
    lists: int
    entries: int
    last_success: Moment | None
    last_change: Moment | None
    error: ErrorStatus | None
    failing_since: Moment | None


class MapStatus(TypedDict):
    """One installed map."""

    type: str
    entries: int
    updated: Moment


class DestinationStatus(TypedDict):
    """What the last probe of a destination found, and since when it is up or down.

    A single failure does not make it down: see DOWN_AFTER. Then `up` stays, and `error` says what
    failed.
    """

    up: bool
    since: Moment
    phase: str
    reply: str
    seconds: float
    error: str
    failures: int
    """How many probes have failed in a row."""
    last_failure: Moment | None
    last_flush: Moment | None
    """When Postfix was last told to deliver what waited for it."""


class ClusterStatus(TypedDict):
    """The replicas of one database: which of them are tried last, and which have no address."""

    destinations: list[str]
    last: list[str]
    nameless: list[str]
    changed: Moment | None


class PassesStatus(TypedDict):
    """The passes of a daemon and of `--once` alike: the last one, and all of them counted."""

    last_attempt: Moment | None
    last_success: Moment | None
    """When one last went through, whatever single sources had to say."""
    failing_since: Moment | None
    error: ErrorStatus | None
    seconds: float | None
    made: int
    failed: int
    reloads: int
    entries: dict[str, int]
    """How many entries of the maps were added, removed and changed."""


class QueueStatus(TypedDict):
    """What waits for a destination in the deferred queue."""

    messages: int
    oldest: Moment | None


class Status(TypedDict):
    """The whole file."""

    version: str
    updated: Moment
    generation: int | None
    held: bool
    held_since: Moment | None
    waiting: str
    sources: dict[str, SourceStatus]
    maps: dict[str, MapStatus]
    destinations: dict[str, DestinationStatus]
    clusters: dict[str, ClusterStatus]
    passes: PassesStatus
    queue: dict[str, QueueStatus] | None
    """The deferred mail by destination; None where nobody counts it, or it could not be read."""


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
        queue=old["queue"] if config.metrics.wanted else None,
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
        found["state"] = _state(error)
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


def touched(old: Status, now: float) -> Status:
    """The same status, as of now. Pure."""
    return Status(**{**old, "version": __version__, "updated": iso(now)})


def _unknown_source() -> SourceStatus:
    return SourceStatus(
        state="stale",
        lists=0,
        entries=0,
        last_success=None,
        last_change=None,
        error=None,
        failing_since=None,
    )


def _new() -> Status:
    """A status that says nothing."""
    return Status(
        version=__version__,
        updated=iso(time.time()),
        generation=None,
        held=False,
        held_since=None,
        waiting="",
        sources={},
        maps={},
        destinations={},
        clusters={},
        passes=no_passes(),
        queue=None,
    )


def no_passes() -> PassesStatus:
    """What is known of them before the first one."""
    return PassesStatus(
        last_attempt=None,
        last_success=None,
        failing_since=None,
        error=None,
        seconds=None,
        made=0,
        failed=0,
        reloads=0,
        entries={},
    )


def _state(error: SyncError) -> str:
    match error:
        case OutOfReach():
            return "stale"
        case Refused():
            return "refused"
        case _:
            return "failed"


class NoStatus(OutOfReach):
    """status.json is there, and holds something else."""


@dataclass(frozen=True)
class StatusFile:
    """status.json in the state directory."""

    directory: Path
    once: str
    """The command that makes a pass, as an operator types it."""

    @classmethod
    def of(cls, config: "Config") -> "StatusFile":
        """The one of a configuration."""
        return cls(config.state_directory, config.command("--once"))

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.directory / STATUS_NAME

    async def update(self, change: Callable[[Status], Status]) -> Status:
        """Puts what `change` makes of the status into its place; returns it.

        Raises ApplyError, NotPermitted, or OutOfReach where another pass holds the lock too long.
        """
        async with lock(self.directory / LOCK_NAME):
            status = change(self._read_to_replace())
            try:
                replace_file(self.path, json.dumps(status, indent=2).encode() + b"\n")
            except OSError as error:
                raise unwritable(self.path, error) from None
            return status

    def _read_to_replace(self) -> Status:
        """As `read_or_new`; a damaged file is named, once, as it is about to go."""
        try:
            return self.read()
        except NoStatus as error:
            LOG.warning("%s; it is started anew, its counters at zero", error.message)
        except SyncError:
            pass  # there is none
        return _new()

    def read_or_new(self) -> Status:
        """The status as it stands, or one that says nothing."""
        try:
            return self.read()
        except SyncError:
            return _new()

    def read(self) -> Status:
        """The status as it stands. Raises OutOfReach where there is none, or NotPermitted."""
        try:
            found = loads(read_file(self.path))
            _complete(found)
            return shaped(found, Status)
        except PermissionError as error:
            raise NotPermitted(
                f"{self.path}: {why(error)}", denied_hint(self.path, error)
            ) from None
        except FileNotFoundError as error:
            raise OutOfReach(
                f"{self.path}: {why(error)}: no pass has been made yet",
                f"make one: {self.once}",
            ) from None
        except (OSError, ValueError) as error:
            raise NoStatus(
                f"{self.path}: is no status file: {why(error)}", f"make a pass: {self.once}"
            ) from None


def _complete(found: object) -> None:
    """Adds what a file of an earlier version does not have."""
    if not isinstance(found, dict):
        return
    found.setdefault("generation", None)
    found.setdefault("held", False)
    found.setdefault("held_since", None)
    found.setdefault("waiting", "")
    found.setdefault("clusters", {})
    found.setdefault("passes", no_passes())
    found.setdefault("queue", None)
    sources = found.get("sources")
    for source in sources.values() if isinstance(sources, dict) else ():
        if isinstance(source, dict):
            source.setdefault("failing_since", None)
    destinations = found.get("destinations")
    for one in destinations.values() if isinstance(destinations, dict) else ():
        if isinstance(one, dict):
            down = one.get("up") is False
            one.setdefault("failures", int(down))
            one.setdefault("last_failure", one.get("since") if down else None)
            one.setdefault("last_flush", None)
