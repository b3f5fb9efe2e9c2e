"""The last good lists of each source, one file a source, which are used while it is unreachable.

A record is written before the maps are changed. So, if a sync is interrupted, the next sync knows
the lists that the interrupted sync was installing, even if their source is unreachable by then.
"""

import asyncio
import ipaddress
import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict

from postfix_sync.errors import ApplyError, NotPermitted, why
from postfix_sync.model.destination import Peer
from postfix_sync.model.map_names import ALIASES, ROUTES
from postfix_sync.model.source import Block, Blocks, MailmanTables, Origin, Record
from postfix_sync.postfix.next_hop import parse_destination, parse_unjudged
from postfix_sync.store.json_reader import loads, shaped
from postfix_sync.store.tables_json import as_json, from_json, order_of
from postfix_sync.system.files import denied_hint, discard, read_file, replace_file, unwritable
from postfix_sync.system.threads import run_in_daemon_thread

SUFFIX = ".json"

_SUM = b', "sum": '

Stamp: TypeAlias = tuple[int, int]
"""The inode and time of change (ns) of a record, which differ between versions."""


class _Peer(TypedDict):
    """The `peer` of a record's file; see `Peer`."""

    addresses: list[str]
    published: dict[str, str]
    is_here: bool


class _Blocks(TypedDict):
    """The blocks of one file; see `Blocks`."""

    regex: bool
    sizes: list[int]
    digests: list[str]
    lists: list[int]
    others: list[int]


class _Origin(TypedDict):
    """The `origin` of a record's file; see `Origin`."""

    reader: str
    read_at: float
    files: dict[str, _Blocks]


class _Record(TypedDict):
    """The content of a record's file, beside the tables (tables_json.py)."""

    peer: _Peer | None
    left_out: list[str]
    origin: NotRequired[_Origin | None]


@dataclass(frozen=True)
class Records:
    """The records in one directory."""

    directory: Path

    def _path(self, source: str) -> Path:
        return self.directory / (source + SUFFIX)

    def sources(self) -> set[str]:
        """Return the names of the sources that have a record."""
        return {path.name.removesuffix(SUFFIX) for path in self.directory.glob(f"[!.]*{SUFFIX}")}

    def stamp(self, source: str) -> Stamp | None:
        """Return the version of a source's record; None if there is no record."""
        try:
            found = self._path(source).stat()
        except OSError:
            return None  # read() reports why
        return found.st_ino, found.st_mtime_ns

    async def read(self, source: str) -> Record | None:
        """Read a source's record; return None if there is no record.

        Raises NotPermitted, or ApplyError if the record is damaged.
        """
        return await run_in_daemon_thread(self.read_now, source)

    def read_now(self, source: str) -> Record | None:
        """Read a source's record in this thread; see `read`."""
        path = self._path(source)
        try:
            return _record(read_file(path))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise NotPermitted(f"{path}: {why(error)}", denied_hint(path, error)) from None
        except (OSError, ValueError) as error:
            raise ApplyError(
                f"{path}: is not a record of a source's lists: {why(error)}; it is written again"
                " when the source has been read, and no list is removed until then"
            ) from None

    async def write(self, source: str, record: Record) -> None:
        """Replace a source's record, or keep the old one and raise ApplyError or NotPermitted."""
        await asyncio.to_thread(self._write, source, record)

    def _write(self, source: str, record: Record) -> None:
        path = self._path(source)
        tables = as_json(record.tables)
        content = {
            "peer": _peer_as_json(record.peer) if record.peer else None,
            "left_out": sorted(record.left_out),
            "origin": _origin_as_json(record.tables),
            **tables,
            "order": order_of(record.tables, tables),
        }
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            replace_file(path, _with_sum(json.dumps(content, ensure_ascii=False).encode()) + b"\n")
        except OSError as error:
            raise unwritable(path, error) from None

    def discard_staged(self) -> None:
        """Remove the staged files of a sync that was killed; the caller holds the lock."""
        for path in self.directory.glob(f".*{SUFFIX}.*"):
            discard(path)

    def remove(self, source: str) -> None:
        """Remove a source's record; ignore a failure, because a later sync tries again."""
        discard(self._path(source))


def _with_sum(document: bytes) -> bytes:
    """Add the checksum of a JSON object to it, as its last member."""
    return document[:-1] + _SUM + f"{zlib.crc32(document[:-1])}}}".encode()


def _has_its_sum(document: bytes) -> bool:
    """Return whether a JSON object is as `_with_sum` made it."""
    content, found, _ = document.rpartition(_SUM)
    return bool(found) and _with_sum(content + b"}") == document.rstrip(b"\n")


def _record(content: bytes) -> Record:
    """Read the JSON of a record. Raises ValueError if it is damaged.

    If it was changed in any way, its lists count for want of better ones, but the next poll must
    not take them for what its source has.
    """
    document = loads(content)
    found = shaped(document, _Record)
    is_whole = _has_its_sum(content)
    if not is_whole and isinstance(document, dict):
        document.pop("order", None)
    tables = from_json(document, parse_unjudged)
    origin = _origin(tables, found.get("origin")) if is_whole else None
    return Record(
        tables=replace(tables, origin=origin),
        peer=_peer(found["peer"]) if found["peer"] else None,
        left_out=frozenset(found["left_out"]),
    )


def _origin_as_json(tables: MailmanTables) -> _Origin | None:
    if not tables.origin:
        return None
    files = {
        name: _Blocks(
            regex=found.regex,
            sizes=[block.size for block in found.blocks],
            digests=[block.digest for block in found.blocks],
            lists=[block.lists for block in found.blocks],
            others=[block.others for block in found.blocks],
        )
        for name, found in tables.origin.files.items()
    }
    return {"reader": tables.origin.reader, "read_at": tables.origin.read_at, "files": files}


def _origin(tables: MailmanTables, found: _Origin | None) -> Origin | None:
    """Return the origin of tables, without a file whose blocks do not fit them."""
    if not found:
        return None
    files = {}
    for name, table in ((ROUTES, tables.routes), (ALIASES, tables.aliases)):
        if name in found["files"]:
            stored = found["files"][name]
            columns = stored["sizes"], stored["digests"], stored["lists"], stored["others"]
            blocks = tuple(map(Block, *columns))
            fit = sum(block.lists for block in blocks) == len(table.lists) and not table.others
            if fit and all(block.size > 0 and block.lists > 0 for block in blocks):
                files[name] = Blocks(stored["regex"], blocks)
    return Origin(found["reader"], float(found["read_at"]), files)


def _peer_as_json(peer: Peer) -> dict[str, object]:
    published = {str(port): place.next_hop for port, place in peer.published.items()}
    return {"addresses": peer.addresses, "published": published, "is_here": peer.is_here}


def _peer(found: _Peer) -> Peer:
    published = {int(port): parse_destination(hop) for port, hop in found["published"].items()}
    addresses = tuple(str(ipaddress.ip_address(address)) for address in found["addresses"])
    return Peer(addresses, published, is_here=found["is_here"])
