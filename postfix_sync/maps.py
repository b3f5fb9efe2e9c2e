"""The map directory: what is installed in it, and how one map is published. Crash safe.

Each map is a text beside its index. The text is the record of what is installed. A map is built in
the directory .staging and checked there by reading every key back. The staged text is put into
place last of all, so as long as it lies in .staging the map is known to be in doubt: whoever
interrupts a pass, the next one builds that map again. The file .staging/reload says in the same way
that a reload of Postfix is owed.

hash, btree and cdb are built beside and renamed, index before text. lmdb is built in place, through
a link in .staging: it is one transaction, which readers see at once, or not at all (LMDB_README).
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from postfix_sync.errors import ApplyError, NotPermitted, SyncError, TimedOut
from postfix_sync.model import (
    INDEX_SUFFIX,
    MAP_NAMES,
    ROUTES,
    Condition,
    Installed,
    InstalledMap,
    Maps,
    Table,
)
from postfix_sync.plan import SEEN_AT_ONCE
from postfix_sync.postfix import Postfix
from postfix_sync.system import (
    LOCK_POLL,
    discard,
    open_file,
    publish_file,
    read_file,
    room_hint,
    space_hint,
    unwritable,
    write_file,
)
from postfix_sync.tables import parse_installed, render

STAGING = ".staging"
RELOAD_OWED = "reload"
MAP_MODE = 0o644

SAMPLE = 1000
"""Entries that an index is asked for in every pass, to see that it still holds them."""

NO_KEY = "nobody@invalid"

KEPT_LOCKED = 2.0
"""Seconds for which Postfix locks no index, unless somebody runs postmap(1) on a very large one."""

_FLOCK = "hhqqi4x"
"""struct flock of fcntl(2) with 64 bits: l_type, l_whence, l_start, l_len, l_pid."""


@dataclass(frozen=True)
class MapDirectory:
    """The maps of one Postfix instance, all of one type."""

    path: Path
    map_type: str
    postfix: Postfix

    @property
    def _staging(self) -> Path:
        return self.path / STAGING

    def index(self, name: str) -> Path:
        """The index of a map."""
        return self.path / (name + INDEX_SUFFIX[self.map_type])

    @property
    def is_built(self) -> bool:
        """Whether each map has its index, so that main.cf may name it."""
        return all(self.index(name).is_file() for name in MAP_NAMES)

    async def read(self) -> Installed:
        """What is installed, read from the disk; changes nothing."""
        kept_locked = await asyncio.gather(
            *(is_kept_locked(self.index(name), self.map_type) for name in MAP_NAMES)
        )
        maps = {
            name: await self._read_map(name, kept_locked=locked)
            for name, locked in zip(MAP_NAMES, kept_locked, strict=True)
        }
        return Installed(
            maps,
            interrupted=self._staging.exists(),
            reload_owed=(self._staging / RELOAD_OWED).exists(),
        )

    def tables(self) -> dict[str, Table | None]:
        """The entries of each map after its text, None where they can't be known."""
        return {name: self._table(name) for name in MAP_NAMES}

    def _table(self, name: str) -> Table | None:
        text = self.path / name
        try:
            return parse_installed(read_file(text))
        except FileNotFoundError:
            return None if self.index(name).exists() else {}
        except OSError as error:
            raise unwritable(text, error) from None

    def updated(self) -> dict[str, float]:
        """When each map was last published, in seconds since the epoch."""
        texts = [(name, self.path / name) for name in MAP_NAMES]
        return {name: text.stat().st_mtime for name, text in texts if text.exists()}

    def texts(self) -> dict[str, tuple[int, int]]:
        """What tells this version of each text from another: time of change (ns) and size."""
        found = {}
        for name in MAP_NAMES:
            with contextlib.suppress(FileNotFoundError):
                text = (self.path / name).stat()
                found[name] = (text.st_mtime_ns, text.st_size)
        return found

    async def _read_map(self, name: str, *, kept_locked: bool) -> InstalledMap:
        text, index = self.path / name, self.index(name)
        table = await asyncio.to_thread(self._table, name)
        # postmap(1) takes a second to say that there is none; for a FIFO, and a lock, it waits.
        if not index.is_file() or kept_locked:
            return InstalledMap(table, Condition.BROKEN)
        sample = _sample(table or {})
        asked = list(sample) or [NO_KEY]  # postmap(1) opens nothing before it has a key
        try:
            held = await self.postfix.query(self.map_type, self.path / name, asked)
        except TimedOut:
            raise  # that says nothing of the index
        except SyncError:
            return InstalledMap(table, Condition.BROKEN)
        in_doubt = table is None or held != sample or (self._staging / name).exists()
        if in_doubt or index.stat().st_mtime_ns < text.stat().st_mtime_ns:
            return InstalledMap(table, Condition.STALE)
        return InstalledMap(table, Condition.SOUND)

    @contextlib.contextmanager
    def staging(self, *, reload_owed: bool) -> Iterator[None]:
        """The staging directory, for one apply; gone after an apply that came through."""
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            check_owner(self.path)
            self._make_staging()
            if reload_owed:
                write_file(self._staging / RELOAD_OWED, b"", MAP_MODE)
        except OSError as error:
            raise unwritable(self.path, error) from None
        yield
        try:
            shutil.rmtree(self._staging)
        except OSError as error:
            raise unwritable(self._staging, error) from None

    def _make_staging(self) -> None:
        """Makes the directory, and makes room in it: files only are staged, and replace files."""
        if not self._staging.is_dir():
            discard(self._staging)
        self._staging.mkdir(mode=0o700, exist_ok=True)
        for found in self._staging.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)

    def reloaded(self) -> None:
        """Postfix works with all that was published so far."""
        (self._staging / RELOAD_OWED).unlink(missing_ok=True)

    async def publish(self, name: str, table: Table, lock: int, *, fresh: bool) -> None:
        """Installs a map. `fresh`: its index is a new file, whatever the type.

        Raises ApplyError; what was installed is then still in place and whole.
        """
        staged, index = self._staging / name, self.index(name)
        staged_index = staged.with_name(index.name)
        content = await asyncio.to_thread(render, table)
        try:
            staged_index.unlink(missing_ok=True)
            # In threads: on a slow disk, it takes longer than systemd waits for a sign of life.
            await asyncio.to_thread(write_file, staged, content, MAP_MODE)
            in_place = self.map_type in SEEN_AT_ONCE and not fresh
            if in_place:
                staged_index.symlink_to(Path("..") / index.name)
            await self.postfix.build(self.map_type, staged, len(content), lock)
            await self._check(staged, table)
            if in_place:
                staged_index.unlink()
            else:
                await asyncio.to_thread(publish_file, staged_index, index)
            await asyncio.to_thread(publish_file, staged, self.path / name)
        except OSError as error:
            discard(staged_index)  # gives back its room; the staged text stays, as the mark
            raise unwritable(self.path / name, error) from None
        except ApplyError as error:
            hint = error.hint or space_hint(self.path, error.message)
            discard(staged_index)
            raise ApplyError(
                f"{error.message}; the map {self.path / name} is left as it was", hint
            ) from None

    async def _check(self, staged: Path, table: Table) -> None:
        """Raises ApplyError where the index doesn't hold exactly what it was built from."""
        held = await self.postfix.query(self.map_type, staged, list(table))
        if held != table:
            wrong = next(key for key in table if held.get(key) != table[key])
            # postmap(1) may say nothing of a disk that is full.
            raise ApplyError(
                f"{staged}: read back, the index does not hold {wrong} as written"
                " (No space left on device?)",
                room_hint(staged),
            )


