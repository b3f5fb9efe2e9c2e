"""Read the lists of postfix_lmtp and postfix_vmap by column. Pure.

The columns of a piece's tiles (tiles.py) are read as a whole: each distinct value and domain is
checked once, and a conflict shows in the number of keys. If anything in a piece is unusual, the
piece is read again, entry by entry, which finds the line.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
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
    ALIASES,
    BEFORE_REGEX,
    DOMAIN,
    LINE,
    NAME,
    ROUTES,
    TARGET_DOMAIN,
    VALUE,
    Tile,
)
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST, SUBADDRESSES, list_with
from postfix_sync.model.source import SourceFile
from postfix_sync.model.table import Aliases, Table

T = TypeVar("T", bound=Table[str])

_SHARED = re.compile(rf"-(?:{'|'.join(SUBADDRESSES)})@")
"""Part of a list's name that may be an address of another list, too."""


def parse_lists(kind: type[T], file: SourceFile, checks: Checks) -> T:
    """Return a file's table of addresses, read by list where Mailman wrote the nine of a list.

    It is the table of the file's lines. Raises `Refused`; of several problems, it may name another
    one than the first.
    """
    patterns = ALIASES if issubclass(kind, Aliases) else ROUTES
    reading = _Lists(file, checks, MAX_LISTS * ADDRESSES_PER_LIST)
    for piece in pieces(file, patterns):
        if not reading.takes(piece):
            for entry in reading.in_order(piece):
                reading.enter(entry, reading.lists if entry.is_list else reading.others)
    if not (reading.others or reading.may_share):
        return kind(reading.lists, {})
    table = kind.agreeing(reading.lists, reading.others)
    if table is None:
        again = Reading(file, checks, reading.at_most)
        entries = (entry for piece in pieces(file, patterns) for entry in again.in_order(piece))
        raise _conflict(kind, file, entries, _disputed(kind, reading.lists, reading.others))
    return table


class _Lists(Reading):
    """The part of a file that has been read, by list; see `Reading`."""

    def __init__(self, file: SourceFile, checks: Checks, at_most: int) -> None:
        """Begin to read a file that may have `at_most` entries."""
        super().__init__(file, checks, at_most)
        self.lists: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self.may_share = False
        """Whether a list may have an address of another one."""
        self._domains: set[bytes] = set()
        self._values: dict[bytes, str] = {}

    def takes(self, piece: Sequence[Tile]) -> bool:
        """Read the next piece as a whole; return False, and read nothing, if that can't be done.

        It can't be done if a line is wrong, or a key occurs again.
        """
        columns = list(zip(*piece, strict=True))
        names = list(filter(None, columns[NAME]))
        regex = bool(names) and names[0].startswith(BEFORE_REGEX)
        try:
            lines = list(filter(None, map(line_of, filter(None, columns[LINE]))))
            if not self._permits(len(piece), len(names), len(lines)):
                return False
            if names and self.regex not in {None, regex}:
                return False
            keys = name_of(b"\n".join(names), regex=regex).split("\n") if names else []
            lists = dict(zip(keys, self._values_of(columns, regex=regex), strict=True))
            others = dict(map(self.read_line, lines))
        except ValueError:
            return False
        if len(lists) + len(others) < len(names) + len(lines):
            return False
        if not (self.lists.keys().isdisjoint(lists) and self.others.keys().isdisjoint(others)):
            return False
        self.lists.update(lists)
        self.others.update(others)
        self.entries += ADDRESSES_PER_LIST * len(lists) + len(others)
        self.lines += len(piece) + (ADDRESSES_PER_LIST - 1) * len(lists)
        if names:
            self.regex = regex
        self.may_share = self.may_share or _SHARED.search("\n".join(keys)) is not None
        return True

    def _permits(self, tiles: int, lists: int, lines: int) -> bool:
        """Return whether so many tiles, of which some are entries, surely break no limit."""
        entries = self.entries + ADDRESSES_PER_LIST * lists + lines
        blank = self.lines - self.entries + tiles - lists - lines
        return entries <= self.at_most and blank <= MAX_OTHER_LINES + self.entries

    def _values_of(self, columns: Sequence[Sequence[bytes]], *, regex: bool) -> Iterable[str]:
        """Return the values of the lists of a piece. Raises ValueError if one is wrong.

        Each distinct domain and value is checked once.
        """
        check_key, read_value = self.checks.check_key, self.checks.read_value
        for domain in {*columns[DOMAIN]} - {b""} - self._domains:
            check_key(f"list@{name_of(domain, regex=regex)}")
            self._domains.add(domain)
        values = list(filter(None, columns[VALUE]))
        if len(columns) > TARGET_DOMAIN + 1:
            for domain in {*columns[TARGET_DOMAIN]} - {b""}:
                read_value("", f"list@{domain.decode()}")
            return b"\n".join(values).decode().split("\n") if values else ()
        for value in dict.fromkeys(values):
            if value not in self._values:
                self._values[value] = read_value("", value.decode())
        return map(self._values.__getitem__, values)


def _disputed(kind: type[T], lists: Mapping[str, str], others: Mapping[str, str]) -> set[str]:
    """Return the addresses that have one value of a list, and another one of a list or a line."""
    table = kind(lists, {})
    pairs = (
        (name, kind({list_with(name): lists[list_with(name)]}, {}))
        for name in lists
        if list_with(name) in lists
    )
    shared = {name for name, other in pairs if other[name] != lists[name]}
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
            if address in disputed and values.setdefault(address, value) != value:
                return refuse(file, number, f"duplicate key {quote(address)}, with another value")
    raise AssertionError("an address has two values, but no line has the second one")
