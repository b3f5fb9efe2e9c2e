"""Read what is installed in the map directory.

Each map is a text beside its index. The text is the record of what is installed. A text in .staging
marks a map in doubt (publish.py); .reload notes that a reload of Postfix is due (reload_note.py).
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from postfix_sync.errors import SyncError, TimedOut
from postfix_sync.model.installed import (
    Condition,
    Installed,
    InstalledMap,
    KnownText,
    TextVersion,
)
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST
from postfix_sync.model.map_names import MAP_NAMES, ROUTES
from postfix_sync.model.maps import Maps, kind_of, table_of
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_lock import is_kept_locked
from postfix_sync.postfix.index_type import IndexType
from postfix_sync.postfix.installed_text import installed_version, pieces
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.map_text import parse_installed
from postfix_sync.postfix.reload_note import OwedReload, ReloadNote
from postfix_sync.system.files import unwritable
from postfix_sync.system.tasks import together
from postfix_sync.system.threads import run_in_daemon_thread

STAGING = ".staging"

SEEN_AT_ONCE = frozenset({"lmdb"})
"""Map types whose index is rebuilt in place, visible to every process at once (LMDB_README)."""

SAMPLE = 1000
"""Entries for which every sync queries an index, to check that it still holds them."""

NO_KEY = "nobody@invalid"


@dataclass(frozen=True)
class MapDirectory:
    """The maps of one Postfix instance, all of one type."""

    path: Path
    kind: IndexType
    postfix: Postfix

    @property
    def map_type(self) -> str:
        """The type that main.cf names; Postfix may open another type for it (`kind.opened`)."""
        return self.kind.name

    @property
    def staging(self) -> Path:
        """Return the directory in which files are made before they are published."""
        return self.path / STAGING

    @property
    def reload_note(self) -> ReloadNote:
        """Return the note that a reload is due."""
        return ReloadNote(self.path, self.staging)

    def index(self, name: str) -> Path:
        """Return the path of a map's index."""
        return self.kind.index(self.path / name)

    @property
    def is_seen_at_once(self) -> bool:
        """Whether every process of Postfix sees a change of an index at once."""
        return self.kind.opened in SEEN_AT_ONCE

    @property
    def is_built(self) -> bool:
        """Whether each map has its index, so that main.cf may name it."""
        return all(self.index(name).is_file() for name in MAP_NAMES)

    async def read(
        self, known: Mapping[str, KnownText] | None = None, *, whole: bool = False
    ) -> Installed:
        """Read what is installed from the disk; change nothing.

        `known` are texts by map whose entries are known, and need not be parsed again. Of each
        index, a sample is read back, or, if `whole` is set, every key.

        Raises NotPermitted or ApplyError if a text cannot be read, and TimedOut if a query hangs.
        """
        kept_locked = await asyncio.gather(
            *(is_kept_locked(self.index(name), self.kind.opened) for name in MAP_NAMES)
        )
        found = await together(
            *(
                self._read_map(name, (known or {}).get(name), kept_locked=locked, whole=whole)
                for name, locked in zip(MAP_NAMES, kept_locked, strict=True)
            )
        )
        maps = dict(zip(MAP_NAMES, found, strict=True))
        owed = self.reload_note.due(self.postfix.processes)
        unseen, left = owed or OwedReload()
        return Installed(
            maps,
            interrupted=self.staging.exists(),
            reload_owed=owed is not None,
            unseen=unseen,
            left=left,
        )

    def tables(self) -> dict[str, Table[str] | None]:
        """Return the entries of each map by its text, None if they cannot be known.

        Raises NotPermitted or ApplyError if a text cannot be read.
        """
        return {name: self._text(name, None).table for name in MAP_NAMES}

    def _text(self, name: str, known: KnownText | None) -> "_Text":
        """Read a text; its table is None if its entries cannot be known."""
        text = self.path / name
        try:
            version = installed_version(text)
            if known and version == known.version:
                return _Text(version, known.table)
            return _Text(version, parse_installed(pieces(text), kind_of(name)))
        except FileNotFoundError:
            return _Text(None, None if self.index(name).exists() else table_of(name, {}))
        except OSError as error:
            raise unwritable(text, error) from None

    def updated(self) -> dict[str, float]:
        """Return when each map was last published, in seconds since the epoch."""
        texts = [(name, self.path / name) for name in MAP_NAMES]
        return {name: text.stat().st_mtime for name, text in texts if text.exists()}

    def texts(self) -> dict[str, tuple[int, int]]:
        """Return each text's time of change (ns) and size (bytes), which identify its version."""
        found = {}
        for name in MAP_NAMES:
            with contextlib.suppress(FileNotFoundError):
                text = (self.path / name).stat()
                found[name] = (text.st_mtime_ns, text.st_size)
        return found

    async def _read_map(
        self, name: str, known: KnownText | None, *, kept_locked: bool, whole: bool
    ) -> InstalledMap:
        text, index = self.path / name, self.index(name)
        version, table = await run_in_daemon_thread(self._text, name, known)
        # postmap(1) takes a second to report a missing index, and blocks on a FIFO or a lock.
        if not index.is_file() or kept_locked:
            return InstalledMap(table, Condition.BROKEN, version)
        sample = _sample(table) if table else {}
        keys = list(sample) or [NO_KEY]  # postmap(1) opens the index only if it gets a key
        try:
            held = await self.postfix.postmap.query(self.kind, text, keys)
            wrong = None
            if whole and table and held == sample:
                wrong = await self.postfix.postmap.differing(self.kind, text, text)
        except TimedOut:
            raise  # a timeout does not mean that the index is broken
        except SyncError:
            return InstalledMap(table, Condition.BROKEN, version)
        differs = held != sample or wrong is not None
        in_doubt = table is None or differs or (self.staging / name).exists()
        if in_doubt or index.stat().st_mtime_ns < text.stat().st_mtime_ns:
            return InstalledMap(table, Condition.STALE, version)
        return InstalledMap(table, Condition.SOUND, version)


class _Text(NamedTuple):
    """What is known of a text on the disk."""

    version: TextVersion | None
    table: Table[str] | None


def _sample(table: Table[str]) -> dict[str, str]:
    """Return about SAMPLE entries, spread over the table."""
    lists = islice(table.lists, 0, None, len(table.lists) * ADDRESSES_PER_LIST // SAMPLE + 1)
    others = islice(table.others.items(), 0, None, len(table.others) // SAMPLE + 1)
    return {**dict(entry for name in lists for entry in table.entries_of(name)), **dict(others)}


def files_of_maps(path: Path) -> frozenset[str]:
    """Return the names of the texts and indexes that are in a map directory."""
    return frozenset(file.name for name in MAP_NAMES for file in path.glob(f"{name}*"))


def installed_maps(path: Path) -> Maps:
    """Read the entries of all maps by their texts; none where they cannot be known.

    Raises NotPermitted or ApplyError if a text cannot be read.
    """
    return Maps({name: _installed(path, name) for name in MAP_NAMES})


def installed_routes(path: Path) -> Table[str]:
    """Read the installed routes; see `installed_maps`."""
    return _installed(path, ROUTES)


def _installed(path: Path, name: str) -> Table[str]:
    text = path / name
    try:
        return parse_installed(pieces(text), kind_of(name)) or table_of(name, {})
    except FileNotFoundError:
        return table_of(name, {})
    except OSError as error:
        raise unwritable(text, error) from None
