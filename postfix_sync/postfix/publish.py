"""Publish a map in the map directory. Crash safe.

A map is built in the directory .staging, and checked there by reading every key back. Its text is
published last, so a text in .staging, which may be empty, marks a map in doubt: if a sync is
interrupted, the next sync builds that map again.

hash, btree and cdb are built beside and renamed, index before text. lmdb is built in place, through
a link in .staging: in one transaction, of which readers see all or nothing (LMDB_README).

If little changes, only those entries of an index are changed: of hash and btree in a copy beside,
of lmdb in place. Then each key is a transaction, so a reader may see some of the change, as if each
address were published alone; plan.py orders the maps so that each order of addresses is safe. The
texts are written when all indexes of a sync are changed.
"""

import asyncio
import contextlib
import filecmp
import mmap
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.errors import ApplyError, NotPermitted, SyncError, why
from postfix_sync.model.installed import EVERY_DOMAIN, KnownText
from postfix_sync.model.maps import Diff
from postfix_sync.postfix.index_change import Publish, small_change
from postfix_sync.postfix.installed_text import Summed, pieces
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.map_text import UnfitError, edits_of, render, spliced
from postfix_sync.system.files import (
    discard,
    free_bytes,
    publish_file,
    room_hint,
    space_hint,
    unwritable,
    write_parts,
)
from postfix_sync.system.tasks import together
from postfix_sync.system.threads import run_in_daemon_thread

MAP_MODE = 0o644


@contextlib.contextmanager
def staging_of(directory: MapDirectory) -> Iterator[None]:
    """Provide the staging directory for one apply, and remove it after an apply that succeeds.

    Raises NotPermitted or ApplyError.
    """
    path, staging = directory.path, directory.staging
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        check_owner(path)
        if not staging.is_dir():
            discard(staging)
        staging.mkdir(mode=0o700, exist_ok=True)
        for found in staging.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)  # only files are staged
    except OSError as error:
        raise unwritable(path, error) from None
    yield
    try:
        shutil.rmtree(staging)
    except OSError as error:
        raise unwritable(staging, error) from None


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


@dataclass(frozen=True)
class Published:
    """A map whose index was published."""

    is_seen: bool
    """Whether processes that have the index open see the change."""
    text: KnownText | None = None
    """Its text; None if the text is left to `write_texts`."""


async def publish(directory: MapDirectory, step: Publish, lock: int) -> Published:
    """Publish a map; if only some entries of its index are changed, without its text.

    If step.fresh, its index becomes a new file, whatever the type. The running postmap(1) holds
    `lock`, a file descriptor.

    In a container's layered file system, an index that came with the image becomes another file
    when it is first written to, and processes that have mapped it keep the first file. In that
    case, a reload is noted as due before the text is published.

    Raises ApplyError or NotPermitted. The text is then unchanged; the index is unchanged, holds
    some of the change, or all of it, and the next sync publishes the map again.
    """
    text, index = directory.path / step.name, directory.index(step.name)
    staged = directory.staging / step.name
    staged_index = staged.with_name(index.name)
    change = await run_in_daemon_thread(small_change, step, directory.kind.opened)
    lines = Summed(() if change else render(step.table))
    try:
        staged_index.unlink(missing_ok=True)
        # In threads: on a slow disk, this takes longer than the daemon's watchdog permits.
        await asyncio.to_thread(write_parts, staged, lines, MAP_MODE)
        await asyncio.to_thread(_keep_time, staged, text)
        in_place = directory.is_seen_at_once and not step.fresh
        with _mapped(index if in_place else None) as before:
            if in_place:
                staged_index.symlink_to(Path("..") / index.name)
            if change:
                await _change(directory, staged, change, lock)
            else:
                size = staged.stat().st_size
                await directory.postfix.postmap.build(directory.kind, staged, size, lock)
                await _check(directory, staged, size)
            seen = before is None or before[:] == _head(index)
        if not seen:
            noted = directory.reload_note.read()
            directory.reload_note.write(noted.unseen | {EVERY_DOMAIN}, noted.left)
        if in_place:
            staged_index.unlink()
        else:
            await asyncio.to_thread(publish_file, staged_index, index)
        if change:
            return Published(seen)
        await asyncio.to_thread(publish_file, staged, text)
    except OSError as error:
        discard(staged_index)  # frees its space; the staged text is kept as the mark
        raise unwritable(text, error) from None
    except ApplyError as error:
        hint = error.hint or space_hint(directory.path, error.message)
        discard(staged_index)
        state = "is unchanged"
        if change and directory.is_seen_at_once:
            state = "may hold a part of the change, and the next sync rebuilds it"
        raise ApplyError(f"{error.message}; the map {text} {state}", hint) from None
    return Published(seen, KnownText(lines.version, step.table))


