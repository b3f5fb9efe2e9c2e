"""Write the tables and plots of docs/benchmarks.md from docs/benchmarks/*.json.

    python -m tests.bench.document

The text around them is written by hand: only what is between the marks of a run is replaced.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.bench.charts import all_charts
from tests.bench.machine import CHECKOUT
from tests.bench.measure import Row
from tests.bench.tables import all_tables

PAGE = CHECKOUT / "docs/benchmarks.md"
RESULTS = CHECKOUT / "docs/benchmarks"

RUNS = {"bench": "make bench", "full": "make bench-full"}

TITLES = {
    "sync": "A change of the lists",
    "acceptance": "From the rename to the accepted address",
    "migration": "A migration",
    "losses": "Mail while lists are added",
    "throughput": "What Postfix serves",
    "fetching": "A fetch over SSH",
    "backlog": "A backlog of deferred mail",
    "recovery": "Mail that was deferred",
}


def write() -> None:
    """Write the page and its plots."""
    for path, text in documents().items():
        path.write_text(text)


def documents() -> dict[Path, str]:
    """Return the text of the page and of each plot."""
    page = PAGE.read_text()
    found: dict[Path, str] = {}
    for run, command in RUNS.items():
        kept = RESULTS / f"{run}.json"
        if kept.exists():
            result = json.loads(kept.read_text())
            found |= plots(result)
            page = replaced(page, run, section(result))
        else:
            page = replaced(page, run, f"Not measured yet: run `{command}`.")
    return {PAGE: page, **found}


def replaced(page: str, run: str, text: str) -> str:
    """Return the page with another text between the marks of a run."""
    begin, end = f"<!-- {run} -->\n", f"<!-- end of {run} -->\n"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE}: no marks of {run}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def plots(result: Row) -> dict[Path, str]:
    """Return the SVG of each plot of a run, by its file."""
    return {
        RESULTS / f"{result['run']}-{name}.svg": chart.as_svg()
        for charts in all_charts(result).values()
        for name, chart in charts
    }


def section(result: Row) -> str:
    """Return the text about a run: the machine, then the tables and plots of each subject."""
    return "\n\n".join(_paragraphs(result))


def _paragraphs(result: Row) -> Iterator[str]:
    machine = [("measured", result["date"]), *result["machine"].items()]
    yield "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine)])
    charts, tables = all_charts(result), all_tables(result)
    for subject, title in TITLES.items():
        if subject not in result["subjects"]:
            continue
        yield f"### {title}"
        for name, chart in charts.get(subject, []):
            yield f"![{chart.title}](benchmarks/{result['run']}-{name}.svg)"
        for table in tables:
            if table.subject == subject:
                yield table.as_markdown()


if __name__ == "__main__":
    write()
