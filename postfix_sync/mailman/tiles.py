"""Cut one of Mailman's files into lists and lines, piece by piece. Pure.

One regular expression tiles a piece: the nine lines of a list, as Mailman's mta/aliases.py has
them, are one tile, and any other line is one. A list is read that way only if its names are in
ASCII, with characters that names.py permits, and if all lines have one value. So lists that Mailman
wrote cost no step of Python each, and all else is read line by line.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST, SUBADDRESSES
from postfix_sync.model.source import PIECE, SourceFile

MAX_LINE = 2048
"""Bytes of a line at most: Postfix's line_length_limit. An address has 320 bytes at most."""

Tile: TypeAlias = tuple[bytes, ...]
"""What a pattern found. Of a list: its name, from the beginning of the line; local part, domain and
value; and the parts of the value. Of any other line: the line without its end. Else b""."""

NAME, DOMAIN, VALUE, TARGET_DOMAIN, LINE = 0, 2, 3, 5, -1
"""The places in a tile; only one of postfix_vmap has the domain that its value is in."""

BEFORE_REGEX = b"/^"
"""What a name begins with in a file whose keys are regular expressions."""

ANY_EXTENSION = rb"(\+.*)?"
"""What follows the local parts of -bounces and -confirm in a regular expression."""


class LongLineError(Exception):
    """A line that has more bytes than MAX_LINE: `number`, from 1, and `length`."""

    def __init__(self, number: int, length: int) -> None:
        super().__init__(number, length)
        self.number = number
        self.length = length


class _Format(NamedTuple):
    """How a file has its keys: the patterns of their parts, and of what is around them."""

    before: str
    local: str
    domain: str
    extension: str
    """What follows the local parts of -bounces and -confirm."""
    after: str


_PLAIN = _Format(
    before="",
    local=r"[A-Za-z0-9!$%&'*+\-.=?^_`{|}~][A-Za-z0-9!#$%&'*+\-./=?^_`{|}~]*+",
    domain=r"[A-Za-z0-9_.\-]++",
    extension="",
    after=r"[ \t]++",
)
_REGEX = _Format(
    before=r"/\^",
    local=r"(?!#)(?:[A-Za-z0-9!#$%&'*+\-=?^_`{|}~]++|\\\.)+",
    domain=r"(?:[A-Za-z0-9_\-]++|\\\.)+",
    extension=re.escape(ANY_EXTENSION.decode()),
    # If an address has six dots, Mailman's postfix_vmap has no blank between a key and its value.
    after=r"\$/[ \t]*+",
)


class Patterns(NamedTuple):
    """The patterns of a file's tiles, and of those lines among them that need no check.

    Each part ends at a character that it can't have, and the quantifiers of characters are
    possessive, so no line takes a time that grows with the square of its length. Those of groups
    are not, because Python before 3.11.5 mishandles them (python/cpython#106052, #100061).
    """

    tiles: re.Pattern[bytes]
    lines: re.Pattern[bytes]
    """Its tiles have the form of a list's, but are the single lines of addresses."""


class Formats(NamedTuple):
    """The patterns of a file, if its keys are plain, and if they are regular expressions."""

    plain: Patterns
    regex: Patterns


def _patterns(form: _Format, value: str, others: str) -> Patterns:
    """Return the patterns of a file.

    `value` is the pattern of a list's value, and `others` that of its other lines' values, in which
    %s stands for the subaddress.
    """
    local = f"(?P<local>{form.local})"
    rest = f"@(?P<domain>{form.domain})){form.after}(?P<value>{value}) *+\\n"
    others = f"@(?P=domain){form.after}{others} *+\\n"
    lines = [f"(?P<name>{form.before}{local}{rest}"]
    for subaddress in SUBADDRESSES:
        extension = form.extension if subaddress in {"bounces", "confirm"} else ""
        other = others.replace("%s", subaddress)
        lines.append(f"{form.before}(?P=local)-{subaddress}{extension}{other}")
    extension = f"(?:(?<=-bounces|-confirm){form.extension})?" if form.extension else ""
    line = f"(?P<name>{form.before}{local}{extension}{rest}"
    return Patterns(*(re.compile(rf"{one}|([^\n]*+)\n".encode()) for one in ("".join(lines), line)))


