"""The answers of `status` and `doctor` for people. Pure; what is not for eyes is their --json.

What matters most stands last, right above the prompt. Text is wrapped, but a command never is: it
stands on a line of its own, whole and without a prompt before it, so that the line can be copied
and pasted. A terminal that is narrower shows it over two lines, and still copies it as one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from postfix_sync.cli.terminal import Cell, Colour, Terminal
from postfix_sync.errors import escape
from postfix_sync.mailman.addresses import lists_of
from postfix_sync.model import Finding, Verdict
from postfix_sync.postfix.main_cf.classes import ROLES
from postfix_sync.status.schema import DestinationStatus, SourceStatus, Status
from postfix_sync.store.generations import Generation, Hold
from postfix_sync.text import counted, iso, seconds_of

INDENT = "  "

VERDICTS = {
    Verdict.OK: Colour.GOOD,
    Verdict.WARNING: Colour.DOUBTFUL,
    Verdict.FAILURE: Colour.BAD,
}
"""In the order in which they are told."""

BESIDE = " " * 9
"""As wide as a verdict and the gap after it."""

COMMAND_INDENT = BESIDE + "  "

STATES = {"ok": Colour.GOOD, "stale": Colour.DOUBTFUL}
"""How a source may be; everything else is bad."""


def findings(
    found: Sequence[Finding], to: Terminal, *, problems_only: bool = False, setup: str = ""
) -> str:
    """What doctor found: what is well, then warnings, then failures, then how many of each.

    `setup` is the command that makes what main.cf lacks.
    """
    blocks = []
    for verdict in VERDICTS:
        told = [_finding(one, to) for one in found if one.verdict is verdict]
        if verdict is not Verdict.OK:
            blocks += told
        elif told and not problems_only:
            blocks.append("\n".join(told))
    if setup:
        blocks += _setup(found, setup, to)
    if not problems_only:
        blocks.append(_how_many(found, to))
    return "\n\n".join(blocks)


def _setup(found: Sequence[Finding], command: str, to: Terminal) -> Iterator[str]:
    """That `command` makes what main.cf lacks for the maps to be used; nothing where it doesn't."""
    if any(one.verdict is Verdict.FAILURE and one.name in ROLES for one in found):
        made = INDENT + to.paint(command, Colour.COMMAND)
        yield f"setup makes all that main.cf lacks, and asks first:\n{made}"


def _finding(one: Finding, to: Terminal) -> str:
    first = Cell(f"{one.verdict.value:<{len(BESIDE)}}", VERDICTS[one.verdict])
    if one.verdict is Verdict.OK:
        # Where a parameter is what was looked at, it begins with its name anyway.
        text = one.seen if one.seen.startswith(one.name) else f"{one.name}: {one.seen}"
        return "\n".join(to.wrap(text, first=first, indent=BESIDE))
    lines = to.wrap(one.name, first=first, indent=BESIDE, colour=Colour.NAME)
    for text in (one.seen, one.why):
        if text:
            lines += to.wrap(text, first=Cell(BESIDE), indent=BESIDE)
    if one.fix:
        lines.append(COMMAND_INDENT + to.paint(escape(one.fix), Colour.COMMAND))
    return "\n".join(lines)


def _how_many(found: Sequence[Finding], to: Terminal) -> str:
    numbers = {one: sum(finding.verdict is one for finding in found) for one in VERDICTS}
    words = [
        to.paint(counted(numbers[one], one.value), VERDICTS[one])
        for one in (Verdict.FAILURE, Verdict.WARNING)
        if numbers[one]
    ]
    return ", ".join([*words, to.paint(f"{numbers[Verdict.OK]} ok", Colour.GOOD)])


def status(found: Status, now: float, to: Terminal) -> str:
    """What the last passes and probes found. `now` is in seconds since the epoch."""
    sections = (_head(found, now, to), _sources(found, now, to), _maps(found, now, to))
    more = (_destinations(found, now, to), _clusters(found, to))
    return "\n\n".join(text for one in (*sections, *more) if (text := "\n".join(one)))


def _head(found: Status, now: float, to: Terminal) -> Iterator[str]:
    when = f"{found['updated']}, {_since(found['updated'], now)} ago"
    yield from to.wrap(f"postfix-sync {found['version']}, as of {when}", indent=INDENT)
    number = "" if found["generation"] is None else f"generation {found['generation']}"
    if found["held"]:
        first = Cell(f"held at {number} " if number else "held ", Colour.DOUBTFUL)
        since = found["held_since"] or found["updated"]
        waits = f"for {_since(since, now)}; what waits: {found['waiting'] or 'nothing'}"
        yield from to.wrap(waits, first=first, indent=INDENT)
    elif number:
        yield number


