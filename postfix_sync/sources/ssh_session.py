"""SSH and SFTP: a login with one key on one known host, and what is asked of it then.

asyncssh does the cryptography. Decided here is whom to believe: the host's key must be in one
known_hosts file, for the bastion as well, and nothing but the configured identity is ever used: no
agent, no ~/.ssh, no password. Whatever a server does or fails to do, a request ends in time, with
bounded memory, in an answer or in a SyncError.
"""

import asyncio
import contextlib
import io
import stat
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from postfix_sync.errors import OutOfReach, SyncError, quote
from postfix_sync.sources import ssh_errors as say
from postfix_sync.sources.mailman_files import NAMES
from postfix_sync.sources.ssh_host import CLOSE_TIMEOUT, SLACK, Hop, abort

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

READ_TIMEOUT = 30.0
"""Seconds in which an SFTP request must be answered, and a read must get on by one block."""

IN_FLIGHT = 16
"""Read requests under way at once, for each file. With `BLOCK` it fills asyncssh's window."""

BLOCK = 255 * 1024
"""Bytes of one read request: the most that OpenSSH answers."""

BLOCK_AT_LEAST = 32 * 1024
"""Bytes: what every server has to answer, whatever it announces."""


class Stat(NamedTuple):
    """What tells a file from its next version, as far as SFTP knows."""

    size: int
    modified: int
    mode: int
    uid: int
    gid: int

    @property
    def owner(self) -> str:
        """Whose it is, for messages."""
        return f"owner {self.uid}:{self.gid}, mode {stat.S_IMODE(self.mode):04o}"

    @property
    def readers(self) -> int | None:
        """The group whose members may read it, or enter it; None if none may."""
        needed = 0o050 if stat.S_ISDIR(self.mode) else 0o040
        return self.gid if self.mode & needed == needed else None


State: TypeAlias = tuple[Stat | None, ...]
"""The three files, in the order of NAMES; None for one that is not there."""


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
        """Whether the connection is there, as far as it is known."""
        return not any(hop.connection and hop.connection.is_closed() for hop in self._hops)

    async def look(self) -> State:
        """The state of the three files. Raises OutOfReach or NotPermitted."""
        async with self._asked():
            return tuple(await _together(*(self._stat(name) for name in NAMES)))

    async def has_directory(self) -> bool:
        """Whether the directory is there. Raises OutOfReach."""
        import asyncssh  # noqa: PLC0415 - see above

        async with self._asked():
            try:
                return stat.S_ISDIR((await self._sftp.stat(self._directory)).permissions or 0)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied):
                return False

    async def read(self, state: State) -> list[bytes | None]:
        """The files' content, None for one that is not there or no longer what it was.

        Raises OutOfReach or NotPermitted.
        """
        async with self._asked() as limit:
            return await _together(
                *(
                    self._content(name, found, limit)
                    for name, found in zip(NAMES, state, strict=True)
                )
            )

    async def close(self) -> None:
        """An orderly goodbye, as far as there is time for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                self._sftp.exit()
                for hop in reversed(self._hops):
                    if hop.connection:
                        hop.connection.close()
                        await hop.connection.wait_closed()
        await self.abort()

    async def abort(self) -> None:
        """Drops the connection."""
        await abort(self._hops)

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[asyncio.Timeout]:
        """Gives whatever becomes of a request its name, and an end in time and in size."""
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
            return say.unreachable(self.server, f"no answer for {READ_TIMEOUT:g} s")
        if any(hop.allowance < 0 for hop in self._hops):
            return say.unreachable(self.server, "sends data that nobody asked for")
        if not self.is_up:
            return say.unreachable(self.server, f"connection lost: {quote(str(error))}")
        return say.unreachable(self.server, f"SFTP failed: {quote(str(error))}")

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
        """Names what denies access: the file, or its directory where that can't be entered."""
        import asyncssh  # noqa: PLC0415 - see above

        place = self._place(path)
        if found:
            return say.denied(place, self.server, path, found.owner, found.readers)
        above = self._directory
        try:
            entered = _stat_of(await self._sftp.stat(above))
        except asyncssh.SFTPError:
            return say.denied(place, self.server, above, f"nor look at {above}", None)
        owner = f"{above} has {entered.owner}"
        return say.denied(place, self.server, above, owner, entered.readers)

    async def _content(self, name: str, found: Stat | None, limit: asyncio.Timeout) -> bytes | None:
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
        # What is open may be another file than the one that was looked at, or none at all.
        same = _stat_of(await file.stat()) == found
        content = await self._blocks(file, found.size, limit) if same else None
        await file.close()
        return content

    async def _blocks(
        self, file: "asyncssh.SFTPClientFile", size: int, limit: asyncio.Timeout
    ) -> bytes | None:
        """What a file holds if that is `size` bytes and no more, read in several blocks at once."""
        content = io.BytesIO()
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
                        raise say.unreachable(self.server, "sends more than it was asked for")
                    content.seek(at)
                    content.write(data)
                    received += len(data)
                    at += len(data)
                limit.reschedule(asyncio.get_running_loop().time() + READ_TIMEOUT)

        await _together(*(work() for _ in range(min(IN_FLIGHT, size // block + 1))))
        whole = content.getvalue()
        return whole if received == len(whole) == size else None

    def _place(self, path: PurePosixPath) -> str:
        return f"{self.server.host}:{path}"


def _stat_of(found: "asyncssh.SFTPAttrs") -> Stat:
    """What SFTP version 3 says of a file. Raises OutOfReach where a server leaves out the size."""
    if found.size is None or found.permissions is None or found.mtime is None:
        raise ValueError("the server does not tell a file's size, mode and time")
    return Stat(found.size, int(found.mtime), found.permissions, found.uid or 0, found.gid or 0)


async def _together(*coroutines: Coroutine[Any, Any, T]) -> list[T]:
    """Runs all at once; the first error ends the others and is raised by itself.

    No TaskGroup: Python 3.11's leaves its task cancelled in part when one of the others fails, and
    the next asyncio.timeout() there ends the task instead of raising TimeoutError.
    """
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
