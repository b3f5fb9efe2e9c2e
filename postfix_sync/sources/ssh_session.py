"""An SFTP session: the requests to Mailman's host after the login.

Whatever a server sends or fails to send, each request ends within a time limit and with bounded
memory, with a reply or a SyncError.
"""

import asyncio
import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias

from postfix_sync.errors import OutOfReach, SyncError, quote, why
from postfix_sync.sources import ssh_errors
from postfix_sync.sources.mailman_files import KEPT, NAMES
from postfix_sync.sources.ssh_host import CLOSE_TIMEOUT, SLACK, Hop, abort
from postfix_sync.system.files import free_bytes, space_hint
from postfix_sync.system.tasks import concurrently

if TYPE_CHECKING:
    import asyncssh


READ_TIMEOUT = 30.0
"""Seconds in which a server must answer an SFTP request, or the next block of a read."""

IN_FLIGHT = 16
"""Read requests for each file at the same time. With `BLOCK` they fill asyncssh's window."""

BLOCK = 255 * 1024
"""Bytes of one read request: the most that OpenSSH sends in a reply."""

BLOCK_AT_LEAST = 32 * 1024
"""Bytes of one read request that every server must support, whatever limit it announces."""


COPIES = Path("/var/tmp")  # noqa: S108 - the files there have no name
"""The directory of temporary files: /var/tmp is on a disk, /tmp may be in memory, and the state
directory need not exist before the first sync, nor be writable for a dry run."""


class Stat(NamedTuple):
    """The attributes of a file in SFTP, which differ between its versions."""

    size: int
    modified: int
    mode: int
    uid: int
    gid: int

    @property
    def owner(self) -> str:
        """Return owner and mode, for messages."""
        return f"owner {self.uid}:{self.gid}, mode {stat.S_IMODE(self.mode):04o}"

    @property
    def readers(self) -> int | None:
        """Return the GID if its members can read the file, or enter the directory; else None."""
        needed = 0o050 if stat.S_ISDIR(self.mode) else 0o040
        return self.gid if self.mode & needed == needed else None


State: TypeAlias = tuple[Stat | None, ...]
"""The attributes of the three files, in the order of NAMES; None for a file that does not exist."""