async def is_kept_locked(index: Path, map_type: str) -> bool:
    """Whether an index has been locked for KEPT_LOCKED seconds, as Postfix's programs lock it.

    Any user may lock a file that he can read. postmap(1) would then wait for him: to change an lmdb
    index, which it locks with fcntl(2), and already to look into one of hash or btree, which it
    locks with flock(2). A new index in the place of the old one is not locked.
    """
    give_up = time.monotonic() + KEPT_LOCKED
    while _is_locked(index, map_type):
        if time.monotonic() > give_up:
            return True
        await asyncio.sleep(LOCK_POLL)
    return False


def _is_locked(index: Path, map_type: str) -> bool:
    """Whether somebody has the lock right now; not, where there is no such index."""
    try:
        with open_file(index) as file:
            if map_type == "lmdb":
                asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
                return bool(kind != fcntl.F_UNLCK)
            if map_type in {"hash", "btree"}:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # whoever looks into it says what is wrong with it
    return False


def check_owner(path: Path) -> None:
    """Raises NotPermitted where somebody else could change the maps, or turn them into links."""
    found = path.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        mend = f"chown root: {path} && chmod go-w {path}"
        raise NotPermitted(
            f"{path}: owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}: others than"
            " root could change Postfix's maps there; nothing is installed",
            mend,
            mend,
        )


def _sample(table: Table) -> Table:
    """Some entries, spread over the table."""
    return dict(islice(table.items(), 0, None, len(table) // SAMPLE + 1))


def installed_maps(path: Path) -> Maps:
    """What is installed in a map directory, nothing where that can't be known.

    Raises NotPermitted or ApplyError where a text can't be read.
    """
    return Maps({name: _installed(path / name) for name in MAP_NAMES})


def installed_routes(path: Path) -> Table:
    """The same of the routes alone."""
    return _installed(path / ROUTES)


def _installed(text: Path) -> Table:
    try:
        return parse_installed(read_file(text)) or {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unwritable(text, error) from None
