"""The map directory: what is installed in it, and how one map is published. Crash safe.

Each map is a text beside its index. The text is the record of what is installed. A map is built in
the directory .staging and checked there by reading every key back. The staged text is put into
place last of all, so as long as it lies in .staging the map is known to be in doubt: whoever
interrupts a pass, the next one builds that map again. The file .reload says that Postfix has to be
reloaded, in which mail domains new addresses are not accepted before, and to which addresses no
connection of lmtp(8) may be left then.

hash, btree and cdb are built beside and renamed, index before text. lmdb is built in place, through
a link in .staging: it is one transaction, which readers see at once, or not at all (LMDB_README).
"""

import asyncio
import contextlib
import filecmp
import mmap
import os
import shutil
import stat
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from postfix_sync.errors import ApplyError, NotPermitted, SyncError, TimedOut
from postfix_sync.model import (
    EVERY_DOMAIN,
    MAP_NAMES,
    ROUTES,
    Condition,
    Destination,
    Installed,
    InstalledMap,
    Maps,
    Table,
)
from postfix_sync.postfix.index_lock import is_kept_locked
from postfix_sync.postfix.index_type import IndexType
from postfix_sync.postfix.instance import REMEMBERING, Postfix
from postfix_sync.postfix.map_text import parse_installed, render
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.system.files import (
    discard,
    free_bytes,
    publish_file,
    read_file,
    room_hint,
    space_hint,
    unwritable,
    write_file,
)

STAGING = ".staging"
RELOAD_OWED = ".reload"
MAP_MODE = 0o644

SEEN_AT_ONCE = frozenset({"lmdb"})
"""Map types that every Postfix process sees change at once, rebuilt in place (LMDB_README)."""

A_TICK = 1.0
"""Seconds by which times of processes and of files may differ."""

SAMPLE = 1000
"""Entries that an index is asked for in every pass, to see that it still holds them."""

NO_KEY = "nobody@invalid"


