"""Whether passes and sources are as they should be: what /healthz answers. Pure.

A failure that passes by itself is no illness: Mailman restarts, a host reboots. What has gone on
for three intervals is one.
"""

from collections.abc import Iterator, Mapping

from postfix_sync.status.schema import SourceStatus, Status
from postfix_sync.text import seconds_of

INTERVALS = 3
"""How many of them something may be wrong for."""


def ailments(
    status: Status, intervals: Mapping[str, float], quiet: float, started: float, now: float
) -> list[str]:
    """What is wrong, a line each; none if all is well.

    `intervals` are the sources', in seconds; a pass is made every `quiet` seconds at the latest.
    Until the first success after `started` nothing is well.
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
    passes = status["passes"]
    tried, succeeded, error = passes["last_attempt"], passes["last_success"], passes["error"]
    said = f": {error['message']}" if error else ""
    # Times in the status are whole seconds.
    if not succeeded or seconds_of(succeeded) < int(started):
        yield f"no pass has succeeded since the start{said}"
    elif _too_long(passes["failing_since"], interval, now):
        yield f"passes have failed since {passes['failing_since']}{said}"
    elif _too_long(tried, quiet, now):
        yield f"no pass has been made, or status.json not been written, since {tried}"


def _of_source(
    name: str, source: SourceStatus | None, interval: float, now: float
) -> Iterator[str]:
    said = f": {source['error']['message']}" if source and source["error"] else ""
    if not source or not source["last_success"]:
        yield f"{name}: has given no good answer yet{said}"
    elif _too_long(source["failing_since"], interval, now):
        yield f"{name}: {source['state']} since {source['failing_since']}{said}"


def _too_long(since: str | None, interval: float, now: float) -> bool:
    return since is not None and now - seconds_of(since) > INTERVALS * interval