def _sources(found: Status, now: float, to: Terminal) -> Iterator[str]:
    titles = ("source", "state", "lists", "addresses", "last success", "last change")
    rows = [
        [
            Cell(name, Colour.NAME),
            Cell(one["state"], STATES.get(one["state"], Colour.BAD)),
            Cell(str(one["lists"]), right=True),
            Cell(str(one["entries"]), right=True),
            Cell(_ago(one["last_success"], now)),
            Cell(_ago(one["last_change"], now)),
        ]
        for name, one in found["sources"].items()
    ]
    details = [_error(one, to) for one in found["sources"].values()]
    return _table(titles, rows, details, to)


def _error(one: SourceStatus, to: Terminal) -> Iterator[str]:
    if error := one["error"]:
        yield from to.wrap(error["message"], first=Cell(INDENT), indent=INDENT)
        if error["hint"]:
            yield from to.wrap(f"hint: {error['hint']}", first=Cell(INDENT), indent=INDENT * 2)


def _maps(found: Status, now: float, to: Terminal) -> Iterator[str]:
    titles = ("map", "type", "entries", "updated")
    rows = [
        [
            Cell(name, Colour.NAME),
            Cell(one["type"]),
            Cell(str(one["entries"]), right=True),
            Cell(_ago(one["updated"], now)),
        ]
        for name, one in found["maps"].items()
    ]
    return _table(titles, rows, [() for _ in rows], to)


def _destinations(found: Status, now: float, to: Terminal) -> Iterator[str]:
    titles = ("destination", "state", "for", "phase", "seconds")
    rows = [
        [
            Cell(endpoint, Colour.NAME),
            _reached(one),
            Cell(_since(one["since"], now)),
            Cell(one["phase"]),
            Cell(f"{one['seconds']:g}", right=True),
        ]
        for endpoint, one in found["destinations"].items()
    ]
    details = [_said(one, to) for one in found["destinations"].values()]
    return _table(titles, rows, details, to)


def _reached(one: DestinationStatus) -> Cell:
    if not one["up"]:
        return Cell("DOWN", Colour.BAD)
    return Cell("up?", Colour.DOUBTFUL) if one["failures"] else Cell("up", Colour.GOOD)


def _said(one: DestinationStatus, to: Terminal) -> Iterator[str]:
    if said := one["error"] or one["reply"]:
        yield from to.wrap(said, first=Cell(INDENT), indent=INDENT)


def _clusters(found: Status, to: Terminal) -> Iterator[str]:
    for name, one in found["clusters"].items():
        last = f"; tried last: {', '.join(one['last'])}" if one["last"] else ""
        text = f"{', '.join(one['destinations'])}{last}"
        yield from to.wrap(text, first=Cell(f"cluster {name}: "), indent=INDENT)


class Kept(NamedTuple):
    """A generation in the list of them."""

    generation: Generation
    differs: Sequence[str]
    """What would change if it were put back; nothing where it is what is installed."""


def generations(
    kept: Sequence[Kept], hold: Hold | None, command: Callable[..., str], to: Terminal
) -> str:
    """What rollback can put back, newest first. `command` says how to type postfix-sync."""
    rows = [
        [
            Cell(str(one.generation.number), Colour.NAME),
            Cell(iso(one.generation.at)),
            Cell(str(len(lists_of(one.generation.tables.routes))), right=True),
            Cell(str(len(one.generation.tables.routes)), right=True),
            Cell("" if one.differs else "installed", Colour.GOOD),
        ]
        for one in kept
    ]
    details = [
        [line for text in one.differs for line in to.wrap(text, first=Cell(INDENT), indent=INDENT)]
        for one in kept
    ]
    titles = ("generation", "last installed", "lists", "addresses", "")
    hint = "put one back, and hold it:" if kept else "none is kept yet; make a pass:"
    action = command("rollback") + " GENERATION" if kept else command("--once")
    lines = [*_table(titles, rows, details, to), *([""] if kept else []), hint]
    lines.append(INDENT + to.paint(action, Colour.COMMAND))
    if hold:
        lines += ["", *to.wrap(f"{hold}; go on:", indent=INDENT)]
        lines.append(INDENT + to.paint(command("resume"), Colour.COMMAND))
    return "\n".join(lines)


def _table(
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    details: Sequence[Iterable[str]],
    to: Terminal,
) -> Iterator[str]:
    """Rows in columns under their titles, each followed by its details; nothing without rows."""
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
    """`45 s`, `12 min`, `3 h`, `5 d`: what has passed since a time of the status."""
    try:
        seconds = max(now - seconds_of(moment), 0)
    except ValueError:
        return "?"  # somebody else wrote the file
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
