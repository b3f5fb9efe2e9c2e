"""A source on this host: Mailman's data directory, as a volume or a plain directory.

The files are opened without following links and without waiting (a FIFO would hold up a pass for
ever), must be regular and bounded in size, and are taken only when all of them were quiet while
they were read: Mailman renames three files, one after the other.
"""

import asyncio
import contextlib
import errno
import os
import pwd
import shlex
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.errors import NotPermitted, OutOfReach, SyncError, why
from postfix_sync.model import ALIASES, DOMAINS, ROUTES, Snapshot, SourceFile
from postfix_sync.sources.mailman_files import (
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

READ_AT_MOST = 0.5
"""Seconds after that in which files are read again that were replaced while they were read."""

LOOK_AGAIN = 1.0
"""Seconds between looks at whether the watched directory is still the same one."""


class _ResizedError(Exception):
    """A file holds more or fewer bytes than it had when it was opened."""


@dataclass(frozen=True)
class Volume:
    """Mailman's data directory on this host."""

    directory: Path
    max_size: int

    @property
    def peer(self) -> None:
        """None: it is on this host."""

    @property
    def misplaced(self) -> None:
        """None: nobody is asked where it is."""

    def forget(self) -> None:
        """Nothing is remembered: each fetch reads the files."""

    async def close(self) -> None:
        """Nothing is open."""

    async def fetch(self) -> Snapshot:
        """The files, whole, once they are quiet.

        Raises:
            OutOfReach: the directory or a file is not there, or does not come to rest.
            NotPermitted: this process may not read them.
            Refused: a file isn't a regular one, or is too large.
        """
        settled = time.monotonic() + SETTLE_AT_MOST
        give_up = settled + READ_AT_MOST
        while True:
            before = await run_in_daemon_thread(self._state)  # a dead mount may hang
            overdue = time.monotonic() > settled
            if overdue or _is_quiet(before):
                with contextlib.suppress(_ResizedError):
                    snapshot = await run_in_daemon_thread(self._read)
                    if await run_in_daemon_thread(self._state) == before:
                        return snapshot
                if time.monotonic() > give_up:
                    raise restless(str(self.directory), self.directory / ROUTES)
            await asyncio.sleep(QUIET / 20 if overdue else QUIET / 2)

    def _state(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells a file from its next version: inode, time of change (ns), size."""
        return tuple(self._stat(name) for name in NAMES)

    def _stat(self, name: str) -> tuple[int, int, int] | None:
        try:
            found = os.lstat(self.directory / name)
        except OSError:
            return None  # reading the file says what is wrong with it
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> Snapshot:
        return Snapshot(
            lmtp=self._file(ROUTES),
            domains=self._file(DOMAINS),
            vmap=self._file(ALIASES) if self._stat(ALIASES) else None,
        )

    def _file(self, name: str) -> SourceFile:
        path = self.directory / name
        try:
            descriptor = os.open(path, WITHOUT_WAITING | os.O_NOFOLLOW)
        except OSError as error:
            raise self._unreadable(path, error) from None
        try:
            found = os.fstat(descriptor)
            self._check(path, found)
            with open(descriptor, "rb", closefd=False) as file:
                # As many bytes as are asked for are allocated, however few there are.
                content = file.read(found.st_size + 1)
        except OSError as error:
            raise self._unreadable(path, error) from None
        finally:
            os.close(descriptor)
        if len(content) != found.st_size:
            raise _ResizedError
        return SourceFile(str(path), content)

    def _check(self, path: Path, found: os.stat_result) -> None:
        """Raises Refused or NotPermitted where a file is none that Mailman would have written."""
        if not stat.S_ISREG(found.st_mode):
            raise not_regular(str(path), kind(found.st_mode), path.parent)
        if not found.st_mode & 0o444:
            raise not_permitted(path)  # root could, but whoever took the bits meant it
        if found.st_size > self.max_size:
            raise too_large(str(path), found.st_size, self.max_size)

    def _unreadable(self, path: Path, error: OSError) -> SyncError:
        if error.errno == errno.ELOOP:
            return not_regular(str(path), "a symbolic link", path.parent)
        if error.errno == errno.ENXIO:
            return not_regular(str(path), "a socket or a device", path.parent)
        if isinstance(error, PermissionError):
            return not_permitted(path)
        message = f"{path}: {why(error)}; the last good maps stay"
        if isinstance(error, FileNotFoundError) and self.directory.is_dir():
            return OutOfReach(message, NOT_WRITTEN_YET)
        return OutOfReach(message, "is the volume mounted, and is it the source's path?")

    async def changes(self) -> AsyncIterator[None]:
        """Yields when something in the directory changed, after it settled; never ends.

        A watch goes deaf when its directory is removed, which is a change, also when it comes back:
        it is armed anew then. What happened before a watch was armed, it did not see: so each one
        that is armed counts as a change. Where events do not arrive at all (NFS), nothing else is
        yielded; whoever listens looks at intervals too.
        """
        from watchfiles import awatch  # noqa: PLC0415 - only the daemon watches

        while True:
            # A mount whose server is gone keeps whoever looks at it waiting.
            watched = await run_in_daemon_thread(_identity, self.directory)
            if watched is None:
                await asyncio.sleep(LOOK_AGAIN)
                continue
            news = True
            # It may vanish while the watch is being armed.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                async for changed in awatch(
                    self.directory,
                    watch_filter=_is_a_table,
                    step=round(QUIET * 1000),
                    debounce=round(SETTLE_AT_MOST * 1000),
                    rust_timeout=round(LOOK_AGAIN * 1000),
                    yield_on_timeout=True,
                    recursive=False,
                ):
                    if changed or news:
                        news = False
                        yield
                    if await run_in_daemon_thread(_identity, self.directory) != watched:
                        yield
                        break
            await asyncio.sleep(LOOK_AGAIN)


def _is_a_table(_change: object, path: str) -> bool:
    """Mailman's database may lie beside its tables, and changes with every message."""
    return Path(path).name in NAMES


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _is_quiet(state: tuple[tuple[int, int, int] | None, ...]) -> bool:
    newest = max((found[1] for found in state if found), default=0)
    return time.time_ns() - newest > QUIET * 1e9


def not_permitted(path: Path) -> NotPermitted:
    """Names what denies access: the file, or the first directory above it that does."""
    blocking = next(
        (parent for parent in reversed(path.parents) if not os.access(parent, os.X_OK)), path
    )
    asking = f"user {_user_name(os.geteuid())}"
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
        hint += f", or put its user into the group that may read {blocking}"
    elif not may_owner:
        fix = f"chmod u+rX {shlex.quote(str(blocking))}"
        hint = f"let its owner read it: {fix}"
    return NotPermitted(
        f"{path}: {asking} may not read it: {blocking} has {owner}; the last good maps stay",
        hint,
        fix,
    )


def _user_name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
