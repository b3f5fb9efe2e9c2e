"""Render the status as Prometheus metrics. Pure; the only module that imports prometheus_client.

All values are from status.json, whether the daemon or a `--once` wrote it; an unknown value is left
out instead of being zero. Names follow Prometheus' conventions: seconds, times since the epoch (an
age would not grow in a file that is no longer written), `_total` for counters. A current fault is a
gauge: an alert on the increase of a counter would end while the fault lasts.
"""

import platform
from collections.abc import Iterable, Iterator

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from postfix_sync.model.probe_result import PHASES
from postfix_sync.status.schema import Status
from postfix_sync.text import seconds_of

STATES = ("ok", "stale", "refused", "failed")

Samples = Iterable[tuple[tuple[str, ...], float | None]]
"""Pairs of label values and a value; None if it is unknown."""


def render(status: Status, accept: str = "") -> tuple[str, str]:
    """Return the metrics as text, and its media type, which the Accept field selects.

    Without an Accept field, it is Prometheus' text format.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(status))
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # the version in the Accept field is not a number
        encode, media_type = choose_encoder("")
    return encode(registry).decode(), media_type


class _Collector(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from _of_build(self._status)
        yield from _of_syncs(self._status)
        yield from _of_sources(self._status)
        yield from _of_maps(self._status)
        yield from _of_destinations(self._status)


def _gauge(name: str, meaning: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"postfix_sync_{name}", meaning, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _counter(name: str, meaning: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = CounterMetricFamily(f"postfix_sync_{name}", meaning, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _time(moment: str | None) -> float | None:
    return seconds_of(moment) if moment else None


def _of_build(status: Status) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "postfix_sync_build",
        "The versions of postfix-sync and Python, and the type of the installed maps.",
        value={
            "version": status["version"],
            "python": platform.python_version(),
            "map_type": next((installed["type"] for installed in status["maps"].values()), ""),
        },
    )


def _of_syncs(status: Status) -> Iterator[Metric]:
    syncs = status["passes"]
    yield _gauge(
        "pass_last_attempt_timestamp_seconds",
        "When the last sync ended, successful or not.",
        (),
        [((), _time(syncs["last_attempt"]))],
    )
    yield _gauge(
        "pass_last_success_timestamp_seconds",
        "When the last successful sync ended; a source that is out of reach does not make it fail.",
        (),
        [((), _time(syncs["last_success"]))],
    )
    yield _gauge(
        "pass_duration_seconds",
        "How long the last sync took, including the wait for the lock.",
        (),
        [((), syncs["seconds"])],
    )
    yield _gauge(
        "apply_failed",
        "Whether the last sync failed to install the desired state (1), or succeeded (0).",
        (),
        [((), float(syncs["failing_since"] is not None) if syncs["made"] else None)],
    )
    yield _gauge(
        "held",
        "Whether a generation is held after a rollback (1): syncs change nothing.",
        (),
        [((), float(status["held"]))],
    )
    yield _counter(
        "passes",
        "Syncs, by result.",
        ("result",),
        [
            (("success",), syncs["made"] - syncs["failed"]),
            (("failure",), syncs["failed"]),
        ],
    )
    yield _counter(
        "reloads", "How often Postfix was reloaded for a change.", (), [((), syncs["reloads"])]
    )
    yield _counter(
        "changed_entries",
        "Entries of the installed maps that were added, removed or changed.",
        ("change",),
        [((kind,), number) for kind, number in syncs["entries"].items()],
    )


def _of_sources(status: Status) -> Iterator[Metric]:
    sources = status["sources"].items()
    yield _gauge(
        "source_up",
        "Whether the last poll of a source was successful.",
        ("source",),
        [((name,), source["state"] == "ok") for name, source in sources],
    )
    yield _gauge(
        "source_state",
        "The state of a source: 1 for one of ok, stale (out of reach), refused and failed.",
        ("source", "state"),
        [((name, state), source["state"] == state) for name, source in sources for state in STATES],
    )
    yield _gauge(
        "source_last_success_timestamp_seconds",
        "When a source was last polled successfully.",
        ("source",),
        [((name,), _time(source["last_success"])) for name, source in sources],
    )
    yield _gauge(
        "source_last_change_timestamp_seconds",
        "When entries of a source were last changed in the maps.",
        ("source",),
        [((name,), _time(source["last_change"])) for name, source in sources],
    )
    yield _gauge(
        "source_lists",
        "Lists of a source that are installed.",
        ("source",),
        [((name,), source["lists"]) for name, source in sources],
    )
    yield _gauge(
        "source_entries",
        "Addresses of a source that are installed.",
        ("source",),
        [((name,), source["entries"]) for name, source in sources],
    )


def _of_maps(status: Status) -> Iterator[Metric]:
    maps = status["maps"].items()
    yield _gauge(
        "map_entries",
        "Entries of an installed map.",
        ("map",),
        [((name,), installed["entries"]) for name, installed in maps],
    )
    yield _gauge(
        "map_updated_timestamp_seconds",
        "When an installed map was last published.",
        ("map",),
        [((name,), _time(installed["updated"])) for name, installed in maps],
    )


def _of_destinations(status: Status) -> Iterator[Metric]:
    probed = status["destinations"].items()
    yield _gauge(
        "probe_up",
        "Whether a destination accepts mail, by its last probes; a single failure is not down.",
        ("destination",),
        [((name,), destination["up"]) for name, destination in probed],
    )
    yield _gauge(
        "probe_phase",
        "How far the last probe came: 1 for one of resolve, connect, greeting, lhlo, mail, rcpt.",
        ("destination", "phase"),
        [
            ((name, phase), destination["phase"] == phase)
            for name, destination in probed
            for phase in PHASES
        ],
    )
    yield _gauge(
        "probe_duration_seconds",
        "How long the last probe of a destination took.",
        ("destination",),
        [((name,), destination["seconds"]) for name, destination in probed],
    )
    queued = (status["queue"] or {}).items()
    yield _gauge(
        "deferred_messages",
        "Messages for a destination in Postfix's deferred queue.",
        ("destination",),
        [((name,), deferred["messages"]) for name, deferred in queued],
    )
    yield _gauge(
        "deferred_oldest_timestamp_seconds",
        "When the oldest deferred message for a destination arrived; absent if there is none.",
        ("destination",),
        [((name,), _time(deferred["oldest"])) for name, deferred in queued],
    )
