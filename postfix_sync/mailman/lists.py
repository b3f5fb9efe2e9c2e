"""Read the lists of postfix_lmtp and postfix_vmap by column. Pure.

The columns of a piece's tiles (tiles.py) are read as a whole: each distinct value and domain is
checked once, and a conflict shows in the number of keys. If anything in a piece is unusual, the
piece is read again, entry by entry, which finds the line.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate
from typing import TypeVar

from postfix_sync.errors import Refused, quote
from postfix_sync.mailman.entries import (
    MAX_LISTS,
    MAX_OTHER_LINES,
    Checks,
    Entry,
    Reading,
    line_of,
    name_of,
    pieces,
    refuse,
)
from postfix_sync.mailman.tiles import (
    BEFORE_REGEX,
    DOMAIN,
    LINE,
    MAX_LINE,
    NAME,
    TARGET_DOMAIN,
    VALUE,
    Formats,
    Tile,
    of_aliases,
    of_routes,
)
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST, list_with
from postfix_sync.model.source import SourceFile
from postfix_sync.model.table import Table

T = TypeVar("T", bound=Table[str])

MAX_SINGLE_BYTES = 2**26
"""Bytes at most of the addresses that are not read by list: a file that was sorted by hand, or has
other letters than ASCII, may have 1,350,000 of 50 bytes. It limits the memory that they take."""

_TOO_MANY_SINGLE = (
    f"the addresses up to here that are not in Mailman's order, or not in ASCII, have more than"
    f" {MAX_SINGLE_BYTES} bytes"
)


def parse_lists(kind: type[T], file: SourceFile, checks: Checks) -> T:
    """Return a file's table of addresses, read by list where Mailman wrote the nine of a list.

    It is the table of the file's lines. Raises `Refused`; of several problems, it may name another
    one than the first.
    """
    formats = of_aliases() if issubclass(kind, Aliases) else of_routes()
    reading = _Lists(file, checks, formats)
    for piece in pieces(file, formats):
        if not reading.takes(piece):
            for entry in reading.in_order(piece):
                reading.enter(entry, reading.lists if entry.is_list else reading.others)
    table = kind(reading.lists, {})
    if not (reading.others or table.shared):
        return table
    if disputed := _disputed(table, reading.others):
        again = Reading(file, checks, reading.at_most)
        entries = (entry for piece in pieces(file, formats) for entry in again.in_order(piece))
        raise _conflict(kind, file, entries, disputed)
    return kind.joined(table.lists, reading.others) if table.lists else kind.of(reading.others)


class _Lists(Reading):
    """The part of a file that has been read, by list; see `Reading`."""

    def __init__(self, file: SourceFile, checks: Checks, formats: Formats) -> None:
        """Begin to read a file."""
        super().__init__(file, checks, MAX_LISTS * ADDRESSES_PER_LIST)
        self.lists: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self._formats = formats
        self._single_bytes = 0
        self._domains: set[bytes] = set()
        self._target_domains: set[bytes] = set()
        self._values: dict[bytes, str] = {}

    def takes(self, piece: Sequence[Tile]) -> bool:
        """Read the next piece by column; return False, and read nothing, if a line is wrong.

        Raises `Refused` if the single lines of addresses have more than MAX_SINGLE_BYTES.
        """
        columns = tuple(zip(*piece, strict=True))
        try:
            lists, count = self._addresses(columns)
            others, lines = self._single_lines([*filter(None, columns[LINE])])
        except ValueError:
            return False
        if not self._permits(piece, count, lines):
            return False
        if not (_agree(self.lists, lists) and _agree(self.others, others)):
            return False
        self._single_bytes += sum(map(len, others))
        if self._single_bytes > MAX_SINGLE_BYTES:
            raise refuse(self.file, self.lines + 1, _TOO_MANY_SINGLE)
        self.lists.update(lists)
        self.others.update(others)
        self.entries += ADDRESSES_PER_LIST * count + lines
        self.lines += len(piece) + (ADDRESSES_PER_LIST - 1) * count
        return True

    def _addresses(self, columns: Sequence[Sequence[bytes]]) -> tuple[dict[str, str], int]:
        """Return the table of those tiles that have a name, and their number.

        Each distinct domain and value is checked once. Raises ValueError if one is wrong, or a name
        has two values.
        """
        names = [*filter(None, columns[NAME])]
        if not names:
            return {}, 0
        regex = names[0].startswith(BEFORE_REGEX)
        if self.regex is None:
            self.regex = regex
        if regex != self.regex:
            raise ValueError("plain keys and regular expressions in one file")
        for domain in {*columns[DOMAIN]} - {b""} - self._domains:
            self.checks.check_key(f"list@{name_of(domain, regex=regex)}")
            self._domains.add(domain)
        # Postfix folds the case of ASCII letters in all of its settings.
        keys = name_of(b"\n".join(names), regex=regex).lower().split("\n")
        values = [*self._values_of(columns)]
        table = dict(zip(keys, values, strict=True))
        if len(table) < len(names) and len({*zip(keys, values, strict=True)}) > len(table):
            raise ValueError("duplicate key, with another value")
        return table, len(names)

    def _values_of(self, columns: Sequence[Sequence[bytes]]) -> Iterable[str]:
        """Return the values of those tiles that have one. Raises ValueError if one is wrong."""
        values = [*filter(None, columns[VALUE])]
        if len(columns) > TARGET_DOMAIN + 1:
            for domain in {*columns[TARGET_DOMAIN]} - {b""} - self._target_domains:
                self.checks.read_value("", f"list@{domain.decode()}")
                self._target_domains.add(domain)
            return b"\n".join(values).decode().lower().split("\n")
        for value in dict.fromkeys(values):
            if value not in self._values:
                self._values[value] = self.checks.read_value("", value.decode())
        return map(self._values.__getitem__, values)

    def _single_lines(self, lines: Sequence[bytes]) -> tuple[dict[str, str], int]:
        """Return the table of single lines, and the number of those that are entries.

        Raises ValueError if one is wrong, or an address has two values.
        """
        table: dict[str, str] = {}
        count = 0
        if max(map(len, lines), default=0) > MAX_LINE:
            raise ValueError("a line is too long")
        if lines and self.regex is not None:
            patterns = self._formats.regex if self.regex else self._formats.plain
            columns = tuple(zip(*patterns.lines.findall(b"\n".join([*lines, b""])), strict=True))
            table, count = self._addresses(columns)
            lines = [*filter(None, columns[LINE])]
        entries = [*filter(None, map(line_of, lines))]
        for key, value in map(self.read_line, entries):
            if table.setdefault(key, value) != value:
                raise ValueError("duplicate key, with another value")
        return table, count + len(entries)

    def _permits(self, piece: Sequence[Tile], lists: int, lines: int) -> bool:
        """Return whether the next piece, which has so many entries, breaks no limit."""
        if self.entries + ADDRESSES_PER_LIST * lists + lines > self.at_most:
            return False
        excess = self.lines - 2 * self.entries
        if excess + len(piece) - lists - lines <= MAX_OTHER_LINES:
            return True
        steps = (-ADDRESSES_PER_LIST if name else _step(line) for name, *_, line in piece)
        return max(accumulate(steps, initial=excess)) <= MAX_OTHER_LINES


def _step(line: bytes) -> int:
    """Return how a line changes the number of lines without an entry minus that of entries."""
    return 1 if line.startswith(b"#") or not line.strip(b" ") else -1


def _agree(known: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Return whether two tables have the same values for the keys that are in both."""
    return known.keys().isdisjoint(new) or all(
        known[key] == new[key] for key in known.keys() & new.keys()
    )


def _disputed(table: Table[str], others: Mapping[str, str]) -> set[str]:
    """Return the addresses that have one value of a list, and another one of a list or a line."""
    shared = {
        name
        for name in table.shared
        if (name, table.lists[name]) not in table.entries_of(list_with(name))
    }
    return shared | {key for key, value in others.items() if table.get(key, value) != value}


def _conflict(
    kind: type[T], file: SourceFile, entries: Iterable[Entry], disputed: AbstractSet[str]
) -> Refused:
    """Return the error for the first line that gives a disputed address its second value."""
    concerned = disputed | {list_with(address) for address in disputed}
    values: dict[str, str] = {}
    for entry in entries:
        if entry.key not in concerned:
            continue
        table = kind({entry.key: entry.value}, {}) if entry.is_list else {entry.key: entry.value}
        for number, (address, value) in enumerate(table.items(), entry.number):
            if values.setdefault(address, value) != value:
                return refuse(file, number, f"duplicate key {quote(address)}, with another value")
    return refuse(file, 1, "the file was changed while it was read")
