"""The charts of a run's figures. Pure."""

from collections.abc import Callable, Iterator, Sequence

from tests.bench.measure import Row
from tests.bench.plot import Chart, Points

LISTS, SECONDS = "lists", "seconds"

LINES = {
    "postmap of the routes": ("postmap", ""),
    "script": ("script", ""),
    "--once, one added": ("--once", "added"),
    "--once, nothing": ("--once", "nothing"),
    "daemon, one added": ("daemon", "added"),
    "daemon, only the time": ("daemon", "header"),
}
"""What each line of the chart of sync.py shows: what was measured, and the change."""


def all_charts(result: Row) -> dict[str, list[tuple[str, Chart]]]:
    """Return the charts of each subject, with their names."""
    return {
        subject: list(_CHARTS[subject](found["rows"]))
        for subject, found in result["subjects"].items()
        if subject in _CHARTS
    }


def _points(rows: Sequence[Row], key: str) -> Points:
    """Return a point for each number of lists."""
    return sorted((row["lists"], row[key]) for row in rows if row[key])


def _sync(rows: Sequence[Row]) -> Iterator[tuple[str, Chart]]:
    for map_type in sorted({row["type"] for row in rows}):
        lines = {
            title: _points(
                [
                    row
                    for row in rows
                    if (row["type"], row["what"], row["change"]) == (map_type, *shown)
                ],
                "seconds",
            )
            for title, shown in LINES.items()
        }
        lines = {title: points for title, points in lines.items() if points}
        yield f"sync-{map_type}", Chart(f"The cost of a change, {map_type}", LISTS, SECONDS, lines)


def _acceptance(rows: Sequence[Row]) -> Iterator[tuple[str, Chart]]:
    lines = {
        f"{map_type}, {key}": _points([row for row in rows if row["type"] == map_type], key)
        for map_type in dict.fromkeys(row["type"] for row in rows)
        for key in ("p50", "p95", "p99")
    }
    yield "acceptance", Chart("From the rename to the accepted address", LISTS, SECONDS, lines)


def _migration(rows: Sequence[Row]) -> Iterator[tuple[str, Chart]]:
    for row in rows:
        each = [(number, live) for number, live in enumerate(row["each"]) if live is not None]
        if each:
            title = f"{row['lists']:,} lists, one more each second, {row['type']}"
            line = {"accepted after": each}
            chart = Chart(title, "second of its creation", SECONDS, line, log_x=False, log_y=False)
            yield f"migration-{row['type']}", chart


def _throughput(rows: Sequence[Row]) -> Iterator[tuple[str, Chart]]:
    lines = {
        table: _points([row for row in rows if row["table"] == table], "rcpts_per_second")
        for table in dict.fromkeys(row["table"] for row in rows)
    }
    yield "throughput", Chart("RCPT commands a second", LISTS, "RCPT commands a second", lines)


_CHARTS: dict[str, Callable[[Sequence[Row]], Iterator[tuple[str, Chart]]]] = {
    "sync": _sync,
    "acceptance": _acceptance,
    "migration": _migration,
    "throughput": _throughput,
}
