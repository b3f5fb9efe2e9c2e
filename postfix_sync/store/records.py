"""The last good lists of each source, one file a source, which are used while it is unreachable.

A record is written before the maps are changed. So, if a sync is interrupted, the next sync knows
the lists that the interrupted sync was installing, even if their source is unreachable by then.
"""

import asyncio
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict

from postfix_sync.errors import ApplyError, NotPermitted, why
from postfix_sync.model.destination import Peer
from postfix_sync.model.source import Record
from postfix_sync.postfix.next_hop import parse_destination, parse_unjudged
from postfix_sync.store.json_reader import loads, shaped
from postfix_sync.store.tables_json import as_json, from_json
from postfix_sync.system.files import denied_hint, discard, read_file, replace_file, unwritable
from postfix_sync.system.threads import run_in_daemon_thread

SUFFIX = ".json"

Stamp: TypeAlias = tuple[int, int]
"""The inode and time of change (ns) of a record, which differ between versions."""


class _Peer(TypedDict):
    """The `peer` of a record's file; see `Peer`."""

    addresses: list[str]
    published: dict[str, str]
    is_here: bool


class _Record(TypedDict):
    """The content of a record's file, beside the tables (tables_json.py)."""

    peer: _Peer | None
    left_out: list[str]


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
        return await run_in_daemon_thread(self._read, source)

    def _read(self, source: str) -> Record | None:
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
        content = {
            "peer": _peer_as_json(record.peer) if record.peer else None,
            "left_out": sorted(record.left_out),
            **as_json(record.tables),
        }
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(content, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise unwritable(path, error) from None

    def discard_staged(self) -> None:
        """Remove the staged files of a sync that was killed; the caller holds the lock."""
        for path in self.directory.glob(f".*{SUFFIX}.*"):
            discard(path)

    def remove(self, source: str) -> None:
        """Remove a source's record; ignore a failure, because a later sync tries again."""
        discard(self._path(source))


def _record(content: bytes) -> Record:
    """Read the JSON of a record. Raises ValueError if it is damaged."""
    document = loads(content)
    found = shaped(document, _Record)
    return Record(
        tables=from_json(document, parse_unjudged),
        peer=_peer(found["peer"]) if found["peer"] else None,
        left_out=frozenset(found["left_out"]),
    )


def _peer_as_json(peer: Peer) -> dict[str, object]:
    published = {str(port): place.next_hop for port, place in peer.published.items()}
    return {"addresses": peer.addresses, "published": published, "is_here": peer.is_here}


def _peer(found: _Peer) -> Peer:
    published = {int(port): parse_destination(hop) for port, hop in found["published"].items()}
    addresses = tuple(str(ipaddress.ip_address(address)) for address in found["addresses"])
    return Peer(addresses, published, is_here=found["is_here"])
