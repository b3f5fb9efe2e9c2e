"""Metrics: what is known is there, what is not is absent; health: what is wrong for how long."""

from collections.abc import Mapping
from typing import Any

import pytest

from postfix_sync.config.schema import Config, Listen, MetricsSection
from postfix_sync.errors import ApplyError, Refused
from postfix_sync.model import Destination
from postfix_sync.monitoring import health, metrics
from postfix_sync.postfix.queue import Waiting
from postfix_sync.reconcile.report import Report, SourceReport
from postfix_sync.status.schema import (
    DestinationStatus,
    ErrorStatus,
    MapStatus,
    PassesStatus,
    SourceStatus,
    Status,
    no_passes,
)
from postfix_sync.status.transitions import after_count, after_pass
from postfix_sync.text import iso
from tests.parts.monitor import samples, value

NOW = 1_800_000_000.0
HOSTILE = 'a"b\\c\nd{e}é\u2028'


def source(**changed: Any) -> SourceStatus:
    """A source that is well."""
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


def passes(**changed: Any) -> PassesStatus:
    """Passes that go well."""
    well = PassesStatus(
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
    return PassesStatus(**{**well, **changed})  # type: ignore[typeddict-item]  # what is to differ


def status(sources: Mapping[str, SourceStatus] | None = None, **changed: Any) -> Status:
    """A status with something of everything."""
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


def render(found: Status) -> str:
    return metrics.render(found)[0]


NOTHING = status(sources={}, maps={}, destinations={}, passes=no_passes(), queue=None, updated="")


def test_of_what_is_not_known_nothing_is_said() -> None:
    unknown = Status(**{**NOTHING, "sources": {}})
    assert set(samples(render(unknown))) == {
        "postfix_sync_build_info",
        "postfix_sync_held",
        "postfix_sync_passes_total",
        "postfix_sync_reloads_total",
    }
    never = status(sources={"lists": source(state="stale", last_success=None)})
    assert value(render(never), "source_last_success_timestamp_seconds", source="lists") is None
    assert value(render(never), "source_up", source="lists") == 0


def test_whether_a_generation_is_held() -> None:
    assert value(render(status()), "held") == 0
    assert value(render(status(held=True)), "held") == 1


def test_times_and_durations_are_in_seconds() -> None:
    text = render(status())
    assert value(text, "pass_last_success_timestamp_seconds") == NOW - 5
    assert value(text, "probe_duration_seconds", destination="mm:8024") == 0.25
    assert value(text, "deferred_messages", destination="mm:8024") == 3
    oldest = value(text, "deferred_oldest_timestamp_seconds", destination="mm:8024")
    assert oldest == NOW - 600
    assert value(text, "passes_total", result="success") == 5


def test_a_label_is_a_label_whatever_it_holds() -> None:
    found = status(sources={HOSTILE: source()}, queue={HOSTILE: {"messages": 1, "oldest": None}})
    for accept in ("", "application/openmetrics-text;version=1.0.0"):
        text, _ = metrics.render(found, accept)
        lines = [line for line in text.split("\n") if "source_up{" in line]
        assert lines == ['postfix_sync_source_up{source="a\\"b\\\\c\\nd{e}é\u2028"} 1.0']
    assert value(render(found), "deferred_messages", destination=HOSTILE) == 1


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "text/html, ;;; =, application/openmetrics-text;version=",
        "application/openmetrics-text;version=x.y",
        'text/plain;version="1.0.0"',
        "application/openmetrics-text;version=1.0.0;escaping=nonsense",
    ],
)
def test_whatever_a_client_accepts_it_gets_metrics(accept: str) -> None:
    text, media_type = metrics.render(status(), accept)
    assert "postfix_sync_source_up" in text
    assert media_type.startswith(("text/plain; version=", "application/openmetrics-text; version="))


