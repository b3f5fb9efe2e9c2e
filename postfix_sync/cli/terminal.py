"""Text for eyes: as wide as the terminal is, in colour where that is wanted, in aligned columns.

Only `Terminal.of` asks anything: the stream and the environment. A pipe is a terminal of 80 columns
without colours, so that what cron mails, and what `less` shows, has the same form.

What comes from a file or from a server may hold anything: control characters are shown, not sent.
Widths are those of the screen, where an East Asian character takes two columns.
"""

import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

from postfix_sync.errors import escape

WIDEST = 100
"""Columns; longer lines are hard to read."""

NARROWEST = 40
"""Columns; below, a terminal breaks the lines by itself."""

GAP = "  "


class Colour(Enum):
    """What a text may look like, as SGR parameters (ECMA-48), of the 16 that all terminals have."""

    PLAIN = ""
    GOOD = "32"
    DOUBTFUL = "33"
    BAD = "1;31"
    NAME = "1"
    COMMAND = "36"
    FAINT = "2"


@dataclass(frozen=True)
class Cell:
    """One field of a table."""

    text: str
    colour: Colour = Colour.PLAIN
    right: bool = False
    """It stands at the right end of its column, as numbers do."""


NOTHING = Cell("")


@dataclass(frozen=True)
class Terminal:
    """Where text is written to: its width in columns, and whether it shows colours."""

    width: int = 80
    coloured: bool = False

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str]) -> "Terminal":
        """What a stream leads to; see no-color.org and terminfo(5) about the variables."""
        width = shutil.get_terminal_size((80, 24)).columns
        plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb"
        return cls(width=max(NARROWEST, min(width, WIDEST)), coloured=stream.isatty() and not plain)

    def paint(self, text: str, colour: Colour) -> str:
        """The text in that colour, where there are any."""
        if not self.coloured or colour is Colour.PLAIN or not text:
            return text
        return f"\x1b[{colour.value}m{text}\x1b[0m"

    def wrap(
        self,
        text: str,
        *,
        first: Cell = NOTHING,
        indent: str = "",
        colour: Colour = Colour.PLAIN,
    ) -> list[str]:
        """The text in lines that fit: `first` before the first one, `indent` before all others.

        Lines end between words, but a word that is longer than a whole line is cut.
        """
        begin = escape(first.text)
        lines = [
            line.rstrip(" ")
            for paragraph in text.split("\n")
            for line in _broken(
                escape(paragraph), self.width - _width(indent), self.width - _width(begin)
            )
        ]
        begins = [self.paint(begin, first.colour), *(indent for _ in lines[1:])]
        return [begin + self.paint(line, colour) for begin, line in zip(begins, lines, strict=True)]

    def columns(self, rows: Sequence[Sequence[Cell]]) -> list[str]:
        """Each row as one line, its cells below those of the rows before.

        Where a row is wider than the terminal because of its first cell, that one gets lines of its
        own, above the others.
        """
        columns = [
            [_width(escape(cell.text)) for cell in cells] for cells in zip(*rows, strict=True)
        ]
        others = [max(column) for column in columns[1:]]
        room = self.width - sum(others) - len(GAP) * len(others)
        first = max((width for width in columns[0] if width <= room), default=len(GAP))
        widths = [first, *others]
        return ["\n".join(self._row(row, widths)) for row in rows]

    def _row(self, row: Sequence[Cell], widths: Sequence[int]) -> Iterator[str]:
        first = row[0]
        if _width(escape(first.text)) > widths[0]:
            yield from self.wrap(first.text, colour=first.colour)
            row = [NOTHING, *row[1:]]
        last = len(row) - 1
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = escape(cell.text)
            blanks = " " * (width - _width(text))
            before, after = (blanks, "") if cell.right else ("", blanks if number < last else "")
            cells.append(before + self.paint(text, cell.colour) + after)
        yield GAP.join(cells).rstrip(" ")


def _broken(text: str, room: int, first_room: int) -> Iterator[str]:
    """A text broken to lines of at most `room` columns, the first of at most `first_room`."""
    line, left = "", first_room
    for word in text.split(" "):
        if line and _width(line) + 1 + _width(word) <= left:
            line += f" {word}"
            continue
        if line:
            yield line
            left = room
        line = word
        while _width(line) > left:
            cut = _fitting(line, left)
            yield line[:cut]
            line, left = line[cut:], room
    yield line


def _fitting(text: str, room: int) -> int:
    """How many characters of a text fit; at least one."""
    used = 0
    for number, character in enumerate(text):
        used += _width(character)
        if used > room:
            return max(number, 1)
    return len(text)


def _width(text: str) -> int:
    """Columns that a text takes (Unicode Standard Annex 11; marks stand on what is before them)."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


class ProgressLine:
    """One line of a terminal that says what is going on, and is gone at the end of the `with`.

    Where nobody watches, or lines can't be taken back, nothing is written.
    """

    def __init__(self, stream: TextIO, environment: Mapping[str, str], *, wanted: bool) -> None:
        dumb = environment.get("TERM", "dumb") == "dumb"
        self._stream = stream if wanted and stream.isatty() and not dumb else None
        self._room = Terminal.of(stream, environment).width - 1

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exc: object) -> None:
        self._write("")

    def show(self, text: str) -> None:
        """Says this instead of what was said before."""
        text = escape(text)
        self._write(text[: _fitting(text, self._room)])

    def _write(self, text: str) -> None:
        if self._stream:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
