"""The metrics page: only known values, in seconds, with escaped labels."""

import pytest

from postfix_sync.monitoring import metrics
from postfix_sync.status.schema import Status
from tests.parts.monitor import samples, value
from tests.parts.statuses import NOTHING, NOW, source, status

HOSTILE = 'a"b\\c\nd{e}é\u2028'


def render(found: Status) -> str:
    return metrics.render(found)[0]


def test_unknown_values_have_no_sample() -> None:
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


def test_held_is_1_while_a_generation_is_held() -> None:
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


def test_special_characters_in_labels_are_escaped() -> None:
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
def test_any_accept_header_gets_metrics(accept: str) -> None:
    text, media_type = metrics.render(status(), accept)
    assert "postfix_sync_source_up" in text
    assert media_type.startswith(("text/plain; version=", "application/openmetrics-text; version="))
