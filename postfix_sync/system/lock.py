"""Lock a file that other users can't lock."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from postfix_sync.errors import Busy, SyncError
from postfix_sync.log import LOG
from postfix_sync.system.files import (
    WITHOUT_WAITING,
    discard,
    is_private,
    staged_beside,
    unwritable,
)

LOCK_TIMEOUT = 30.0
"""Seconds."""

LOCK_POLL = 0.05
"""Seconds between two attempts."""

LOCK_MODE = 0o600


@contextlib.asynccontextmanager
async def lock(path: Path, *, create: bool = True) -> AsyncIterator[int]:
    """Hold an exclusive flock(2) on `path`; yield its descriptor, or -1 if there is none to lock.

    A command that inherits the descriptor keeps the lock while it runs, even if this process is
    killed: so the next sync does not start while postmap is still writing.

    flock(2) requires only that the file is open for reading, so only a file that other users can't
    open (`is_private`) excludes them. Any other file, such as the lock of mode 0644 that earlier
    versions created, is replaced with a private one: a local user may have opened and locked it
    already, and chmod(2) does not end that. Because a sync of an earlier version may hold it, too,
    `lock` waits for it first, at most LOCK_TIMEOUT. If `create` is not set, no file is created or
    replaced, and a lock that the user of this process can't open is not taken.

    Raises Busy if the lock is still held after LOCK_TIMEOUT seconds.
    """
    with contextlib.ExitStack() as opened:
        yield await _locked(path, create, opened)


async def _locked(path: Path, create: bool, opened: contextlib.ExitStack) -> int:
    """Wait for the lock. Returns and raises as `lock` does; closing `opened` releases it."""
    give_up = time.monotonic() + LOCK_TIMEOUT
    descriptor = _open_lock(path, create, opened)
    while descriptor >= 0:
        held, late = _try_lock(descriptor, path), time.monotonic() > give_up
        if not _is_at(path, descriptor):  # another process replaced or removed it
            opened.close()
            descriptor = _open_lock(path, create, opened)
            continue
        if create and (held or late) and not is_private(os.fstat(descriptor)):
            private = _replace_lock(path, descriptor, opened)
            if private >= 0:
                if not held:
                    LOG.warning(
                        "%s: any user of this host could open it, and it was locked for %g s; it"
                        " is now replaced with a file that only root can open",
                        path,
                        LOCK_TIMEOUT,
                    )
                return private
        if held:
            break
        if late:
            raise Busy(
                f"{path}: another sync has held the lock for {LOCK_TIMEOUT:g} s; nothing was done",
                f"see which process: fuser -v {path}",
            )
        await asyncio.sleep(LOCK_POLL)
    return descriptor


def _open_lock(path: Path, create: bool, opened: contextlib.ExitStack) -> int:
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        descriptor = os.open(path, WITHOUT_WAITING | flags, LOCK_MODE)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) and not create:
            return -1
        raise unwritable(path, error) from None
    opened.callback(os.close, descriptor)
    return descriptor


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unwritable(path, error) from None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether `path` is the name of the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _replace_lock(path: Path, old: int, opened: contextlib.ExitStack) -> int:
    """Replace the open file `old` with a private, locked one; return its descriptor or -1."""
    staged = staged_beside(path)
    try:
        new = os.open(staged, WITHOUT_WAITING | os.O_NOFOLLOW | os.O_CREAT, LOCK_MODE)
        opened.callback(os.close, new)
        if not _try_lock(new, staged) or not _is_at(staged, new):
            return -1  # another process is doing the same
        # From here on, no other process can lock the staged file; an earlier holder has renamed it.
        if is_private(os.fstat(new)) and _is_at(path, old):
            staged.rename(path)
            return new
    except (OSError, SyncError):
        return -1
    discard(staged)
    return -1
