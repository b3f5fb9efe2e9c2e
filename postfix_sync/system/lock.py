"""Take a lock file, which other users can't keep."""

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
LOCK_POLL = 0.05
LOCK_MODE = 0o600


@contextlib.asynccontextmanager
async def lock(path: Path, *, create: bool = True) -> AsyncIterator[int]:
    """Holds an exclusive flock(2) on `path`; yields its descriptor, -1 if there is nothing to lock.

    A command that inherits the descriptor keeps the lock while it runs, also when this process is
    killed: the next pass then doesn't meet a postmap that is still writing.

    flock(2) asks for no more than an open for reading, so only a file that other users can't open
    (`is_private`) keeps them out. Any other, such as the 0644 of earlier versions, is replaced by a
    private one: a local user may have it open and locked already, which no chmod(2) ends. A pass of
    an earlier version may hold it, too, so it is waited for all the same; but not beyond
    LOCK_TIMEOUT. `create=False` makes and replaces nothing, and does without a lock that the user
    of this process can't open.

    Raises Busy if the lock is still held after LOCK_TIMEOUT seconds.
    """
    with contextlib.ExitStack() as opened:
        yield await _locked(path, create, opened)


async def _locked(path: Path, create: bool, opened: contextlib.ExitStack) -> int:
    """Waits for the lock. Returns and raises as `lock` does; closing `opened` releases it."""
    give_up = time.monotonic() + LOCK_TIMEOUT
    descriptor = _open_lock(path, create, opened)
    while descriptor >= 0:
        held, late = _try_lock(descriptor, path), time.monotonic() > give_up
        if not _is_at(path, descriptor):  # somebody has replaced or removed it meanwhile
            opened.close()
            descriptor = _open_lock(path, create, opened)
            continue
        if create and (held or late) and not is_private(os.fstat(descriptor)):
            private = _replace_lock(path, descriptor, opened)
            if private >= 0:
                if not held:
                    LOG.warning(
                        "%s: any user of this host could open it, and it was locked for %g s; a"
                        " file that only root can open is in its place now",
                        path,
                        LOCK_TIMEOUT,
                    )
                return private
        if held:
            break
        if late:
            raise Busy(
                f"{path}: another pass has held the lock for {LOCK_TIMEOUT:g} s; nothing was done",
                f"see who: fuser -v {path}",
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
    """Whether `path` is the name of the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _replace_lock(path: Path, old: int, opened: contextlib.ExitStack) -> int:
    """Gives the name of the open file `old` to a private one, locked; -1 if that can't be done."""
    staged = staged_beside(path)
    try:
        new = os.open(staged, WITHOUT_WAITING | os.O_NOFOLLOW | os.O_CREAT, LOCK_MODE)
        opened.callback(os.close, new)
        if not _try_lock(new, staged) or not _is_at(staged, new):
            return -1  # another process is doing the same
        # From here on nobody else can have the staged file. Whoever had it before has renamed it.
        if is_private(os.fstat(new)) and _is_at(path, old):
            staged.rename(path)
            return new
    except (OSError, SyncError):
        return -1
    discard(staged)
    return -1
