"""Read the entries of one of Mailman's files, in both of its formats. Pure.

Keys are plain, or (transport_file_type: regex) one of a few fixed regular expressions, which are
turned back into the plain keys that they stand for.

The source is not trusted: a line in any other form refuses the file, and the message names the
line.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from postfix_sync.errors import Refused, quote
from postfix_sync.mailman.tiles import (
    ANY_EXTENSION,
    BEFORE_REGEX,
    BY_LINE,
    LINE,
    MAX_LINE,
    NAME,
    VALUE,
    Formats,
    LongLineError,
    Tile,
    ends_with_newline,
    lines_before,
    tiles,
)
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST
from postfix_sync.model.source import SourceFile
from postfix_sync.postfix.folding import Fold

MAILMAN_ALIASES = (
    "as Mailman's own user, mailman aliases"
    " (in its container: docker exec -u mailman CONTAINER mailman aliases)"
)
"""The command that makes Mailman write its files; as root, mailman refuses to run."""

REFUSED = "refused, Postfix keeps the last good maps"
"""The consequence of invalid content, for messages."""

MAX_LISTS = 150_000
"""Lists of one source at most: seven times as many as the largest known site has. It limits the
entries of a file, each of which takes memory and time, to the addresses of so many lists."""

MAX_DESTINATIONS = 32
"""Destinations of one source at most. Mailman writes one; a file edited by hand has a few."""

MAX_OTHER_LINES = 1000
"""Comments and blank lines that a file may have in excess of its entries. Mailman writes a header
of eight lines, and one line for each domain and for each list, which has nine entries."""

# If an address has six dots, Mailman's postfix_vmap has no blank between a key and its value.
_REGEX_ENTRY = re.compile(r"(/\^[^/]*\$/)[ \t]*(.*)")
_BLANKS = re.compile(r"[ \t]+")
_REGEX_KEY = re.compile(r"/\^(?P<body>.*)\$/")
_ANY_EXTENSION = ANY_EXTENSION.decode() + "@"
_ESCAPED_DOTS_ONLY = re.compile(r"(?:[^.\\]|\\\.)*")


def plain_key(text: str) -> str:
    """Return the address or domain that one of Mailman's regular expressions matches.

    Raises ValueError if Mailman writes no such expression.
    """
    found = _REGEX_KEY.fullmatch(text)
    body = found["body"] if found else ""
    if _ANY_EXTENSION in body:
        local, _, domain = body.partition(_ANY_EXTENSION)
        if not local.endswith(("-bounces", "-confirm")):
            raise ValueError(f"{quote(text)}: only -bounces and -confirm take any extension")
        body = f"{local}@{domain}"
    if not body or not _ESCAPED_DOTS_ONLY.fullmatch(body):
        raise ValueError(f"{quote(text)} is not a regular expression that Mailman writes")
    return body.replace("\\.", ".")


class UnfitError(ValueError):
    """An entry that follows from Mailman's own settings, so that Mailman would write it again."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


class Line(NamedTuple):
    """An entry as it is in the file: a key, not yet folded, and the rest of the line."""

    key: str
    value: str
    regex: bool
    is_list: bool = False
    """Whether it stands for the nine lines of the list `key`, with the list's value."""


class Entry(NamedTuple):
    """An entry that was checked, and the number of its line; see `Line`."""

    number: int
    key: str
    value: str
    is_list: bool


class Checks(NamedTuple):
    """How the entries of a file are read; each function raises ValueError with the problem."""

    fold: Fold
    check_key: Callable[[str], str]
    """Returns the key."""
    read_value: Callable[[str, str], str]
    """Returns the value of a folded key, given its text."""


def refuse(file: SourceFile, number: int, problem: ValueError | str) -> Refused:
    return Refused(
        f"{file.place}:{number}: {problem}; {REFUSED}",
        problem.hint
        if isinstance(problem, UnfitError)
        else f"if Mailman wrote this, let it write the file again: {MAILMAN_ALIASES}",
    )


def pieces(file: SourceFile, formats: Formats) -> Iterator[list[Tile]]:
    """Yield the tiles of a file, piece by piece, in memory that does not grow with the file.

    Raises `Refused` if the last line has no end, or for a line that is longer than a piece.
    """
    if not ends_with_newline(file):
        number = lines_before(file, file.size) + 1
        raise refuse(file, number, "the last line has no newline; the file is truncated")
    try:
        yield from tiles(file, formats)
    except LongLineError as error:
        raise refuse(file, error.number, _too_long(error.length)) from None


