"""When the health page reports an error: the failure, and its duration."""

from typing import Any

import pytest

from postfix_sync.monitoring import health
from postfix_sync.status.schema import ErrorStatus, Status, no_syncs
from postfix_sync.text import iso
from tests.parts.statuses import NOW, passes, source, status

INTERVALS = {"lists": 60.0}
QUIET = 100.0


def ailments(found: Status, *, started: float = NOW - 1000) -> list[str]:
    return health.ailments(found, INTERVALS, QUIET, started, NOW)


def failing(since: float) -> dict[str, Any]:
    return {
        "failing_since": iso(NOW - since),
        "error": ErrorStatus(message="a disk: full", hint="rm"),
    }


def test_healthy_status_has_no_error() -> None:
    assert ailments(status()) == []


@pytest.mark.parametrize(("seconds", "ill"), [(179, False), (181, True)])
def test_failure_is_an_error_after_three_intervals(seconds: int, ill: bool) -> None:
    of_source = status(sources={"lists": source(state="refused", **failing(seconds))})
    of_passes = status(passes=passes(**failing(seconds)))
    since = iso(NOW - seconds)
    assert ailments(of_source) == ([f"lists: refused since {since}: a disk: full"] if ill else [])
    assert ailments(of_passes) == (
        [f"syncs have failed since {since}: a disk: full"] if ill else []
    )


@pytest.mark.parametrize(("seconds", "ill"), [(299, False), (301, True)])
def test_missing_sync_is_an_error_after_three_quiet_periods(seconds: int, ill: bool) -> None:
    """Without changes, a sync is made only every QUIET seconds."""
    old = passes(last_attempt=iso(NOW - seconds), last_success=iso(NOW - seconds))
    assert len(ailments(status(passes=old))) == ill


def test_syncs_before_the_start_of_the_daemon_are_ignored() -> None:
    assert ailments(status(), started=NOW - 4) == ["no sync has succeeded since the daemon started"]
    assert ailments(status(), started=NOW - 4.1) == []  # in the same second
    assert ailments(status(passes=no_syncs())) == ["no sync has succeeded since the daemon started"]
    failed = passes(last_success=None, **failing(5))
    assert ailments(status(passes=failed)) == [
        "no sync has succeeded since the daemon started: a disk: full"
    ]


def test_source_that_never_answered_is_an_error() -> None:
    said = ["lists: has not answered successfully yet"]
    assert ailments(status(sources={"other": source()})) == said
    assert ailments(status(sources={"lists": source(state="stale", last_success=None)})) == said


def test_clock_that_was_set_back_is_not_an_error() -> None:
    ahead = {"last_attempt": iso(NOW + 9e5), "last_success": iso(NOW + 9e5)}
    assert ailments(status(passes=passes(**ahead))) == []
