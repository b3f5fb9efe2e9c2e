"""A source on this host: Mailman's data directory, as a volume or a plain directory.

`Volume` opens the files without following links and without blocking (a FIFO would block a sync for
ever), and accepts only regular files of a bounded size. What was read counts only if none of them
changed meanwhile, because Mailman renames three files, one after the other.
"""

import asyncio
import contextlib
import errno
import io
import os
import pwd
import shlex
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from postfix_sync.errors import NotPermitted, OutOfReach, SyncError, why
from postfix_sync.model.map_names import ALIASES, DOMAINS, ROUTES
from postfix_sync.model.source import Snapshot, SourceFile
from postfix_sync.sources.mailman_files import (
    KEPT,
    NAMES,
    NOT_WRITTEN_YET,
    QUIET,
    SETTLE_AT_MOST,
    not_regular,
    restless,
    too_large,
)
from postfix_sync.system.files import WITHOUT_WAITING, denied_hint, kind
from postfix_sync.system.threads import run_in_daemon_thread

T = TypeVar("T")

_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""Each file's inode, time of change (ns) and size, which differ between versions."""

STEP = 0.02
"""Seconds after an event in which another one delays the report of both. While nothing happens,
watchfiles wakes up as often, which takes 2 ms of processor time a second."""

BURST = 0.1
"""Seconds after which events are reported although more of them arrive."""

LOOK = QUIET / 20
"""Seconds between checks of files that have changed a moment ago."""

REREAD_FOR = 0.5
"""Seconds after SETTLE_AT_MOST in which files that were replaced during a read are read again."""

RECHECK = 1.0
"""Seconds between checks of whether the watched directory has been replaced."""


class _ReplacedError(Exception):
    """A change of a file while it was read."""


@dataclass(frozen=True)
class Volume:
    """A source: Mailman's data directory on this host."""

    directory: Path
    max_size: int

    @property
    def peer(self) -> None:
        """Return None: Mailman's address is configured, or is the one that Mailman wrote."""

    @property
    def misplaced(self) -> None:
        """Return None: the address is not looked up, so no lookup can fail."""

    def forget(self) -> None:
        """Do nothing: the files are read each time."""

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    async def read(
        self, parse: Callable[[Snapshot], T], is_safe: Callable[[T], Awaitable[bool]]
    ) -> T:
        """Parse all files, once they have not changed for QUIET or SETTLE_AT_MOST is over.

        If `is_safe` returns true for a result, it counts at once.

        Raises what `parse` raises, and:
            OutOfReach: the directory or a file does not exist, or the files change too fast.
            NotPermitted: this process is not permitted to read them.
            Refused: a file is not a regular file, or is too large.
        """
        settled = time.monotonic() + SETTLE_AT_MOST
        give_up = settled + REREAD_FOR
        unsafe: _State | None = None
        while True:
            before = await run_in_daemon_thread(self._state)  # a dead mount may hang
            overdue = time.monotonic() > settled
            if overdue or _is_quiet(before):
                with contextlib.suppress(_ReplacedError):
                    return await run_in_daemon_thread(self._parsed, parse, before)
                if time.monotonic() > give_up:
                    raise restless(str(self.directory), self.directory / ROUTES)
            elif before != unsafe:
                # An error does not count, either: files that contradict each other are normal now.
                with contextlib.suppress(_ReplacedError, SyncError):
                    result = await run_in_daemon_thread(self._parsed, parse, before)
                    if await is_safe(result):
                        return result
                unsafe = before
            await asyncio.sleep(LOOK)

    def _state(self) -> _State:
        """Return each file's inode, time of change (ns) and size, which differ between versions."""
        return tuple(self._stat(name) for name in NAMES)

    def _stat(self, name: str) -> tuple[int, int, int] | None:
        try:
            found = os.lstat(self.directory / name)
        except OSError:
            return None  # _file() reports why
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _parsed(self, parse: Callable[[Snapshot], T], before: _State) -> T:
        """Return or raise the outcome of `parse`. Raises _ReplacedError if a file has changed."""
        with contextlib.ExitStack() as files:
            snapshot = Snapshot(
                lmtp=self._open(ROUTES, files),
                domains=self._open(DOMAINS, files),
                vmap=self._open(ALIASES, files) if self._stat(ALIASES) else None,
            )
            try:
                return parse(snapshot)
            except OSError as error:
                raise self._unreadable(Path(error.filename), error) from None
            finally:
                opened = filter(None, (snapshot.lmtp, snapshot.domains, snapshot.vmap))
                if self._state() != before or not all(map(_has_its_size, opened)):
                    raise _ReplacedError

    def _open(self, name: str, files: contextlib.ExitStack) -> SourceFile:
        """Open a file, which `files` closes."""
        path = self.directory / name
        try:
            descriptor = os.open(path, WITHOUT_WAITING | os.O_NOFOLLOW)
        except OSError as error:
            raise self._unreadable(path, error) from None
        files.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        self._check(path, found)
        return SourceFile(str(path), io.FileIO(descriptor, closefd=False), found.st_size)

    def _check(self, path: Path, found: os.stat_result) -> None:
        """Check type, mode and size of an open file. Raises Refused or NotPermitted."""
        if not stat.S_ISREG(found.st_mode):
            raise not_regular(str(path), kind(found.st_mode), path.parent)
        if not found.st_mode & 0o444:
            # root could read it, but an administrator has removed every read permission.
            raise not_permitted(path)
        if found.st_size > self.max_size:
            raise too_large(str(path), found.st_size, self.max_size)

    def _unreadable(self, path: Path, error: OSError) -> SyncError:
        if error.errno == errno.ELOOP:
            return not_regular(str(path), "a symbolic link", path.parent)
        if error.errno == errno.ENXIO:
            return not_regular(str(path), "a socket or a device", path.parent)
        if isinstance(error, PermissionError):
            return not_permitted(path)
        message = f"{path}: {why(error)}; {KEPT}"
        if isinstance(error, FileNotFoundError) and self.directory.is_dir():
            return OutOfReach(message, NOT_WRITTEN_YET)
        return OutOfReach(message, "is the volume mounted, and is it the source's path?")

    async def changes(self) -> AsyncIterator[None]:
        """Yield when a file in the directory changed; never end.

        Each change is reported, also one that follows at once: `read` waits for quiet if it must.

        A watch reports nothing more once its directory has been removed or replaced. Either counts
        as a change, and a new watch is started. A watch does not see changes from before its start,
        so each start counts as a change. A file system without events (NFS) yields nothing else,
        which is why the caller fetches at intervals, too.
        """
        from watchfiles import awatch  # noqa: PLC0415 - only the daemon watches

        while True:
            # stat(2) blocks on a mount whose server is unreachable.
            watched = await run_in_daemon_thread(_identity, self.directory)
            if watched is None:
                await asyncio.sleep(RECHECK)
                continue
            starting = True
            # The directory may be removed while the watch is being started.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                async for changed in awatch(
                    self.directory,
                    watch_filter=_is_a_table,
                    step=round(STEP * 1000),
                    debounce=round(BURST * 1000),
                    rust_timeout=round(RECHECK * 1000),
                    yield_on_timeout=True,
                    recursive=False,
                ):
                    if changed or starting:
                        starting = False
                        yield
                    if await run_in_daemon_thread(_identity, self.directory) != watched:
                        yield
                        break
            await asyncio.sleep(RECHECK)


