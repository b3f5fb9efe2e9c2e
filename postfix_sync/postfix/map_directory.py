"""Read the installed maps from the map directory, and publish a map there. Crash safe.

Each map is a text beside its index. The text is the record of what is installed. A map is built in
the directory .staging and checked there by reading every key back. Its text is published last, so
a text in .staging marks a map in doubt: if a sync is interrupted, the next sync builds that map
again. The file .reload says that a reload of Postfix is due, in which mail domains new addresses
must not be accepted before it, and to which destinations lmtp(8) must not keep a connection after
it.

hash, btree and cdb are built beside and renamed, index before text. lmdb is built in place, through
a link in .staging: in one transaction, of which readers see all or nothing (LMDB_README).
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
from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import EVERY_DOMAIN, Condition, Installed, InstalledMap
from postfix_sync.model.map_names import MAP_NAMES, ROUTES
from postfix_sync.model.maps import Maps, of_entries, table_of
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_lock import is_kept_locked
from postfix_sync.postfix.index_type import IndexType
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.map_text import parse_installed, render
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.postfix.processes import REMEMBERING
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
from postfix_sync.system.threads import run_in_daemon_thread

STAGING = ".staging"
RELOAD_OWED = ".reload"
MAP_MODE = 0o644

SEEN_AT_ONCE = frozenset({"lmdb"})
"""Map types whose index is rebuilt in place, visible to every process at once (LMDB_README)."""

A_TICK = 1.0
"""Seconds by which the times of processes and of files may differ."""

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
    def _staging(self) -> Path:
        return self.path / STAGING

    @property
    def _owed(self) -> Path:
        return self.path / RELOAD_OWED

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

    async def read(self) -> Installed:
        """Read what is installed from the disk; change nothing.

        Raises NotPermitted or ApplyError if a text cannot be read, and TimedOut if a query hangs.
        """
        kept_locked = await asyncio.gather(
            *(is_kept_locked(self.index(name), self.kind.opened) for name in MAP_NAMES)
        )
        maps = {
            name: await self._read_map(name, kept_locked=locked)
            for name, locked in zip(MAP_NAMES, kept_locked, strict=True)
        }
        unseen, left = self._noted()
        owed = self._is_owed(left)
        return Installed(
            maps,
            interrupted=self._staging.exists(),
            reload_owed=owed,
            # A note stays on the disk when another process has reloaded Postfix: it is void then.
            unseen=unseen if owed else frozenset(),
            left=left if owed else frozenset(),
        )

    def _is_owed(self, left: AbstractSet[Destination]) -> bool:
        """Return whether the reload that .reload notes is still due.

        It is if no process has reloaded Postfix since, or if lmtp(8) has a connection in `left`.
        """
        try:
            noted = self._owed.stat().st_mtime
        except OSError:
            return False
        age = self.postfix.processes.oldest(*REMEMBERING)
        was_reloaded = 0 < age < time.time() - noted - A_TICK
        return not was_reloaded or bool(self.postfix.processes.connections(left))

    def _noted(self) -> tuple[frozenset[str], frozenset[Destination]]:
        """Read .reload: see `Installed.unseen` and `.left`; all domains if it cannot be read."""
        try:
            lines = frozenset(read_file(self._owed).decode("utf-8", "replace").split())
        except FileNotFoundError:
            return frozenset(), frozenset()
        except OSError:
            return frozenset({EVERY_DOMAIN}), frozenset()
        hops = {line for line in lines if line.startswith("lmtp:")}
        named = (to for hop in hops for to in parse_next_hops(hop))
        return lines - hops, frozenset(to for to in named if not to.is_name)

    def tables(self) -> dict[str, Table[str] | None]:
        """Return the entries of each map by its text, None if they cannot be known.

        Raises NotPermitted or ApplyError if a text cannot be read.
        """
        return {name: self._table(name) for name in MAP_NAMES}

    def _table(self, name: str) -> Table[str] | None:
        text = self.path / name
        try:
            entries = parse_installed(read_file(text))
        except FileNotFoundError:
            entries = None if self.index(name).exists() else {}
        except OSError as error:
            raise unwritable(text, error) from None
        return None if entries is None else table_of(name, entries)

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

    async def _read_map(self, name: str, *, kept_locked: bool) -> InstalledMap:
        text, index = self.path / name, self.index(name)
        table = await run_in_daemon_thread(self._table, name)
        # postmap(1) takes a second to report a missing index, and blocks on a FIFO or a lock.
        if not index.is_file() or kept_locked:
            return InstalledMap(table, Condition.BROKEN)
        sample = _sample(table) if table else {}
        keys = list(sample) or [NO_KEY]  # postmap(1) opens the index only if it gets a key
        try:
            held = await self.postfix.postmap.query(self.kind, self.path / name, keys)
        except TimedOut:
            raise  # a timeout does not mean that the index is broken
        except SyncError:
            return InstalledMap(table, Condition.BROKEN)
        in_doubt = table is None or held != sample or (self._staging / name).exists()
        if in_doubt or index.stat().st_mtime_ns < text.stat().st_mtime_ns:
            return InstalledMap(table, Condition.STALE)
        return InstalledMap(table, Condition.SOUND)

    @contextlib.contextmanager
    def staging(self) -> Iterator[None]:
        """Provide the staging directory for one apply, and remove it after an apply that succeeds.

        Raises NotPermitted or ApplyError.
        """
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
        """Make the staging directory; remove subdirectories, because only files are staged."""
        if not self._staging.is_dir():
            discard(self._staging)
        self._staging.mkdir(mode=0o700, exist_ok=True)
        for found in self._staging.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)

    def owe_reload(
        self, unseen: AbstractSet[str], left: AbstractSet[Destination] = frozenset()
    ) -> None:
        """Record that a reload of Postfix is due, and why: see `Installed.unseen` and `.left`.

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
        """Return for how many seconds a reload has been due; 0 if none is recorded."""
        with contextlib.suppress(OSError):
            return time.time() - self._owed.stat().st_mtime
        return 0.0

    def reloaded(self) -> None:
        """Record that Postfix uses all that was published so far."""
        self._owed.unlink(missing_ok=True)

    async def publish(self, name: str, table: Table[str], lock: int, *, fresh: bool) -> bool:
        """Publish a map; return whether processes that have its index open see the change.

        With `fresh`, its index becomes a new file, whatever the type. The running postmap(1) holds
        `lock`, a file descriptor.

        In a container's layered file system, an index that came with the image becomes another file
        when it is first written to, and processes that have mapped it keep the first file. In that
        case, .reload is written before the text is published.

        Raises ApplyError or NotPermitted. The text is then unchanged; the index is unchanged, or
        holds all of the new entries, and the next sync publishes the map again.
        """
        staged, index = self._staging / name, self.index(name)
        staged_index = staged.with_name(index.name)
        content = await run_in_daemon_thread(render, table)
        try:
            staged_index.unlink(missing_ok=True)
            # In threads: on a slow disk, this takes longer than the daemon's watchdog permits.
            await asyncio.to_thread(write_file, staged, content, MAP_MODE)
            await asyncio.to_thread(_keep_time, staged, self.path / name)
            in_place = self.kind.opened in SEEN_AT_ONCE and not fresh
            with _mapped(index if in_place else None) as before:
                if in_place:
                    staged_index.symlink_to(Path("..") / index.name)
                await self.postfix.postmap.build(self.kind, staged, len(content), lock)
                await self._check(staged, table, len(content))
                seen = before is None or before[:] == _head(index)
            if not seen:
                unseen_before, left = self._noted()
                self.owe_reload(unseen_before | {EVERY_DOMAIN}, left)
            if in_place:
                staged_index.unlink()
            else:
                await asyncio.to_thread(publish_file, staged_index, index)
            await asyncio.to_thread(publish_file, staged, self.path / name)
        except OSError as error:
            discard(staged_index)  # frees its space; the staged text is kept as the mark
            raise unwritable(self.path / name, error) from None
        except ApplyError as error:
            hint = error.hint or space_hint(self.path, error.message)
            discard(staged_index)
            raise ApplyError(
                f"{error.message}; the map {self.path / name} is unchanged", hint
            ) from None
        return seen

    async def _check(self, staged: Path, table: Table[str], size: int) -> None:
        """Raise ApplyError unless the index holds exactly the entries that it was built from.

        `size` is that of the text, in bytes: if less than that is free, the disk counts as full.
        """
        held = await self.postfix.postmap.query(self.kind, staged, list(table))
        if held != table:
            wrong = next(key for key in table if held.get(key) != table[key])
            problem = f"{staged}: read back, the index does not hold {wrong} as written"
            # postmap(1) may print nothing if the disk is full.
            if free_bytes(staged) < size:
                raise ApplyError(f"{problem}: No space left on device", room_hint(staged))
            raise ApplyError(
                problem,
                f"there is room left; see which other process writes there: fuser -v {self.path}/*",
            )