class Reading:
    """The part of a file that has been read: its lines, and those of them that are entries."""

    def __init__(self, file: SourceFile, checks: Checks, at_most: int) -> None:
        """Begin to read a file that may have `at_most` entries."""
        self.file = file
        self.checks = checks
        self.at_most = at_most
        self.lines = 0
        self.entries = 0
        self.regex: bool | None = None

    def in_order(self, piece: Iterable[Tile]) -> Iterator[Entry]:
        """Yield the entries of the next piece, checked one after the other.

        Raises `Refused`, also if the file has too many entries, or more comments and blank lines
        than MAX_OTHER_LINES permits.
        """
        for tile in piece:
            self.lines += 1
            try:
                line = _line_of(tile)
                if line:
                    entry = self._checked(line)
                elif self.lines - self.entries > MAX_OTHER_LINES + self.entries:
                    raise ValueError(
                        f"too many comments and blank lines: {self.lines - self.entries} up to"
                        f" here, at most {self.entries + MAX_OTHER_LINES} are allowed beside"
                        f" {self.entries} entries"
                    )
            except ValueError as error:
                raise refuse(self.file, self.lines, error) from None
            if line:
                yield entry
                self.lines += ADDRESSES_PER_LIST - 1 if line.is_list else 0

    def _checked(self, line: Line) -> Entry:
        """Return the next entry. Raises ValueError with the problem."""
        self.entries += ADDRESSES_PER_LIST if line.is_list else 1
        if self.entries > self.at_most:
            raise ValueError(f"the file has more than {self.at_most} entries")
        return Entry(self.lines, *self.read_line(line), line.is_list)

    def read_line(self, line: Line) -> tuple[str, str]:
        """Return folded key and value of an entry. Raises ValueError with the problem."""
        if self.regex is None:
            self.regex = line.regex
        if line.regex != self.regex:
            raise ValueError("plain keys and regular expressions in one file")
        text = plain_key(line.key) if line.regex and not line.is_list else line.key
        key = self.checks.fold(self.checks.check_key(text))
        return key, self.checks.read_value(key, line.value)

    def enter(self, entry: Entry, table: dict[str, str]) -> None:
        """Add an entry to a table. Raises `Refused` if its key has another value there.

        A key may occur twice: the lists ants and ants-owner share ants-owner@.
        """
        if table.setdefault(entry.key, entry.value) != entry.value:
            problem = f"duplicate key {quote(entry.key)}, with another value"
            raise refuse(self.file, entry.number, problem)


def _line_of(tile: Tile) -> Line | None:
    """Return the entry of a tile; None if it has none. Raises ValueError with the problem."""
    if not tile[NAME]:
        return line_of(tile[LINE])
    regex = tile[NAME].startswith(BEFORE_REGEX)
    return Line(name_of(tile[NAME], regex=regex), tile[VALUE].decode(), regex, is_list=True)


def name_of(text: bytes, *, regex: bool) -> str:
    """Return the address of a tile; also those of several, one a line."""
    if regex:
        for part, plain in (BEFORE_REGEX, b""), (ANY_EXTENSION, b""), (b"\\.", b"."):
            text = text.replace(part, plain)
    return text.decode()


def line_of(raw: bytes) -> Line | None:
    """Return the entry of one line; None if it is blank or a comment.

    Raises ValueError with the problem.
    """
    line = _decode(raw)
    return None if not line.strip(" ") or line.startswith("#") else _split(line)


def _split(line: str) -> Line:
    """Return the entry of a line that has one. Raises ValueError with the problem."""
    if line[0] in " \t":
        raise ValueError("begins with a blank, so it would continue the line before it")
    if line.startswith("/^") and (found := _REGEX_ENTRY.fullmatch(line.rstrip(" "))):
        key, value = found.groups()
    else:
        found = None
        key, *rest = _BLANKS.split(line.rstrip(" "), maxsplit=1)
        value = rest[0] if rest else ""
    if not value:
        raise ValueError(f"{quote(line)} is not a key, blanks and a value")
    return Line(key, value, found is not None)


def _too_long(length: int) -> str:
    return f"the line has {length} bytes, {MAX_LINE} at most are allowed"


def _decode(raw: bytes) -> str:
    """Return one line as text. Raises ValueError for bytes that Mailman never writes."""
    if len(raw) > MAX_LINE:
        raise ValueError(_too_long(len(raw)))
    if b"\r" in raw:
        raise ValueError("has a carriage return (CRLF line ends?)")
    if b"\0" in raw:
        raise ValueError("has a NUL byte")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ValueError("begins with a byte order mark")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not valid UTF-8") from None


def parse_entries(file: SourceFile, checks: Checks, at_most: int) -> dict[str, str]:
    """Return a file's table, read line by line.

    All keys must have the same format, plain or regular expressions. Raises `Refused`.
    """
    reading = Reading(file, checks, at_most)
    table: dict[str, str] = {}
    for piece in pieces(file, BY_LINE):
        for entry in reading.in_order(piece):
            reading.enter(entry, table)
    return table
