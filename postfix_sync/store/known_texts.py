"""Keep the entries of the installed texts by list, so that a sync does not have to parse the texts.

The file is a copy of what the texts say. A text whose version differs from the noted one is parsed;
so a file that is missing, damaged or left by a sync that was killed costs time, and nothing else.
"""

import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

from postfix_sync.model.installed import KnownText, TextVersion
from postfix_sync.model.map_names import RECIPIENTS, ROUTES
from postfix_sync.model.maps import kind_of
from postfix_sync.model.table import Aliases, Table
from postfix_sync.store.json_reader import Damaged, loads, parse, shaped
from postfix_sync.store.tables_json import by_name, by_value
from postfix_sync.system.files import discard, read_file, replace_file


def _is_pair(numbers: list[int]) -> bool:
    return len(numbers) == 2


class _Header(TypedDict):
    """The first line: the checksum of the second one, and the version of each text."""

    checksum: int
    texts: dict[str, Annotated[list[int], _is_pair]]


class _Table(TypedDict):
    """A table in the second line: the names of its lists by value, and its other entries."""

    lists: dict[str, list[str]]
    others: dict[str, str]


class _Aliases(TypedDict):
    """A table of aliases in the second line."""

    lists: dict[str, str]
    others: dict[str, str]


@dataclass(frozen=True)
class KnownTexts:
    """The file of the installed texts' entries."""

    path: Path

    def read(self) -> dict[str, KnownText]:
        """Return the texts by map; none if the file is missing or damaged."""
        with suppress(OSError, Damaged):
            first, _, second = read_file(self.path).partition(b"\n")
            header = parse(first, _Header)
            if zlib.crc32(second) == header["checksum"]:
                return _texts(header["texts"], loads(second))
        return {}

    def update(self, known: Mapping[str, KnownText], texts: Mapping[str, KnownText]) -> None:
        """Replace the file, unless it has these texts: `known` is what it has.

        If that fails, remove it; the next sync parses the texts.
        """
        if _versions(known) == _versions(texts):
            return
        tables = json.dumps(_as_json(texts), ensure_ascii=False).encode()
        header = {"checksum": zlib.crc32(tables), "texts": _versions(texts)}
        try:
            replace_file(self.path, json.dumps(header).encode() + b"\n" + tables)
        except OSError:
            discard(self.path)


def _versions(texts: Mapping[str, KnownText]) -> dict[str, list[int]]:
    return {name: list(text.version) for name, text in texts.items()}


def _as_json(texts: Mapping[str, KnownText]) -> dict[str, object]:
    """Return the tables; recipients that are those of the routes are left out."""
    routes = texts.get(ROUTES)
    return {
        name: _table_as_json(text.table)
        for name, text in texts.items()
        if not (name == RECIPIENTS and routes and text.table == Aliases.of_itself(routes.table))
    }


def _table_as_json(table: Table[str]) -> _Table | _Aliases:
    if isinstance(table, Aliases):
        return {"lists": dict(table.lists), "others": dict(table.others)}
    return {"lists": by_value(table.lists), "others": dict(table.others)}


def _texts(versions: Mapping[str, list[int]], tables: object) -> dict[str, KnownText]:
    """Return the texts. Raises Damaged."""
    found: dict[str, Table[str]] = {}
    if type(tables) is not dict:
        raise Damaged("it is not a JSON object")
    for name in versions:
        if name in tables:
            found[name] = _table(kind_of(name), tables[name])
    if ROUTES in found and RECIPIENTS in versions:
        found.setdefault(RECIPIENTS, Aliases.of_itself(found[ROUTES]))
    return {
        name: KnownText(TextVersion(*version), found[name])
        for name, version in versions.items()
        if name in found
    }


def _table(kind: type[Table[str]], document: object) -> Table[str]:
    if issubclass(kind, Aliases):
        aliases = shaped(document, _Aliases)
        return kind(aliases["lists"], aliases["others"])
    table = shaped(document, _Table)
    return kind(by_name(table["lists"]), table["others"])
