"""Render and parse the text of an installed map. Pure."""

import re
from collections.abc import Iterator
from typing import TypeVar

from postfix_sync.model.list_addresses import is_of_list, list_with
from postfix_sync.model.list_block import alias_block, list_block
from postfix_sync.model.table import Aliases, Table

HEADER = "# Written by postfix-sync, which keeps it in step with Mailman. Edits will be lost.\n"

_LINE = re.compile(rb"(?:#[^\n]*|(?P<key>[^\t\n]+)\t(?P<value>[^\t\n]+))\n")

_LIST = list_block(rb"\t", rb"[^\t\n]+", rb"\n")
_ALIAS = alias_block(rb"\t", rb"\n")

T = TypeVar("T", bound=Table[str])


def render(table: Table[str]) -> bytes:
    """Return a table as the text that is installed beside its index.

    It has one entry a line; the nine of a list follow each other, and lists are sorted by name.
    """
    return (HEADER + "".join(_lines(table))).encode()


def _lines(table: Table[str]) -> Iterator[str]:
    """Yield the lines of each list, and of each other address."""
    shared = {list_with(name) for name in table.lists}
    for unit in sorted([*table.lists, *table.others]):
        if unit in table.others:
            yield f"{unit}\t{table.others[unit]}\n"
        elif unit in shared:  # one of its addresses is another list, which has the line
            for key, value in table.entries_of(unit):
                if key == unit or key not in table.lists:
                    yield f"{key}\t{value}\n"
        else:
            yield "".join([f"{key}\t{value}\n" for key, value in table.entries_of(unit)])


def parse_installed(text: bytes, kind: type[T]) -> T | None:
    """Return the table that `render` made a text of; None if `render` could not have made it."""
    block = _ALIAS if issubclass(kind, Aliases) else _LIST
    lists: dict[str, str] = {}
    others: dict[str, str] = {}
    at = lines = 0
    try:
        while at < len(text):
            if found := block.match(text, at):
                lists[found["name"].decode()] = found["value"].decode()
                lines += 1
            elif not (found := _LINE.match(text, at)):
                return None
            elif found["key"]:
                others[found["key"].decode()] = found["value"].decode()
                lines += 1
            at = found.end()
    except UnicodeDecodeError:
        return None
    if not text.startswith(b"#") or lines != len(lists) + len(others):
        return None
    repeated = (is_of_list(lists, key) for key in others)
    if any(repeated) or any(list_with(name) in lists for name in lists):
        return None
    return kind.joined(lists, others) if lists else kind.of(others)