async def write_texts(
    directory: MapDirectory, changed: Mapping[str, Sequence[Publish]]
) -> tuple[Mapping[str, KnownText], SyncError | None]:
    """Write the texts of maps whose indexes were changed; `changed` has the steps of each map.

    No list waits for it: Postfix reads the indexes only. Returns the texts that were written, and
    an error (ApplyError or NotPermitted) if some were not: the next sync rebuilds their maps.
    """

    async def written(steps: Sequence[Publish]) -> tuple[KnownText | None, SyncError | None]:
        try:
            return await asyncio.to_thread(_write_text, directory, steps), None
        except SyncError as error:
            return None, error

    found = await together(*map(written, changed.values()))
    texts = {name: text for name, (text, _) in zip(changed, found, strict=True) if text}
    return texts, next((error for _, error in found if error), None)


def _write_text(directory: MapDirectory, steps: Sequence[Publish]) -> KnownText:
    """Write the text of a map, by a change of the installed one if its lists are sorted."""
    first, step = steps[0], steps[-1]
    if first is not step:
        step = step.over(first.before)
    text, staged = directory.path / step.name, directory.staging / step.name
    try:
        try:
            edits = edits_of(step.before or step.table, step.table, step.change)
            old = Summed(pieces(text))
            parts = Summed(spliced(old, edits))
            write_parts(staged, parts, MAP_MODE)
            if old.version != first.text:
                raise UnfitError  # it was edited meanwhile
        except UnfitError:
            parts = Summed(render(step.table))
            write_parts(staged, parts, MAP_MODE)
        # As old as its index: if it were newer, the index would be taken for a stale one.
        changed = directory.index(step.name).stat().st_mtime_ns
        os.utime(staged, ns=(changed, changed))
        publish_file(staged, text)
    except OSError as error:
        message = f"{text}: {why(error)}; its index is changed already"
        kind = NotPermitted if isinstance(error, PermissionError) else ApplyError
        raise kind(message, space_hint(text, message)) from None
    return KnownText(parts.version, step.table)


async def _change(directory: MapDirectory, staged: Path, change: Diff, lock: int) -> None:
    """Change the entries of an index: of lmdb in place, of other types in a copy beside.

    Entries are added before others are removed, so that lists that swap an address keep it.
    Raises ApplyError, also unless the index then holds the new entries, and no removed one.
    """
    postmap, kind = directory.postfix.postmap, directory.kind
    if not kind.index(staged).is_symlink():
        await asyncio.to_thread(shutil.copy, directory.index(staged.name), kind.index(staged))
    new = {**change.added, **{key: values.new for key, values in change.changed.items()}}
    await postmap.change(kind, staged, new, change.removed, lock)
    held = await postmap.query(kind, staged, [*new, *change.removed])
    if held != new:
        wrong = next(key for key in (*new, *change.removed) if held.get(key) != new.get(key))
        raise ApplyError(f"{staged}: read back, the index does not hold {wrong} as changed")


async def _check(directory: MapDirectory, staged: Path, size: int) -> None:
    """Raise ApplyError unless the index holds each entry of the text that it was built from.

    postmap(1) builds it from nothing, so it holds no other entries.

    `size` is that of the text, in bytes: if less than that is free, the disk counts as full.
    """
    wrong = await directory.postfix.postmap.differing(directory.kind, staged, staged)
    if wrong is None:
        return
    problem = f"{staged}: read back, the index does not hold {wrong} as written"
    # postmap(1) may print nothing if the disk is full.
    if free_bytes(staged) < size:
        raise ApplyError(f"{problem}: No space left on device", room_hint(staged))
    raise ApplyError(
        problem,
        f"there is room left; see which other process writes there: fuser -v {directory.path}/*",
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
