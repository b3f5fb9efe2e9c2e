"""Keep the entries of the installed texts by list, so that a sync does not have to parse the texts.

The file is a copy of what the texts say. A text whose version differs from the noted one is parsed;
so a file that is missing, damaged or left by a sync that was killed costs time, and nothing else.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.installed import KnownText, TextVersion
from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps, differences, kind_of
from postfix_sync.model.selection import keys_by_value
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.store.json_reader import Damaged, Pair, loads, parse, shaped
from postfix_sync.store.records import Stamp
from postfix_sync.store.tables_json import by_name
from postfix_sync.system.files import read_file, replace_file

MOST_DIFFERENT = 50
"""A table is kept as what differs from a record if that is less than this part of its entries."""


class _Header(TypedDict):
    """The first line: the checksum of the second one, and the rest of `Known`."""

    checksum: int
    checked_at: float
    texts: dict[str, Pair]
    source: str
    stamp: list[int]


class _Table(TypedDict):
    """A table in the second line: the names of its lists by value, and its other entries."""

    lists: dict[str, list[str]]
    others: dict[str, str]


class _Aliases(TypedDict):
    """A table of aliases in the second line."""

    lists: dict[str, str]
    others: dict[str, str]


class _Difference(TypedDict):
    """In the second line, if the first one names a record: what differs from it in a table."""

    new: dict[str, str]
    gone: list[str]


@dataclass(frozen=True)
class Known:
    """What is known of the installed maps."""

    texts: Mapping[str, KnownText] = field(default_factory=dict)
    """By map, its text and entries."""
    checked_at: float = 0.0
    """When each key of all indexes was read back last, in seconds since the epoch."""
    record: "Recorded | None" = None
    """The record that has most entries, so that the file does not have them."""

    @property
    def versions(self) -> dict[str, list[int]]:
        """Return the version of each text."""
        return {name: list(text.version) for name, text in self.texts.items()}


@dataclass(frozen=True)
class Recorded:
    """A source's last good lists, and the version of their record."""

    source: str
    stamp: Stamp
    tables: MailmanTables = field(compare=False)


@dataclass(frozen=True)
class KnownTexts:
    """The file of the installed texts' entries, or of what differs from a record that it names."""

    path: Path

    def read(self, records: Iterable[Recorded]) -> Known:
        """Read the file; nothing is known if it is missing or damaged."""
        with suppress(OSError, Damaged):
            first, _, second = read_file(self.path).partition(b"\n")
            header = parse(first, _Header)
            if zlib.crc32(second) == header["checksum"]:
                return _known(header, second, records)
        return Known()

    def update(self, old: Known, new: Known, records: Iterable[Recorded]) -> None:
        """Replace the file, which has `old`, unless `new` is the same.

        If that fails, it is left as it is; the next sync parses the texts.
        """
        records = [*records]
        is_same = (new.versions, new.checked_at) == (old.versions, old.checked_at)
        if is_same and old.record in records:
            return
        record = max(records, key=lambda one: len(one.tables.routes), default=None)
        document: object = record and _differing(new.texts, Maps.of(record.tables))
        if document is None:
            if is_same and old.record is None:
                return
            record, document = None, _as_json(new.texts)
        tables = json.dumps(document, ensure_ascii=False).encode()
        header: _Header = {
            "checksum": zlib.crc32(tables),
            "checked_at": new.checked_at,
            "texts": new.versions,
            "source": record.source if record else "",
            "stamp": [*record.stamp] if record else [],
        }
        with suppress(OSError):
            replace_file(self.path, json.dumps(header).encode() + b"\n" + tables)


def _known(header: _Header, tables: bytes, records: Iterable[Recorded]) -> Known:
    """Return what is known by the file, and the record that it names. Raises Damaged."""
    checked_at = float(header["checked_at"])
    if not header["source"]:
        return Known(_texts(header["texts"], loads(tables)), checked_at)
    for record in records:
        if (record.source, [*record.stamp]) == (header["source"], header["stamp"]):
            maps, differing = Maps.of(record.tables), loads(tables)
            if type(differing) is not dict:
                raise Damaged("it is not a JSON object")
            texts = {
                name: KnownText(TextVersion(*version), _changed(maps[name], differing.get(name)))
                for name, version in header["texts"].items()
                if name in MAP_NAMES
            }
            return Known(texts, checked_at, record)
    return Known(checked_at=checked_at)


def _differing(texts: Mapping[str, KnownText], maps: Maps) -> dict[str, _Difference] | None:
    """Return by map what makes the tables of texts of `maps`; None if it is much, or not known."""
    if len(texts) < len(MAP_NAMES):
        return None
    tables = Maps({name: text.table for name, text in texts.items()})
    most = len(tables[ROUTES]) // MOST_DIFFERENT
    routes, recorded = tables[ROUTES], maps[ROUTES]
    if abs(len(routes) - len(recorded)) > most:
        return None
    if routes.distinct_values().isdisjoint(recorded.distinct_values()):
        return None
    changes = {name: diff for name, diff in differences(maps, tables).items() if diff}
    if sum(map(len, changes.values())) > most:
        return None
    return {
        name: {
            "new": {key: tables[name][key] for key in (*diff.added, *diff.changed)},
            "gone": [*diff.removed],
        }
        for name, diff in changes.items()
    }


def _changed(table: Table[str], difference: object) -> Table[str]:
    """Return a table with its difference; see `_differing`. Raises Damaged."""
    if difference is None:
        return table
    found = shaped(difference, _Difference)
    return table.without(found["gone"]) | type(table).of(found["new"])


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
    return {"lists": keys_by_value(table.lists), "others": dict(table.others)}


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
