"""Render the output of `status`, `doctor` and `rollback` for people. Pure.

The most important lines are the last ones, right above the prompt. Text is wrapped, but a command
is always one whole line without a prompt, so that it can be copied and pasted. A terminal that is
narrower than the command shows it on two lines, but copies it as one. Programs read --json instead.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from postfix_sync.cli.terminal import Cell, Colour, Terminal
from postfix_sync.errors import escape
from postfix_sync.model.finding import Finding, Verdict
from postfix_sync.postfix.main_cf.classes import ROLES
from postfix_sync.status.schema import DestinationStatus, SourceStatus, Status
from postfix_sync.store.generations import Generation
from postfix_sync.store.hold import Hold
from postfix_sync.text import counted, iso, seconds_of

INDENT = "  "

VERDICTS = {
    Verdict.OK: Colour.GOOD,
    Verdict.WARNING: Colour.DOUBTFUL,
    Verdict.FAILURE: Colour.BAD,
}
"""The colour of each verdict, in the order in which findings are printed."""

BESIDE = " " * 9
"""An indent as wide as a verdict and the gap after it."""

COMMAND_INDENT = BESIDE + "  "

STATES = {"ok": Colour.GOOD, "stale": Colour.DOUBTFUL}
"""The colours of a source's states; any other state is bad."""


def findings(
    found: Sequence[Finding], to: Terminal, *, problems_only: bool = False, setup: str = ""
) -> str:
    """Render doctor's findings: successes, warnings, failures, then the number of each.

    `setup` is the command that adds what main.cf lacks.
    """
    blocks = []
    for verdict in VERDICTS:
        shown = [_finding(finding, to) for finding in found if finding.verdict is verdict]
        if verdict is not Verdict.OK:
            blocks += shown
        elif shown and not problems_only:
            blocks.append("\n".join(shown))
    if setup:
        blocks += _setup(found, setup, to)
    if not problems_only:
        blocks.append(_how_many(found, to))
    return "\n\n".join(blocks)


def _setup(found: Sequence[Finding], command: str, to: Terminal) -> Iterator[str]:
    """Name the command that adds the missing maps to main.cf, if a map is missing there."""
    if any(finding.verdict is Verdict.FAILURE and finding.name in ROLES for finding in found):
        made = INDENT + to.paint(command, Colour.COMMAND)
        yield f"setup adds all that main.cf lacks, after you confirm:\n{made}"


def _finding(finding: Finding, to: Terminal) -> str:
    first = Cell(f"{finding.verdict.value:<{len(BESIDE)}}", VERDICTS[finding.verdict])
    if finding.verdict is Verdict.OK:
        # A finding about a parameter begins with its name anyway.
        text = (
            finding.seen
            if finding.seen.startswith(finding.name)
            else f"{finding.name}: {finding.seen}"
        )
        return "\n".join(to.wrap(text, first=first, indent=BESIDE))
    lines = to.wrap(finding.name, first=first, indent=BESIDE, colour=Colour.NAME)
    for text in (finding.seen, finding.why):
        if text:
            lines += to.wrap(text, first=Cell(BESIDE), indent=BESIDE)
    if finding.fix:
        lines.append(COMMAND_INDENT + to.paint(escape(finding.fix), Colour.COMMAND))
    return "\n".join(lines)


def _how_many(found: Sequence[Finding], to: Terminal) -> str:
    numbers = {
        verdict: sum(finding.verdict is verdict for finding in found) for verdict in VERDICTS
    }
    words = [
        to.paint(counted(numbers[verdict], verdict.value), VERDICTS[verdict])
        for verdict in (Verdict.FAILURE, Verdict.WARNING)
        if numbers[verdict]
    ]
    return ", ".join([*words, to.paint(f"{numbers[Verdict.OK]} ok", Colour.GOOD)])


def status(found: Status, now: float, to: Terminal) -> str:
    """Render the results of the last syncs and probes. `now` is in seconds since the epoch."""
    sections = (_head(found, now, to), _sources(found, now, to), _maps(found, now, to))
    more = (_destinations(found, now, to), _clusters(found, to))
    return "\n\n".join(text for section in (*sections, *more) if (text := "\n".join(section)))


def _head(found: Status, now: float, to: Terminal) -> Iterator[str]:
    when = f"{found['updated']}, {_since(found['updated'], now)} ago"
    yield from to.wrap(f"postfix-sync {found['version']}, as of {when}", indent=INDENT)
    number = "" if found["generation"] is None else f"generation {found['generation']}"
    if found["held"]:
        first = Cell(f"held at {number} " if number else "held ", Colour.DOUBTFUL)
        since = found["held_since"] or found["updated"]
        details = f"for {_since(since, now)}; pending: {found['waiting'] or 'nothing'}"
        yield from to.wrap(details, first=first, indent=INDENT)
    elif number:
        yield number


