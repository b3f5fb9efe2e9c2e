"""The tables of a run's figures, as text for a terminal and as Markdown. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.measure import Row

CHANGES = {
    "added": "one added",
    "removed": "one removed",
    "moved": "one moved",
    "percent": "1 % changed",
    "header": "only the time",
    "nothing": "nothing",
}
"""The changes of changes.py, as the tables name them."""

NONE = "-"


@dataclass(frozen=True)
class Table:
    """A title, the titles of the columns, and the cells of each row."""

    subject: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Return it with columns of equal width."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join([self.title, *(_aligned(line, widths) for line in lines)])

    def as_markdown(self) -> str:
        """Return it as a table of Markdown, below its title."""
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line: the first cell at the left of its column, the others at the right."""
    first, *others = zip(cells, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "  ".join(cells).rstrip()


def all_tables(result: Row) -> list[Table]:
    """Return the tables of all subjects that a run has measured."""
    return [
        Table(subject, title, columns, rows)
        for subject, found in result["subjects"].items()
        for title, columns, rows in _TABLES[subject](found["rows"])
    ]


_Parts = Iterator[tuple[str, list[str], list[list[str]]]]
"""A table's title, columns and rows."""


def number(value: float | None) -> str:
    """Return a number with about three digits."""
    if value is None:
        return NONE
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def mebibytes(value: float) -> str:
    """Return bytes in MiB."""
    return f"{value / 2**20:,.0f}"


def _with_ratio(row: Row) -> str:
    seconds = number(row["seconds"])
    is_alone = row["seconds"] is None or row["what"] == "postmap"
    return seconds if is_alone else f"{seconds} ({number(row['ratio'])} x)"


def _sync(rows: Sequence[Row]) -> _Parts:
    seconds = "`--once`: seconds, and times `postmap` of the routes alone"
    yield _pivot(rows, "--once", seconds, _with_ratio)
    yield _pivot(rows, "--once", "`--once`: CPU seconds", lambda row: number(row["cpu_seconds"]))
    yield _pivot(rows, "--once", "`--once`: peak memory, MiB", _peak)
    yield _pivot(rows, "daemon", "The daemon: seconds, and times `postmap`", _with_ratio)
    yield _pivot(rows, "daemon", "The daemon: CPU seconds", lambda row: number(row["cpu_seconds"]))
    yield _pivot(
        rows,
        "daemon",
        "The daemon: peak memory during the change / memory afterwards, MiB",
        lambda row: f"{_peak(row)} / {mebibytes(row['after_bytes'])}",
    )


def _peak(row: Row) -> str:
    return mebibytes(row["peak_bytes"])


def _pivot(
    rows: Sequence[Row], what: str, title: str, cell: Callable[[Row], str]
) -> tuple[str, list[str], list[list[str]]]:
    """Return a table with a row for each case, and a column for each change.

    That of the daemon has a column for its start, and the other one columns for what people use.
    """
    found = {(row["type"], row["lists"], row["what"], row["change"]): row for row in rows}
    columns = [(what, change, title) for change, title in CHANGES.items()]
    if what == "daemon":
        columns = [("daemon", "start", "start"), *columns[:-1]]
    else:
        columns = [("postmap", "", "`postmap`"), ("script", "", "script"), *columns]

    def line(map_type: str, lists: int) -> list[str]:
        first = found[map_type, lists, "postmap", ""]
        cells = [found.get((map_type, lists, *key[:2])) for key in columns]
        return [
            map_type,
            f"{lists:,}",
            str(first["rounds"]),
            *(NONE if row is None else cell(row) for row in cells),
        ]

    cases = dict.fromkeys((row["type"], row["lists"]) for row in rows)
    titles = ["type", "lists", "rounds", *(key[2] for key in columns)]
    return title, titles, [line(*case) for case in sorted(cases, key=lambda case: case[0])]


def _acceptance(rows: Sequence[Row]) -> _Parts:
    yield (
        "Seconds from the rename of Mailman's file to RCPT being accepted",
        ["type", "lists", "additions", "p50", "p95", "p99", "longest"],
        [
            [
                row["type"],
                f"{row['lists']:,}",
                str(row["samples"]),
                *(number(row[key]) for key in ("p50", "p95", "p99", "max")),
            ]
            for row in rows
        ],
    )


def _migration(rows: Sequence[Row]) -> _Parts:
    yield (
        "Lists created one a second: seconds until each was accepted, and the daemon's cost",
        [
            *("type", "lists", "created", "p50", "p95", "longest", "not within a minute"),
            *("share of a core", "peak memory, MiB", "afterwards, MiB"),
        ],
        [
            [
                row["type"],
                f"{row['lists']:,}",
                str(row["created"]),
                *(number(row[key]) for key in ("p50", "p95", "max")),
                str(row["late"]),
                f"{row['share_of_core']:.0%}",
                mebibytes(row["peak_bytes"]),
                mebibytes(row["after_bytes"]),
            ]
            for row in rows
        ],
    )


def _fetching(rows: Sequence[Row]) -> _Parts:
    yield (
        "Seconds of a fetch over SSH, logins included",
        ["size", "rounds", "`sftp`", "postfix-sync", "times `sftp`"],
        [
            [
                f"{row['bytes'] / 1e6:.0f} MB",
                str(row["rounds"]),
                *(number(row[key]) for key in ("sftp_seconds", "seconds", "ratio")),
            ]
            for row in rows
        ],
    )


def _losses(rows: Sequence[Row]) -> _Parts:
    counts = ("changes", "sent", "bounced", "refused", "stalled", "undelivered")
    yield (
        "Messages while lists are added under load",
        ["", *counts, "longest SMTP session, s", "live after, s: p50", "longest", "never live"],
        [
            [
                row["title"],
                *(f"{row[key]:,}" for key in counts),
                *(number(row[key]) for key in ("longest_seconds", "live_p50", "live_max")),
                str(row["not_live"]),
            ]
            for row in rows
        ],
    )


def _throughput(rows: Sequence[Row]) -> _Parts:
    sizes = sorted({row["lists"] for row in rows})
    found = {(row["table"], row["lists"]): row for row in rows}
    yield (
        "RCPT commands a second",
        ["tables", *(f"{lists:,} lists" for lists in sizes)],
        [
            [table, *(number(found[table, lists]["rcpts_per_second"]) for lists in sizes)]
            for table in dict.fromkeys(row["table"] for row in rows)
        ],
    )


def _backlog(rows: Sequence[Row]) -> _Parts:
    yield (
        "Deferred messages are retried when their destination is up again",
        ["messages", "wall s", "CPU s", "MB"],
        [
            [
                f"{row['messages']:,}",
                *(number(row[key]) for key in ("wall", "cpu")),
                f"{row['peak'] / 1e6:.0f}",
            ]
            for row in rows
        ],
    )


def _recovery(rows: Sequence[Row]) -> _Parts:
    counts = ("sent", "bounced", "twice", "waited")
    yield (
        f"Mailman is down for {rows[0]['down']:g} s: messages, and seconds from its return",
        ["", *counts, "first delivered", "last delivered"],
        [
            [
                row["what"],
                *(f"{row[key]:,}" for key in counts),
                *(number(row[key]) for key in ("first", "seconds")),
            ]
            for row in rows
        ],
    )


_TABLES: dict[str, Callable[[Sequence[Row]], _Parts]] = {
    "sync": _sync,
    "acceptance": _acceptance,
    "migration": _migration,
    "fetching": _fetching,
    "losses": _losses,
    "throughput": _throughput,
    "backlog": _backlog,
    "recovery": _recovery,
}