@dataclass(frozen=True)
class MapDirectory:
    """The maps of one Postfix instance, all of one type."""

    path: Path
    kind: IndexType
    postfix: Postfix

    @property
    def map_type(self) -> str:
        """The type that main.cf names; Postfix may open another one (`kind.opened`)."""
        return self.kind.name

    @property
    def _staging(self) -> Path:
        return self.path / STAGING

    @property
    def _owed(self) -> Path:
        return self.path / RELOAD_OWED

    def index(self, name: str) -> Path:
        """The index of a map."""
        return self.kind.index(self.path / name)

    @property
    def is_seen_at_once(self) -> bool:
        """Whether every process of Postfix sees a change of an index as soon as it is made."""
        return self.kind.opened in SEEN_AT_ONCE

    @property
    def is_built(self) -> bool:
        """Whether each map has its index, so that main.cf may name it."""
        return all(self.index(name).is_file() for name in MAP_NAMES)

    async def read(self) -> Installed:
        """What is installed, read from the disk; changes nothing."""
        kept_locked = await asyncio.gather(
            *(is_kept_locked(self.index(name), self.kind.opened) for name in MAP_NAMES)
        )
        maps = {
            name: await self._read_map(name, kept_locked=locked)
            for name, locked in zip(MAP_NAMES, kept_locked, strict=True)
        }
        unseen, left = self._noted()
        return Installed(
            maps,
            interrupted=self._staging.exists(),
            reload_owed=self._is_owed(left),
            unseen=unseen,
            left=left,
        )

    def _is_owed(self, left: AbstractSet[Destination]) -> bool:
        """Whether Postfix was not reloaded since that was noted, by whomever, or not for long."""
        try:
            noted = self._owed.stat().st_mtime
        except OSError:
            return False
        age = self.postfix.oldest(*REMEMBERING)
        was_reloaded = 0 < age < time.time() - noted - A_TICK
        return not was_reloaded or bool(self.postfix.connections(left))

    def _noted(self) -> tuple[frozenset[str], frozenset[Destination]]:
        """What waits for a reload, and where nothing may be delivered after it."""
        try:
            lines = frozenset(read_file(self._owed).decode("utf-8", "replace").split())
        except FileNotFoundError:
            return frozenset(), frozenset()
        except OSError:
            return frozenset({EVERY_DOMAIN}), frozenset()
        hops = {line for line in lines if line.startswith("lmtp:")}
        return lines - hops, frozenset(to for hop in hops for to in parse_next_hops(hop))

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
            held = await self.postfix.query(self.kind, self.path / name, asked)
        except TimedOut:
            raise  # that says nothing of the index
        except SyncError:
            return InstalledMap(table, Condition.BROKEN)
        in_doubt = table is None or held != sample or (self._staging / name).exists()
        if in_doubt or index.stat().st_mtime_ns < text.stat().st_mtime_ns:
            return InstalledMap(table, Condition.STALE)
        return InstalledMap(table, Condition.SOUND)

    @contextlib.contextmanager
    def staging(self) -> Iterator[None]:
        """The staging directory, for one apply; gone after an apply that came through."""
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            check_owner(self.path)
            self._make_staging()
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

    def owe_reload(
        self, unseen: AbstractSet[str], left: AbstractSet[Destination] = frozenset()
    ) -> None:
        """Note that Postfix has to be reloaded, and why: see `Installed.unseen` and `.left`.

        Raises ApplyError or NotPermitted.
        """
        try:
            staged = self._staging / RELOAD_OWED
            lines = sorted({*unseen, *(destination.next_hop for destination in left)})
            content = "".join(f"{line}\n" for line in lines).encode()
            write_file(staged, content, MAP_MODE)
            publish_file(staged, self._owed)
        except OSError as error:
            raise unwritable(self._owed, error) from None

    def owed_for(self) -> float:
        """Tell since when a reload is owed, in seconds; 0 if it is not noted."""
        with contextlib.suppress(OSError):
            return time.time() - self._owed.stat().st_mtime
        return 0.0

    def reloaded(self) -> None:
        """Note that Postfix works with all that was published so far."""
        self._owed.unlink(missing_ok=True)

    async def publish(self, name: str, table: Table, lock: int, *, fresh: bool) -> bool:
        """Install a map; whether processes that have its index open see the change.

        `fresh`: its index is a new file, whatever the type.

        Where a container's file system is in layers, an index that came with the image becomes
        another file when it is first written to, and who has it mapped goes on with the first. That
        Postfix has to be reloaded for it is on the disk before the text is.

        Raises ApplyError; the text is then as it was, and so is the index, or holds all of the new
        entries: the next sync publishes it again.
        """
        staged, index = self._staging / name, self.index(name)
        staged_index = staged.with_name(index.name)
        content = await asyncio.to_thread(render, table)
        try:
            staged_index.unlink(missing_ok=True)
            # In threads: on a slow disk, it takes longer than systemd waits for a sign of life.
            await asyncio.to_thread(write_file, staged, content, MAP_MODE)
            await asyncio.to_thread(_keep_time, staged, self.path / name)
            in_place = self.kind.opened in SEEN_AT_ONCE and not fresh
            with _mapped(index if in_place else None) as before:
                if in_place:
                    staged_index.symlink_to(Path("..") / index.name)
                await self.postfix.build(self.kind, staged, len(content), lock)
                await self._check(staged, table, len(content))
                seen = before is None or before[:] == _head(index)
            if not seen:
                self.owe_reload({EVERY_DOMAIN})
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
        return seen

    async def _check(self, staged: Path, table: Table, size: int) -> None:
        """Raises ApplyError where the index doesn't hold exactly what it was built from.

        `size` is that of the text, in bytes: with less room than that there is too little.
        """
        held = await self.postfix.query(self.kind, staged, list(table))
        if held != table:
            wrong = next(key for key in table if held.get(key) != table[key])
            problem = f"{staged}: read back, the index does not hold {wrong} as written"
            # postmap(1) may say nothing of a disk that is full.
            if free_bytes(staged) < size:
                raise ApplyError(f"{problem}: No space left on device", room_hint(staged))
            raise ApplyError(
                problem,
                f"there is room left; see which other process writes there: fuser -v {self.path}/*",
            )


def _keep_time(staged: Path, text: Path) -> None:
    """Give a staged text the time of the one that it replaces, where that says the same.

    So an index of another type beside it stays the newer of the two, and good: setup has both while
    main.cf goes from one to the other. Raises OSError.
    """
    try:
        present = text.stat()
        if present.st_mtime_ns < staged.stat().st_mtime_ns and filecmp.cmp(
            staged, text, shallow=False
        ):
            os.utime(staged, ns=(present.st_atime_ns, present.st_mtime_ns))
    except FileNotFoundError:
        pass  # there is none to replace


META_PAGES = 2
"""The pages at the head of an lmdb index, one of which each transaction writes (lmdb.h)."""


@contextlib.contextmanager
def _mapped(index: Path | None) -> Iterator[mmap.mmap | None]:
    """Hold the head of an lmdb index mapped, as Postfix's processes do."""
    size = META_PAGES * mmap.PAGESIZE
    if index is None or index.stat().st_size < size:
        yield None
        return
    with index.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as head:
        yield head


def _head(index: Path) -> bytes:
    """Read the head of an lmdb index from the file that is there now."""
    with index.open("rb") as file:
        return file.read(META_PAGES * mmap.PAGESIZE)


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


def files_of_maps(path: Path) -> frozenset[str]:
    """Find the texts and indexes that are in a map directory, by their names."""
    return frozenset(file.name for name in MAP_NAMES for file in path.glob(f"{name}*"))


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