def _sources(found: Status, now: float, to: Terminal) -> Iterator[str]:
    titles = ("source", "state", "lists", "addresses", "last success", "last change")
    rows = [
        [
            Cell(name, Colour.NAME),
            Cell(source["state"], STATES.get(source["state"], Colour.BAD)),
            Cell(str(source["lists"]), right=True),
            Cell(str(source["entries"]), right=True),
            Cell(_ago(source["last_success"], now)),
            Cell(_ago(source["last_change"], now)),
        ]
        for name, source in found["sources"].items()
    ]
    details = [_error(source, to) for source in found["sources"].values()]
    return _table(titles, rows, details, to)


def _error(source: SourceStatus, to: Terminal) -> Iterator[str]:
    if error := source["error"]:
        yield from to.wrap(error["message"], first=Cell(INDENT), indent=INDENT)
        if error["hint"]:
            yield from to.wrap(f"hint: {error['hint']}", first=Cell(INDENT), indent=INDENT * 2)


def _maps(found: Status, now: float, to: Terminal) -> Iterator[str]:
    titles = ("map", "type", "entries", "updated")
    rows = [
        [
            Cell(name, Colour.NAME),
            Cell(installed["type"]),
            Cell(str(installed["entries"]), right=True),
            Cell(_ago(installed["updated"], now)),
        ]
        for name, installed in found["maps"].items()
    ]
    return _table(titles, rows, [() for _ in rows], to)


def _destinations(found: Status, now: float, to: Terminal) -> Iterator[str]:
    titles = ("destination", "state", "for", "phase", "seconds")
    rows = [
        [
            Cell(endpoint, Colour.NAME),
            _reached(destination),
            Cell(_since(destination["since"], now)),
            Cell(destination["phase"]),
            Cell(f"{destination['seconds']:g}", right=True),
        ]
        for endpoint, destination in found["destinations"].items()
    ]
    details = [_said(destination, to) for destination in found["destinations"].values()]
    return _table(titles, rows, details, to)


def _reached(destination: DestinationStatus) -> Cell:
    if not destination["up"]:
        return Cell("DOWN", Colour.BAD)
    return Cell("up?", Colour.DOUBTFUL) if destination["failures"] else Cell("up", Colour.GOOD)


def _said(destination: DestinationStatus, to: Terminal) -> Iterator[str]:
    if said := destination["error"] or destination["reply"]:
        yield from to.wrap(said, first=Cell(INDENT), indent=INDENT)


def _clusters(found: Status, to: Terminal) -> Iterator[str]:
    for name, cluster in found["clusters"].items():
        last = f"; tried last: {', '.join(cluster['last'])}" if cluster["last"] else ""
        text = f"{', '.join(cluster['destinations'])}{last}"
        yield from to.wrap(text, first=Cell(f"cluster {name}: "), indent=INDENT)


class Kept(NamedTuple):
    """A row in the list of generations."""

    generation: Generation
    differs: Sequence[str]
    """The changes that its rollback would make; empty if it equals the installed state."""


def generations(
    kept: Sequence[Kept], hold: Hold | None, command: Callable[..., str], to: Terminal
) -> str:
    """Render the generations, in the given order, and the commands to install and release one.

    `command` returns the command line of postfix-sync with some arguments.
    """
    rows = [
        [
            Cell(str(row.generation.number), Colour.NAME),
            Cell(iso(row.generation.at)),
            Cell(str(len(row.generation.tables.routes.names())), right=True),
            Cell(str(len(row.generation.tables.routes)), right=True),
            Cell("" if row.differs else "installed", Colour.GOOD),
        ]
        for row in kept
    ]
    details = [
        [line for text in row.differs for line in to.wrap(text, first=Cell(INDENT), indent=INDENT)]
        for row in kept
    ]
    titles = ("generation", "last installed", "lists", "addresses", "")
    hint = "install one and hold it:" if kept else "no generation is kept yet; run a sync:"
    action = command("rollback") + " GENERATION" if kept else command("--once")
    lines = [*_table(titles, rows, details, to), *([""] if kept else []), hint]
    lines.append(INDENT + to.paint(action, Colour.COMMAND))
    if hold:
        lines += ["", *to.wrap(f"{hold}; release the hold:", indent=INDENT)]
        lines.append(INDENT + to.paint(command("resume"), Colour.COMMAND))
    return "\n".join(lines)


def _table(
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    details: Sequence[Iterable[str]],
    to: Terminal,
) -> Iterator[str]:
    """Lay out rows in columns under titles, each followed by its details; nothing if empty."""
    if not rows:
        return
    head = [
        Cell(title, Colour.FAINT, right=cell.right)
        for title, cell in zip(titles, rows[0], strict=True)
    ]
    first, *others = to.columns([head, *rows])
    yield first
    for line, more in zip(others, details, strict=True):
        yield line
        yield from more


def _ago(moment: str | None, now: float) -> str:
    return f"{_since(moment, now)} ago" if moment else "never"


def _since(moment: str, now: float) -> str:
    """Render the time since a moment of the status: `45 s`, `12 min`, `3 h` or `5 d`."""
    try:
        seconds = max(now - seconds_of(moment), 0)
    except ValueError:
        return "?"  # another program wrote the file
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
