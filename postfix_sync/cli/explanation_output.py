"""Render an explanation of `explain` for people: the steps in order, then the verdict. Pure."""

from postfix_sync.cli.terminal import Cell, Colour, Terminal
from postfix_sync.explain.steps import ASKED, Explanation, Step, Verdict
from postfix_sync.text import counted, iso

_COLOURS = {True: Colour.GOOD, False: Colour.BAD, None: Colour.DOUBTFUL}

_MEANINGS = {
    Verdict.DELIVERED: "mail to it is delivered",
    Verdict.REFUSED: "mail to it is refused, or returned to its sender",
    Verdict.DEFERRED: "mail to it is deferred: Postfix or the sending server tries again",
    Verdict.DIVERTED: "mail to it is not delivered to the list's Mailman",
    Verdict.UNKNOWN: "what happens to mail to it is unknown: something could not be asked",
}

_GOOD = {Verdict.DELIVERED: Colour.GOOD, Verdict.UNKNOWN: Colour.DOUBTFUL}

_WIDTH = 15
"""Columns of a step's name; the longest is virtual_alias."""


def explanation(found: Explanation, to: Terminal) -> str:
    """Render an explanation; the verdict is the last line."""
    lines = [line for step in found.steps for line in _step(step, to)]
    colour = _GOOD.get(found.verdict, Colour.BAD)
    verdict = Cell(f"{found.verdict.value:<{_WIDTH}}", colour)
    about = f"{found.address}: {_MEANINGS[found.verdict]}"
    if found.decisive and found.decisive.service:
        about += f" if it arrives at {found.decisive.service}"
    return "\n".join([*lines, *_known(found, to), *to.wrap(about, first=verdict, indent=_indent())])


def _indent() -> str:
    return " " * _WIDTH


def _step(step: Step, to: Terminal) -> list[str]:
    name = Cell(f"{step.step:<{_WIDTH}}", _COLOURS[step.ok])
    how = "" if step.how == ASKED else f" ({step.how})"
    lines = to.wrap(f"{step.asked}: {step.found}{how}", first=name, indent=_indent())
    if step.by:
        lines += to.wrap(step.by, first=Cell(_indent()), indent=_indent(), colour=Colour.FAINT)
    return lines


def _known(found: Explanation, to: Terminal) -> list[str]:
    facts = []
    if found.source:
        since = "" if found.since is None else f", installed since {iso(found.since)} or before"
        facts.append(("source", f"{found.source}{since}"))
    if found.held is not None:
        facts.append(("held", f"generation {found.held} is held: changes in Mailman wait"))
    if found.queued:
        facts.append(("queued", counted(found.queued, "message")))
    return [
        line
        for name, text in facts
        for line in to.wrap(text, first=Cell(f"{name:<{_WIDTH}}"), indent=_indent())
    ]
