"""Judge whether syncs and sources are healthy, for /healthz. Pure.

A failure counts only after three intervals, because most end without an operator: Mailman restarts,
a host reboots.
"""

from collections.abc import Iterator, Mapping

from postfix_sync.status.schema import SourceStatus, Status
from postfix_sync.text import seconds_of

INTERVALS = 3
"""How many intervals a failure may last before it counts."""


def ailments(
    status: Status, intervals: Mapping[str, float], quiet: float, started: float, now: float
) -> list[str]:
    """Return a line for each failure that has lasted too long; none if all is well.

    `intervals` has the interval of each source, and `quiet` the longest time between two syncs, in
    seconds. `started` and `now` are in seconds since the epoch: until the first successful sync
    after `started`, the daemon is not healthy.
    """
    return [
        *_of_syncs(status, min(intervals.values()), quiet, started, now),
        *(
            line
            for name, interval in intervals.items()
            for line in _of_source(name, status["sources"].get(name), interval, now)
        ),
    ]


def _of_syncs(
    status: Status, interval: float, quiet: float, started: float, now: float
) -> Iterator[str]:
    syncs = status["passes"]
    tried, succeeded, error = syncs["last_attempt"], syncs["last_success"], syncs["error"]
    reason = f": {error['message']}" if error else ""
    # Times in the status are whole seconds.
    if not succeeded or seconds_of(succeeded) < int(started):
        yield f"no sync has succeeded since the daemon started{reason}"
    elif _too_long(syncs["failing_since"], interval, now):
        yield f"syncs have failed since {syncs['failing_since']}{reason}"
    elif _too_long(tried, quiet, now):
        yield f"no sync has ended, or status.json was not written, since {tried}"


def _of_source(
    name: str, source: SourceStatus | None, interval: float, now: float
) -> Iterator[str]:
    reason = f": {source['error']['message']}" if source and source["error"] else ""
    if not source or not source["last_success"]:
        yield f"{name}: has not answered successfully yet{reason}"
    elif _too_long(source["failing_since"], interval, now):
        yield f"{name}: {source['state']} since {source['failing_since']}{reason}"


def _too_long(since: str | None, interval: float, now: float) -> bool:
    return since is not None and now - seconds_of(since) > INTERVALS * interval