@functools.cache
def of_routes() -> Formats:
    """Return the patterns of postfix_lmtp, whose lists have one value each."""
    value = (r"[!-~]++", "(?P=value)")
    return Formats(_patterns(_PLAIN, *value), _patterns(_REGEX, *value))


@functools.cache
def of_aliases() -> Formats:
    """Return the patterns of postfix_vmap.

    Each address of a list leads to the same address of another list, and is plain in both formats.
    """
    value = (rf"(?P<to>{_PLAIN.local})@(?P<at>{_PLAIN.domain})", "(?P=to)-%s@(?P=at)")
    return Formats(_patterns(_PLAIN, *value), _patterns(_REGEX, *value))


_LINE = re.compile(rb"()([^\n]*+)\n")
BY_LINE = Formats(Patterns(_LINE, _LINE), Patterns(_LINE, _LINE))
"""The patterns of a file without lists."""

FIRST_ENTRY = re.compile(rb"^[^# \n].?", re.MULTILINE)
"""The first bytes of an entry: BEFORE_REGEX if the keys are regular expressions."""


def tiles(file: SourceFile, formats: Formats) -> Iterator[list[Tile]]:
    """Yield the tiles of a file in order, those of a piece at a time; see `pieces`."""
    return (found for found, _ in pieces(file, formats))


def pieces(file: SourceFile, formats: Formats) -> Iterator[tuple[list[Tile], bytes]]:
    """Yield a file in pieces: the tiles of each, in order, and its text.

    They are the tiles of the file as a whole, wherever a piece ends. The file ends with a newline.
    Raises LongLineError for a line without an end within its piece.
    """
    done, rest = 0, b""
    patterns = None
    while chunk := read(file, done, file.piece):
        done += len(chunk)
        text = rest + chunk
        end = text.rfind(b"\n") + 1
        is_long = len(text) - end > MAX_LINE
        if b"\n" not in chunk and not is_long:
            rest = text
            continue
        if patterns is None and (first := FIRST_ENTRY.search(text, 0, end)):
            patterns = formats.regex if first[0] == BEFORE_REGEX else formats.plain
        pattern = _LINE if _has_long_line(text[:end]) else (patterns or formats.plain).tiles
        found: list[Tile] = pattern.findall(text, 0, end)
        # The last lines of a piece may be the first ones of a list.
        carried = 0 if is_long or done == file.size else _trailing_lines(found)
        if carried:
            end -= sum(len(tile[-1]) + 1 for tile in found[-carried:])
            del found[-carried:]
        if found:
            yield found, text[:end]
        if is_long:
            raise _long_line(file, done - len(text) + end)
        rest = text[end:]


def read(file: SourceFile, start: int, size: int) -> bytes:
    """Read up to `size` bytes, and none beyond the size that the file had when it was opened.

    Raises OSError with the place of the file as its name.
    """
    try:
        file.stream.seek(start)
        return file.stream.read(min(size, file.size - start))
    except OSError as error:
        error.filename = file.place
        raise


def _has_long_line(text: bytes) -> bool:
    """Return whether a line has more bytes than MAX_LINE, without a step for each line."""
    start = 0
    while len(text) - start > MAX_LINE:
        end = text.rfind(b"\n", start, start + MAX_LINE + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def _trailing_lines(found: list[Tile]) -> int:
    """Return how many of the last tiles are single lines, and fewer than a list has."""
    last = found[:-ADDRESSES_PER_LIST:-1]
    return next((number for number, tile in enumerate(last) if tile[0]), len(last))


def lines_before(file: SourceFile, position: int) -> int:
    """Return the number of lines that end before a position in a file."""
    starts = range(0, position, PIECE)
    return sum(read(file, at, min(PIECE, position - at)).count(b"\n") for at in starts)


def ends_with_newline(file: SourceFile) -> bool:
    """Return whether a file is empty, or its last byte ends a line."""
    return not file.size or read(file, file.size - 1, 1) == b"\n"


def _long_line(file: SourceFile, start: int) -> LongLineError:
    """Return the error for the line that begins at a position, which is not the last one."""
    length = 0
    while chunk := read(file, start + length, PIECE):
        end = chunk.find(b"\n")
        if end >= 0:
            length += end
            break
        length += len(chunk)
    return LongLineError(lines_before(file, start) + 1, length)
