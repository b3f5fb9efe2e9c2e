"""The values of status.json, as `postfix-sync status --json` prints them. Pure."""

import time
from typing import Annotated, TypeAlias, TypedDict

from postfix_sync import __version__
from postfix_sync.errors import OutOfReach, Refused, SyncError
from postfix_sync.model.probe_result import PHASES
from postfix_sync.text import iso, seconds_of

NOBODY_THERE = PHASES[:3]
"""The phases up to the greeting: a probe that fails in one of them has reached no Mailman."""


def _is_moment(text: str) -> bool:
    """Return whether `iso` could have written a text."""
    try:
        return iso(seconds_of(text)) == text
    except (ValueError, OverflowError):
        return False


Moment: TypeAlias = Annotated[str, _is_moment]
"""A time as `iso` writes it: ISO 8601, UTC."""


class ErrorStatus(TypedDict):
    """An error: its message, and the hint that says how to fix it."""

    message: str
    hint: str


class SourceStatus(TypedDict):
    """The state of a source: ok, stale (out of reach), refused, or failed."""

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

    A single failure does not make a destination down (see DOWN_AFTER): `up` is kept, and `error`
    says what failed.
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
    """When its deferred mail was last retried."""


class ClusterStatus(TypedDict):
    """The replicas of one database.

    `last` are the destinations that are tried last, `nameless` those whose name resolves to no
    address.
    """

    destinations: list[str]
    last: list[str]
    nameless: list[str]
    changed: Moment | None


class SyncsStatus(TypedDict):
    """The last sync and the counters of all syncs, those of a daemon and of `--once` alike."""

    last_attempt: Moment | None
    last_success: Moment | None
    """When a sync last succeeded as a whole; single sources may have failed in it."""
    failing_since: Moment | None
    error: ErrorStatus | None
    seconds: float | None
    made: int
    failed: int
    reloads: int
    entries: dict[str, int]
    """How many entries of the maps were added, removed and changed."""


class QueueStatus(TypedDict):
    """The deferred mail of a destination: how many messages, and when the oldest arrived."""

    messages: int
    oldest: Moment | None


class Status(TypedDict):
    """The content of status.json."""

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
    passes: SyncsStatus
    queue: dict[str, QueueStatus] | None
    """The deferred mail by destination; None if it is not counted, or could not be read."""


def touched(old: Status, now: float) -> Status:
    """Return the status with the time `now` (seconds since the epoch) and this version. Pure."""
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


def new_status() -> Status:
    """Return the status before the first sync: nothing is known."""
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
        passes=no_syncs(),
        queue=None,
    )


def no_syncs() -> SyncsStatus:
    """Return the status of the syncs before the first one."""
    return SyncsStatus(
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


def state_of(error: SyncError) -> str:
    """Return the state of a source that has this error: stale, refused or failed."""
    match error:
        case OutOfReach():
            return "stale"
        case Refused():
            return "refused"
        case _:
            return "failed"
