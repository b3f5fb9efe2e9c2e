"""Lay out text for people: wrapped to the width of the terminal, coloured, in aligned columns.

Only `Terminal.of` queries the stream and the environment. A pipe is a terminal of 80 columns
without colours, so that mail from cron and the output of `less` have the same layout.

Text from a file or a server may contain anything, so control characters are escaped. Widths are in
columns of the screen: an East Asian character takes two.
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
"""Columns; a narrower terminal breaks the lines itself."""

GAP = "  "


class Colour(Enum):
    """The colours and weights of text, as SGR parameters (ECMA-48) that all terminals support."""

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
    """Whether it is aligned to the right, as numbers are."""


NOTHING = Cell("")


@dataclass(frozen=True)
class Terminal:
    """The properties of an output: its width in columns, and whether it shows colours."""

    width: int = 80
    coloured: bool = False

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str]) -> "Terminal":
        """Return the properties of a stream; no-color.org and terminfo(5) define the variables."""
        width = shutil.get_terminal_size((80, 24)).columns
        plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb"
        return cls(width=max(NARROWEST, min(width, WIDEST)), coloured=stream.isatty() and not plain)

    def paint(self, text: str, colour: Colour) -> str:
        """Return the text in a colour, or unchanged if the terminal has no colours."""
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
        """Wrap the text, with `first` before the first line and `indent` before the other lines.

        Lines are broken between words; a word that is longer than a line is cut.
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
        """Lay out rows of as many cells each in aligned columns, and return a text for each row.

        If the first cell makes a row wider than the terminal, it gets lines of its own, above the
        other cells.
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
    """Break a text into lines of at most `room` columns, the first of at most `first_room`."""
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
    """Return how many characters of a text fit into `room` columns; at least one."""
    used = 0
    for number, character in enumerate(text):
        used += _width(character)
        if used > room:
            return max(number, 1)
    return len(text)


def _width(text: str) -> int:
    """Return the columns that a text takes (Unicode Standard Annex 11); combining marks: none."""
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
    """A line on a terminal that shows progress, and is erased at the end of the `with` block.

    Nothing is written if the stream is not a terminal, or can't erase lines.
    """

    def __init__(self, stream: TextIO, environment: Mapping[str, str], *, enabled: bool) -> None:
        dumb = environment.get("TERM", "dumb") == "dumb"
        self._stream = stream if enabled and stream.isatty() and not dumb else None
        self._room = Terminal.of(stream, environment).width - 1

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exc: object) -> None:
        self._write("")

    def show(self, text: str) -> None:
        """Replace the text of the line."""
        text = escape(text)
        self._write(text[: _fitting(text, self._room)])

    def _write(self, text: str) -> None:
        if self._stream:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
