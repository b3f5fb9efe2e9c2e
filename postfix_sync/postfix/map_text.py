"""Render, change and parse the text of an installed map. Pure."""

import re
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from postfix_sync.model.list_addresses import SUBADDRESSES, is_of_list, shared_names
from postfix_sync.model.list_block import alias_block, list_block
from postfix_sync.model.maps import Diff
from postfix_sync.model.table import Aliases, Table

HEADER = b"# Written by postfix-sync, which keeps it in step with Mailman. Edits will be lost.\n"

SPLICED = 1000
"""Lists of a text to change at most: if more have changed, the text is rendered."""

_SUFFIXES = ("", *(f"-{subaddress}" for subaddress in SUBADDRESSES))
_LIST_LINES = "".join(f"%s{suffix}%s" for suffix in _SUFFIXES)
_ALIAS_LINES = "".join(f"%s{suffix}%s{suffix}%s" for suffix in _SUFFIXES)

_OTHER = rb"|([^\n]*\n)"
_LISTS = re.compile(list_block(rb"\t", rb"[^\t\n]+", rb"\n").pattern + _OTHER)
_ALIASES = re.compile(alias_block(rb"\t", rb"\n").pattern + _OTHER)
_LINE = re.compile(r"#[^\n]*\n|(?P<key>[^\t\n]+)\t(?P<value>[^\t\n]+)\n")

Parts: TypeAlias = Sequence[bytes | memoryview]
"""The content of a file, in parts."""

T = TypeVar("T", bound=Table[str])


def render(table: Table[str]) -> bytes:
    """Return a table as the text that is installed beside its index.

    It has one entry a line; the nine of a list follow each other, and lists are sorted by name.
    """
    return HEADER + "".join(_lines(table)).encode()


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


def spliced(text: bytes, before: Table[str], table: Table[str], change: Diff) -> Parts | None:
    """Return the text of `table`, made from the text of `before` and the change between them.

    It is what `render` returns if `text` is in that order; in any case, it has the same entries.
    None if the change is large, or cannot be made by list.
    """
    kinds = change.added, change.removed, change.changed
    names = sorted({name for part in kinds for name in part.lists})
    if len(names) > SPLICED or any(part.others for part in kinds) or before.shared or table.shared:
        return None
    units = sorted([*before.lists, *before.others])
    view = memoryview(text)
    parts: list[bytes | memoryview] = []
    end = 0
    for name in names:
        old = _lines_of(before, name).encode() if name in before.lists else b""
        following = units[(at := bisect(units, name)) : at + 1]
        sought = old or b"".join(f"{unit}\t".encode() for unit in following)
        start = text.find(b"\n" + sought, end - 1 if end else 0) + 1 if sought else len(text)
        if not start:  # the lines of the text are in another order
            return None
        new = _lines_of(table, name).encode() if name in table.lists else b""
        parts += [view[end:start], new]
        end = start + len(old)
    return [*parts, view[end:]]


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
