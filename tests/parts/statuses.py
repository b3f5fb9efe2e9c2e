"""Statuses of the daemon: an empty one, a complete one, and one after some probes."""

from collections.abc import Mapping
from typing import Any

from postfix_sync.model.destination import Destination
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.status.schema import (
    ClusterStatus,
    DestinationStatus,
    MapStatus,
    SourceStatus,
    Status,
    SyncsStatus,
    no_syncs,
)
from postfix_sync.status.transitions import after_probes
from postfix_sync.text import iso

NOW = 1_800_000_000.0
A, B = Destination("a", 8024), Destination("b", 8024)


def empty(*clusters: ClusterStatus) -> Status:
    named = {str(number): cluster for number, cluster in enumerate(clusters)}
    return Status(
        version="",
        updated="",
        generation=None,
        held=False,
        held_since=None,
        waiting="",
        sources={},
        maps={},
        destinations={},
        clusters=named,
        passes=no_syncs(),
        queue=None,
    )


def result(answer: bool | str, of: Destination = A) -> ProbeResult:
    """Return the result of a probe: up if `answer` is True, or else down in a phase."""
    up = answer is True
    return ProbeResult(of, up, "rcpt" if up else str(answer), "", 0.1, "" if up else "an error")


def probed(*answers: bool | str, status: Status | None = None, at: float = NOW) -> Status:
    """Return the status after these probes of A, a second apart."""
    status = status or empty()
    for second, answer in enumerate(answers):
        status = after_probes(status, [result(answer)], at + second)
    return status


def of_a(status: Status) -> DestinationStatus:
    return status["destinations"]["a:8024"]


def source(**changed: Any) -> SourceStatus:
    """Return the status of a healthy source, with these fields changed."""
    well = SourceStatus(
        state="ok",
        lists=2,
        entries=18,
        last_success=iso(NOW - 5),
        last_change=iso(NOW - 9000),
        error=None,
        failing_since=None,
    )
    return SourceStatus(**{**well, **changed})  # type: ignore[typeddict-item]  # what is to differ


def passes(**changed: Any) -> SyncsStatus:
    """Return the status of successful syncs, with these fields changed."""
    well = SyncsStatus(
        last_attempt=iso(NOW - 5),
        last_success=iso(NOW - 5),
        failing_since=None,
        error=None,
        seconds=0.5,
        made=7,
        failed=2,
        reloads=1,
        entries={"added": 9, "removed": 0, "changed": 0},
    )
    return SyncsStatus(**{**well, **changed})  # type: ignore[typeddict-item]  # what is to differ


def status(sources: Mapping[str, SourceStatus] | None = None, **changed: Any) -> Status:
    """Return a status with a value in every field, with these fields changed."""
    full = Status(
        version="0.1.0",
        updated=iso(NOW),
        generation=7,
        held=False,
        held_since=None,
        waiting="",
        sources=dict(sources or {"lists": source()}),
        maps={"postfix_lmtp": MapStatus(type="hash", entries=18, updated=iso(NOW - 60))},
        destinations={
            "mm:8024": DestinationStatus(
                up=True,
                since=iso(NOW),
                phase="rcpt",
                reply="",
                seconds=0.25,
                error="",
                failures=0,
                last_failure=None,
                last_flush=None,
            )
        },
        clusters={},
        passes=passes(),
        queue={"mm:8024": {"messages": 3, "oldest": iso(NOW - 600)}},
    )
    return Status(**{**full, **changed})  # type: ignore[typeddict-item]  # what is to differ


NOTHING = status(sources={}, maps={}, destinations={}, passes=no_syncs(), queue=None, updated="")