def _keep_time(staged: Path, text: Path) -> None:
    """Give a staged text the time of the text that it replaces, if both have the same content.

    An index of another type beside it is then still newer than the text, and so valid: setup keeps
    both indexes while it changes main.cf from one type to the other. Raises OSError.
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
    """Keep the head of an lmdb index mapped, as Postfix's processes do; None without an index."""
    size = META_PAGES * mmap.PAGESIZE
    if index is None or index.stat().st_size < size:
        yield None
        return
    with index.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as head:
        yield head


def _head(index: Path) -> bytes:
    """Read the head of an lmdb index from the current file of that name."""
    with index.open("rb") as file:
        return file.read(META_PAGES * mmap.PAGESIZE)


def check_owner(path: Path) -> None:
    """Raise NotPermitted if a user other than root could replace the maps, or make them links."""
    found = path.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        fix = f"chown root: {path} && chmod go-w {path}"
        raise NotPermitted(
            f"{path}: owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}: users other"
            " than root could change Postfix's maps there; nothing is installed",
            fix,
            fix,
        )


def _sample(table: Table[str]) -> dict[str, str]:
    """Return about SAMPLE entries, spread over the table."""
    return dict(islice(table.items(), 0, None, len(table) // SAMPLE + 1))


def files_of_maps(path: Path) -> frozenset[str]:
    """Return the names of the texts and indexes that are in a map directory."""
    return frozenset(file.name for name in MAP_NAMES for file in path.glob(f"{name}*"))


def installed_maps(path: Path) -> Maps:
    """Read the entries of all maps by their texts; none where they cannot be known.

    Raises NotPermitted or ApplyError if a text cannot be read.
    """
    return of_entries({name: _installed(path / name) for name in MAP_NAMES})


def installed_routes(path: Path) -> Table[str]:
    """Read the installed routes; see `installed_maps`."""
    return table_of(ROUTES, _installed(path / ROUTES))


def _installed(text: Path) -> dict[str, str]:
    try:
        return parse_installed(read_file(text)) or {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unwritable(text, error) from None
