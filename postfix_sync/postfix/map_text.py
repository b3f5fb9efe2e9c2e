"""Render, change and parse the text of an installed map. Pure."""

import re
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import SUBADDRESSES, is_of_list, shared_names
from postfix_sync.model.maps import Diff
from postfix_sync.model.table import Table

HEADER = b"# Written by postfix-sync, which keeps it in step with Mailman. Edits will be lost.\n"

EDITS = 1000
"""Lists of a text to edit at most: if more have changed, the text is rendered."""

AT_ONCE = 1000
"""Lists of a text in memory at a time, when it is rendered."""

_SUFFIXES = ("", *(f"-{subaddress}" for subaddress in SUBADDRESSES))
_LIST_LINES = "".join(f"%s{suffix}%s" for suffix in _SUFFIXES)
_ALIAS_LINES = "".join(f"%s{suffix}%s{suffix}%s" for suffix in _SUFFIXES)


def _lists_and_lines(value: str, other: str) -> re.Pattern[bytes]:
    """Return the pattern of a list's nine lines, or of any other line.

    `value` and `other` are the patterns of a list's value, and of its other addresses' values.
    """
    lines = [rf"((?P<local>[^\s@#][^\s@]*)@(?P<domain>[^\s@]+))\t(?P<value>{value})\n"]
    lines += (
        rf"(?P=local)-{subaddress}@(?P=domain)\t{other.replace('%s', subaddress)}\n"
        for subaddress in SUBADDRESSES
    )
    return re.compile(rf"{''.join(lines)}|([^\n]*\n)".encode())


_LISTS = _lists_and_lines(r"[^\t\n]+", "(?P=value)")
_ALIASES = _lists_and_lines(r"(?P<to>[^\s@]+)@(?P<at>[^\s@]+)", "(?P=to)-%s@(?P=at)")
_LINE = re.compile(r"#[^\n]*\n|(?P<key>[^\t\n]+)\t(?P<value>[^\t\n]+)\n")

T = TypeVar("T", bound=Table[str])


def render(table: Table[str]) -> Iterator[bytes]:
    """Yield a table in pieces as the text that is installed beside its index.

    It has one entry a line; the nine of a list follow each other, and lists are sorted by name.
    """
    yield HEADER
    lines = _lines(table)
    while piece := "".join(islice(lines, AT_ONCE)):
        yield piece.encode()


def _lines(table: Table[str]) -> Iterator[str]:
    """Yield the lines of each list, and of each other address."""
    for unit in sorted([*table.lists, *table.others]):
        if unit in table.others:
            yield f"{unit}\t{table.others[unit]}\n"
        elif table.shared:  # one of its addresses may be another list, which has the line
            for key, value in table.entries_of(unit):
                if key == unit or key not in table.lists:
                    yield f"{key}\t{value}\n"
        else:
            yield _lines_of(table, unit)


def _lines_of(table: Table[str], name: str) -> str:
    """Return the nine lines of a list."""
    local, _, domain = name.rpartition("@")
    value = table.lists[name]
    if isinstance(table, Aliases):
        to, _, at = value.rpartition("@")
        return _ALIAS_LINES % ((local, f"@{domain}\t{to}", f"@{at}\n") * len(_SUFFIXES))
    return _LIST_LINES % ((local, f"@{domain}\t{value}\n") * len(_SUFFIXES))


class UnfitError(Exception):
    """A text that cannot be changed by list: its lists are not sorted, or a list is not whole."""


class Edit(NamedTuple):
    """A change of one list in a text."""

    sought: bytes
    """How the line begins at which it is made; empty: the end of the text."""
    old: bytes
    """The lines that are there, and that it replaces."""
    new: bytes


def edits_of(before: Table[str], table: Table[str], change: Diff | None) -> list[Edit]:
    """Return the edits that make the text of `before` that of `table`, in the order of the text.

    Raises UnfitError if the change is unknown or large, or cannot be made by list.
    """
    if not change or before.shared or table.shared:
        raise UnfitError
    kinds = change.added, change.removed, change.changed
    names = sorted({name for part in kinds for name in part.lists})
    if len(names) > EDITS or any(part.others for part in kinds):
        raise UnfitError
    units = sorted([*before.lists, *before.others])
    edits = []
    for name in names:
        following = units[(at := bisect(units, name)) : at + 1]
        old = _lines_of(before, name).encode() if name in before.lists else b""
        new = _lines_of(table, name).encode() if name in table.lists else b""
        place = name if old else "".join(following)
        edits.append(Edit(f"{place}\t".encode() if place else b"", old, new))
    return edits


def spliced(text: Iterable[bytes], edits: Sequence[Edit]) -> Iterator[bytes | memoryview]:
    """Yield a text with some edits, in pieces; `text` has it in pieces, divided between lines.

    It has the entries of the edited table, and is what `render` returns if the text is in that
    order. Raises UnfitError if it is in another one.
    """
    pieces = iter(text)
    waiting = deque(edits)
    for piece in pieces:
        content, end = piece, 0
        while waiting and (start := _line_at(content, waiting[0].sought, end)) >= 0:
            _, old, new = waiting.popleft()
            while len(content) < start + len(old) and (more := next(pieces, b"")):
                content += more  # the end of the list is in the next piece
            if not content.startswith(old, start):
                raise UnfitError
            yield memoryview(content)[end:start]
            yield new
            end = start + len(old)
        yield memoryview(content)[end:]
    for sought, _, new in waiting:
        if sought:
            raise UnfitError
        yield new


def _line_at(content: bytes, sought: bytes, start: int) -> int:
    """Return where a line begins with `sought`, from the line at `start` on; -1 if none does."""
    if not sought:
        return -1
    if content.startswith(sought, start):
        return start
    return content.find(b"\n" + sought, start) + 1 or -1


def parse_installed(pieces: Iterable[bytes], kind: type[T]) -> T | None:
    """Return the table that `render` made a text of; None if `render` could not have made it.

    `pieces` are the text, divided anywhere between lines.
    """
    lines = _ALIASES if issubclass(kind, Aliases) else _LISTS
    lists: dict[str, str] = {}
    others: dict[str, str] = {}
    keys = 0
    header = b""
    for piece in pieces:
        header = header or piece[:1]
        if header != b"#" or not piece.endswith(b"\n"):
            return None
        # Each match is a list, with name, local part, domain and value, or, in the end, a line.
        found = lines.findall(piece)
        try:
            lists.update((one[0].decode(), one[3].decode()) for one in found if one[0])
            entries = [_LINE.fullmatch(one[-1].decode()) for one in found if not one[0]]
        except UnicodeDecodeError:
            return None
        if not all(entries):
            return None
        named = [entry for entry in entries if entry and entry["key"]]
        others.update((entry["key"], entry["value"]) for entry in named)
        keys += len(found) - len(entries) + len(named)
    if not header or keys != len(lists) + len(others):
        return None
    if shared_names(lists) or any(is_of_list(lists, key) for key in others):
        return None
    return kind.joined(lists, others) if lists else kind.of(others)