def test_a_count_has_zeros_and_no_count_has_nothing() -> None:
    hops = [Destination("mm", 8024), Destination("::1", 8024)]
    deferred = {hops[0]: Waiting(("A", "B"), NOW - 30.5), hops[1]: Waiting()}
    found = after_count(NOTHING, deferred, NOW)
    assert found["queue"] == {
        "mm:8024": {"messages": 2, "oldest": iso(NOW - 31)},
        "[::1]:8024": {"messages": 0, "oldest": None},
    }
    assert found["updated"] == iso(NOW)
    assert after_count(found, None, NOW)["queue"] is None
    assert after_count(found, {}, NOW)["queue"] == {}


CONFIG = Config.model_validate({"sources": [{"name": "lists", "path": "/data"}]})
DISK = ApplyError("a disk: full", "rm")
WENT_WRONG = Report(failed=(DISK,), seconds=2.0)
WENT_WELL = Report(
    sources={"lists": SourceReport(answered_at=NOW + 30)},
    entries={"added": 9},
    reloads=1,
    seconds=1.23456,
)


def test_what_grows_goes_on_and_what_fails_has_a_beginning() -> None:
    """However often it fails, and with whatever."""
    found = after_pass(status(), CONFIG, WENT_WRONG, NOW)
    other = Report(sources={"lists": SourceReport(errors=(Refused("a line"),))}, failed=(DISK,))
    found = after_pass(found, CONFIG, other, NOW + 20)
    assert found["passes"] == passes(
        last_attempt=iso(NOW + 20),
        failing_since=iso(NOW),
        error=ErrorStatus(message="a disk: full", hint="rm"),
        seconds=0.0,
        made=9,
        failed=4,
    )
    assert found["sources"]["lists"]["state"] == "refused"
    assert found["sources"]["lists"]["failing_since"] == iso(NOW)
    found = after_pass(found, CONFIG, WENT_WELL, NOW + 30)
    assert found["passes"] == passes(
        last_attempt=iso(NOW + 30),
        last_success=iso(NOW + 30),
        seconds=1.235,
        made=10,
        failed=4,
        reloads=2,
        entries={"added": 18, "removed": 0, "changed": 0},
    )
    assert found["sources"]["lists"]["failing_since"] is None


def test_a_queue_that_nobody_counts_any_more_has_no_numbers() -> None:
    counting = CONFIG.model_copy(
        update={"metrics": MetricsSection(listen=Listen("127.0.0.1", 9825))}
    )
    assert after_pass(status(), counting, WENT_WELL, NOW)["queue"] == status()["queue"]
    assert after_pass(status(), CONFIG, WENT_WELL, NOW)["queue"] is None


# ---- health -------------------------------------------------------------------------------------

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
        [f"passes have failed since {since}: a disk: full"] if ill else []
    )


@pytest.mark.parametrize(("seconds", "ill"), [(299, False), (301, True)])
def test_a_pass_may_be_quiet_for_longer(seconds: int, ill: bool) -> None:
    """Without news, one is made only every QUIET seconds."""
    old = passes(last_attempt=iso(NOW - seconds), last_success=iso(NOW - seconds))
    assert len(ailments(status(passes=old))) == ill


def test_what_was_before_the_start_does_not_count() -> None:
    assert ailments(status(), started=NOW - 4) == ["no pass has succeeded since the start"]
    assert ailments(status(), started=NOW - 4.1) == []  # in the same second
    assert ailments(status(passes=no_passes())) == ["no pass has succeeded since the start"]
    failed = passes(last_success=None, **failing(5))
    assert ailments(status(passes=failed)) == [
        "no pass has succeeded since the start: a disk: full"
    ]


def test_a_source_that_never_answered() -> None:
    said = ["lists: has given no good answer yet"]
    assert ailments(status(sources={"other": source()})) == said
    assert ailments(status(sources={"lists": source(state="stale", last_success=None)})) == said


def test_a_clock_that_was_set_back_is_no_illness() -> None:
    ahead = {"last_attempt": iso(NOW + 9e5), "last_success": iso(NOW + 9e5)}
    assert ailments(status(passes=passes(**ahead))) == []
