"""The values of status.json, as `postfix-sync status --json` prints them. Pure."""

import time
from typing import Annotated, TypeAlias, TypedDict

from postfix_sync import __version__
from postfix_sync.errors import OutOfReach, Refused, SyncError
from postfix_sync.model import PHASES
from postfix_sync.text import iso, seconds_of

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


class SyncsStatus(TypedDict):
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
    passes: SyncsStatus
    queue: dict[str, QueueStatus] | None
    """The deferred mail by destination; None where nobody counts it, or it could not be read."""


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


def new_status() -> Status:
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
        passes=no_syncs(),
        queue=None,
    )


def no_syncs() -> SyncsStatus:
    """What is known of them before the first one."""
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
    match error:
        case OutOfReach():
            return "stale"
        case Refused():
            return "refused"
        case _:
            return "failed"