def _is_a_table(_change: object, path: str) -> bool:
    """Return whether a path is one of Mailman's three files.

    Mailman's database may be in the same directory, and changes with every message.
    """
    return Path(path).name in NAMES


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _has_its_size(file: SourceFile) -> bool:
    """Return whether an open file has the size of when it was opened, also if stat(2) lies.

    The files of proc(5) have content, and the size 0.
    """
    try:
        file.stream.seek(max(file.size - 1, 0))
        last = file.stream.read(2)
    except OSError:
        return True  # parse() had the same error, and reports it
    return len(last) == min(file.size, 1)


def _is_quiet(state: _State) -> bool:
    newest = max((found[1] for found in state if found), default=0)
    return time.time_ns() - newest > QUIET * 1e9


def not_permitted(path: Path) -> NotPermitted:
    """Name the file, or the topmost directory above it, that denies access, with owner and mode."""
    blocking = next(
        (parent for parent in reversed(path.parents) if not os.access(parent, os.X_OK)), path
    )
    user = f"user {_user_name(os.geteuid())}"
    may_owner = True
    try:
        found = blocking.stat()
        owner = f"owner {_user_name(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}"
        needed = 0o500 if stat.S_ISDIR(found.st_mode) else 0o400
        may_owner = found.st_mode & needed == needed
    except OSError:
        owner = "owner unknown"
    fix = None
    hint = denied_hint(blocking, PermissionError(errno.EACCES, ""))
    if os.geteuid() != 0:
        hint += f", or add its user to the group that may read {blocking}"
    elif not may_owner:
        fix = f"chmod u+rX {shlex.quote(str(blocking))}"
        hint = f"let its owner read it: {fix}"
    return NotPermitted(
        f"{path}: {user} is not permitted to read it: {blocking} has {owner}; {KEPT}",
        hint,
        fix,
    )


def _user_name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
