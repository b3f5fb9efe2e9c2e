"""When the health page reports an error: what has failed, and for how long."""

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


def test_all_is_well() -> None:
    assert ailments(status()) == []


@pytest.mark.parametrize(("seconds", "ill"), [(179, False), (181, True)])
def test_three_intervals_are_not_yet_an_illness(seconds: int, ill: bool) -> None:
    of_source = status(sources={"lists": source(state="refused", **failing(seconds))})
    of_passes = status(passes=passes(**failing(seconds)))
    since = iso(NOW - seconds)
    assert ailments(of_source) == ([f"lists: refused since {since}: a disk: full"] if ill else [])
    assert ailments(of_passes) == (
        [f"syncs have failed since {since}: a disk: full"] if ill else []
    )


@pytest.mark.parametrize(("seconds", "ill"), [(299, False), (301, True)])
def test_a_pass_may_be_quiet_for_longer(seconds: int, ill: bool) -> None:
    """Without news, one is made only every QUIET seconds."""
    old = passes(last_attempt=iso(NOW - seconds), last_success=iso(NOW - seconds))
    assert len(ailments(status(passes=old))) == ill


def test_what_was_before_the_start_does_not_count() -> None:
    assert ailments(status(), started=NOW - 4) == ["no sync has succeeded since the daemon started"]
    assert ailments(status(), started=NOW - 4.1) == []  # in the same second
    assert ailments(status(passes=no_syncs())) == ["no sync has succeeded since the daemon started"]
    failed = passes(last_success=None, **failing(5))
    assert ailments(status(passes=failed)) == [
        "no sync has succeeded since the daemon started: a disk: full"
    ]


def test_a_source_that_never_answered() -> None:
    said = ["lists: has not answered successfully yet"]
    assert ailments(status(sources={"other": source()})) == said
    assert ailments(status(sources={"lists": source(state="stale", last_success=None)})) == said


def test_a_clock_that_was_set_back_is_no_illness() -> None:
    ahead = {"last_attempt": iso(NOW + 9e5), "last_success": iso(NOW + 9e5)}
    assert ailments(status(passes=passes(**ahead))) == []