class Session:
    """An SFTP session on the connection to the host."""

    def __init__(
        self, hops: list[Hop], sftp: "asyncssh.SFTPClient", directory: PurePosixPath
    ) -> None:
        self._hops = hops
        self._sftp = sftp
        self._directory = directory
        self.server = hops[-1].server
        self.peer: str | None = None
        if len(hops) == 1 and hops[0].connection:
            self.peer = hops[0].connection.get_extra_info("peername")[0]

    @property
    def is_up(self) -> bool:
        """Return whether no connection is known to be closed."""
        return not any(hop.connection and hop.connection.is_closed() for hop in self._hops)

    async def state(self) -> State:
        """Return the state of the three files. Raises OutOfReach or NotPermitted."""
        async with self._request():
            return tuple(await concurrently(*(self._stat(name) for name in NAMES)))

    async def has_directory(self) -> bool:
        """Check whether the directory exists. Raises OutOfReach."""
        import asyncssh  # noqa: PLC0415 - see above

        async with self._request():
            try:
                return stat.S_ISDIR((await self._sftp.stat(self._directory)).permissions or 0)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied):
                return False

    async def read(self, state: State, files: contextlib.ExitStack) -> list[BinaryIO | None]:
        """Copy the files to temporary files, which `files` closes.

        Returns None for a file that does not exist or differs from `state`. Raises OutOfReach or
        NotPermitted.
        """
        _check_room(sum(found.size for found in state if found))
        async with self._request() as limit:
            return await concurrently(
                *(
                    self._copy(name, found, limit, files)
                    for name, found in zip(NAMES, state, strict=True)
                )
            )

    async def close(self) -> None:
        """Close the connections in order, within CLOSE_TIMEOUT; abort them after that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                self._sftp.exit()
                for hop in reversed(self._hops):
                    if hop.connection:
                        hop.connection.close()
                        await hop.connection.wait_closed()
        await self.abort()

    async def abort(self) -> None:
        """Drop the connections."""
        await abort(self._hops)

    @asynccontextmanager
    async def _request(self) -> AsyncIterator[asyncio.Timeout]:
        """Limit time and size of a request, and raise every failure as a SyncError."""
        for hop in self._hops:
            hop.allowance = SLACK
        try:
            async with asyncio.timeout(READ_TIMEOUT) as limit:
                yield limit
        except SyncError:
            raise
        except Exception as error:  # noqa: BLE001 - what a server sends decides what asyncssh raises
            raise self._named(error, late=limit.expired()) from None

    def _named(self, error: Exception, *, late: bool) -> OutOfReach:
        if late and isinstance(error, TimeoutError):
            return ssh_errors.unreachable(self.server, f"no answer for {READ_TIMEOUT:g} s")
        if any(hop.allowance < 0 for hop in self._hops):
            return ssh_errors.unreachable(self.server, "sends data that was not requested")
        if not self.is_up:
            return ssh_errors.unreachable(self.server, f"connection lost: {quote(str(error))}")
        return ssh_errors.unreachable(self.server, f"SFTP failed: {quote(str(error))}")

    async def _stat(self, name: str) -> Stat | None:
        import asyncssh  # noqa: PLC0415 - see above

        path = self._directory / name
        try:
            return _stat_of(await self._sftp.lstat(path))
        except asyncssh.SFTPNoSuchFile:
            return None
        except asyncssh.SFTPPermissionDenied:
            raise await self._denied(path) from None

    async def _denied(self, path: PurePosixPath, found: Stat | None = None) -> SyncError:
        """Name the file that denies access, or its directory if that can't be entered."""
        import asyncssh  # noqa: PLC0415 - see above

        place = self._place(path)
        if found:
            return ssh_errors.denied(place, self.server, path, found.owner, found.readers)
        above = self._directory
        try:
            entered = _stat_of(await self._sftp.stat(above))
        except asyncssh.SFTPError:
            return ssh_errors.denied(place, self.server, above, f"nor to stat {above}", None)
        owner = f"{above} has {entered.owner}"
        return ssh_errors.denied(place, self.server, above, owner, entered.readers)

    async def _copy(
        self, name: str, found: Stat | None, limit: asyncio.Timeout, files: contextlib.ExitStack
    ) -> BinaryIO | None:
        import asyncssh  # noqa: PLC0415 - see above

        if found is None:
            return None
        path = self._directory / name
        try:
            file = await self._sftp.open(path, "rb", block_size=0, max_requests=1)
        except asyncssh.SFTPNoSuchFile:
            return None
        except asyncssh.SFTPPermissionDenied:
            raise await self._denied(path, found) from None
        # The open file may be another one than the file whose state is `found`.
        same = _stat_of(await file.stat()) == found
        copy = files.enter_context(_temporary_file())
        whole = same and await self._blocks(file, found.size, limit, copy)
        await file.close()
        return copy if whole else None

    async def _blocks(
        self, file: "asyncssh.SFTPClientFile", size: int, limit: asyncio.Timeout, copy: BinaryIO
    ) -> bool:
        """Copy a file with concurrent requests; return whether it has exactly `size` bytes."""
        block = max(BLOCK_AT_LEAST, min(BLOCK, self._sftp.limits.max_read_len))
        received = 0
        starts = iter(range(0, size + 1, block))  # to its end, and one byte beyond

        async def work() -> None:
            nonlocal received
            for start in starts:
                at, end = start, min(start + block, size + 1)
                for hop in self._hops:
                    hop.allow(end - at)
                while at < end:
                    data: bytes = await file.read(end - at, at)
                    if not data:
                        return
                    if len(data) > end - at:
                        raise ssh_errors.unreachable(self.server, "sends more than was requested")
                    _write(copy, data, at)
                    received += len(data)
                    at += len(data)
                limit.reschedule(asyncio.get_running_loop().time() + READ_TIMEOUT)

        await concurrently(*(work() for _ in range(min(IN_FLIGHT, size // block + 1))))
        return received == size == os.fstat(copy.fileno()).st_size

    def _place(self, path: PurePosixPath) -> str:
        return f"{self.server.host}:{path}"


def _check_room(size: int) -> None:
    """Check that copies of `size` bytes leave as much room as they take. Raises OutOfReach.

    Postfix's queue may be on the same file system.
    """
    try:
        if free_bytes(COPIES) < 2 * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise no_copy(error) from None


def _temporary_file() -> BinaryIO:
    """Open a temporary file that has no name. Raises OutOfReach."""
    try:
        return tempfile.TemporaryFile(dir=COPIES, buffering=0)
    except OSError as error:
        raise no_copy(error) from None


def _write(copy: BinaryIO, data: bytes, at: int) -> None:
    """Write to the page cache, which does not keep the event loop. Raises OutOfReach."""
    try:
        written = os.pwrite(copy.fileno(), data, at)
    except OSError as error:
        raise no_copy(error) from None
    if written < len(data):
        raise no_copy(OSError(errno.ENOSPC, ""))


def no_copy(error: OSError) -> OutOfReach:
    """Return the error for a temporary file that can't be made, written or read."""
    message = f"{COPIES}: can't copy the source's files there: {why(error)}; {KEPT}"
    return OutOfReach(message, space_hint(COPIES, message) or f"see: ls -ld {COPIES}")


def _stat_of(found: "asyncssh.SFTPAttrs") -> Stat:
    """Return a file's attributes in SFTP version 3. Raises ValueError if a server omits one."""
    if found.size is None or found.permissions is None or found.mtime is None:
        raise ValueError("the server does not report a file's size, mode and time")
    return Stat(found.size, int(found.mtime), found.permissions, found.uid or 0, found.gid or 0)
