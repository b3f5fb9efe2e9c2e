"""SSH servers with faults: before SSH begins, and after the login, in SFTP.

`BANNERS` has the faults of a TCP server, for `rogue` of tests/parts/lmtp_rogues.py. A server with a
login is asyncssh's own, with one fault:

    async with sftp_rogue(mute_at("lstat"), directory, host_key) as port:
        ...
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import asyncssh

from .lmtp_rogues import Behaviour, closes, endless, resets, says

BANNERS: dict[str, Behaviour] = {
    "silent": says(b""),
    "closes": closes,
    "resets": resets,
    "http": says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "garbage": says(bytes(range(256)) * 400),
    "garbage after a banner": says(b"SSH-2.0-rogue\r\n" + b"\xee" * 100_000),
    "old": says(b"SSH-1.5-rogue\r\n"),
    "banner of control characters": says(b"SSH-2.0-\x1b[2J\xff\xfe\r\n"),
    "endless lines": endless(b"wait a moment\r\n"),
    "one endless line": endless(b"wait "),
}


async def endless_packet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announce a packet of nearly 4 GiB, and send it without end."""
    writer.write(b"SSH-2.0-rogue\r\n\xff\xff\xff\xf0")
    await endless(b"\0" * 64)(reader, writer)


BANNERS["endless packet"] = endless_packet


class Honest(asyncssh.SFTPServer):
    """A server without a fault; sftp_rogue closes the files that it has opened."""

    opened: ClassVar[list[Any]] = []

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        file = super().open(path, pflags, attrs)
        self.opened.append(file)
        return file


def mute_at(request: str) -> type[asyncssh.SFTPServer]:
    """Return a server that never answers this request: lstat, open, fstat, read or close."""

    async def never(*arguments: object) -> Any:
        await asyncio.Event().wait()

    return type("Mute", (Honest,), {request: never})


def sized(change: Callable[[int], int]) -> type[asyncssh.SFTPServer]:
    """Return a server that reports change(size) as the size of each file."""

    def lie(found: os.stat_result) -> asyncssh.SFTPAttrs:
        attributes = asyncssh.SFTPAttrs.from_local(found)
        attributes.size = change(attributes.size or 0)
        return attributes

    class Liar(Honest):
        def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
            return lie(os.lstat(self.map_path(path)))

        def fstat(self, file_obj: Any) -> asyncssh.SFTPAttrs:
            return lie(os.fstat(file_obj.fileno()))

    return Liar


class Generous(Honest):
    """Answers a read with ten times the requested data."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return b"x" * min(10 * size, 4_000_000)


class Stingy(Honest):
    """Answers each read in time, but with one byte."""

    async def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        await asyncio.sleep(0.05)
        file_obj.seek(offset)
        read: bytes = file_obj.read(1)
        return read


class Rude(Honest):
    """Refuses with a text of terminal control sequences."""

    def lstat(self, path: bytes) -> Any:
        raise asyncssh.SFTPFailure("\x1b[2J\x1b]0;owned\x07" + "no " * 1000)


@asynccontextmanager
async def sftp_rogue(
    wrong: type[asyncssh.SFTPServer], directory: Path, host_key: Path
) -> AsyncIterator[int]:
    """Serve a directory's files to any user; yield the port on 127.0.0.1."""

    def serve(channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        return wrong(channel, chroot=os.fsencode(directory))

    try:
        async with _server(host_key, sftp_factory=serve) as port:
            yield port
    finally:
        while Honest.opened:
            Honest.opened.pop().close()


Say = Callable[["asyncssh.SSHServerChannel[bytes]"], Awaitable[None]]
"""The behaviour of a server in place of SFTP."""


@asynccontextmanager
async def subsystem_rogue(say: Say, host_key: Path) -> AsyncIterator[int]:
    """Run a coroutine in place of the SFTP server; yield the port on 127.0.0.1."""
    async with _server(host_key, say) as port:
        yield port


async def mute(channel: "asyncssh.SSHServerChannel[bytes]") -> None:
    """Send nothing."""


async def ends(channel: "asyncssh.SSHServerChannel[bytes]") -> None:
    """End at once, as nologin(8) does."""
    channel.write(b"This account is currently not available.\n")
    channel.exit(1)


async def floods(channel: "asyncssh.SSHServerChannel[bytes]") -> None:
    """Speak SFTP version 3, and then announce and send a packet of nearly 4 GiB."""
    channel.write(b"\0\0\0\5\2\0\0\0\3\xff\xff\xff\xf0")
    while not channel.is_closing():
        if channel.get_write_buffer_size() < 2**20:
            channel.write(bytes(2**16))
        await asyncio.sleep(0)


class _Session(asyncssh.SSHServerSession[bytes]):
    """Accepts every subsystem, and runs `say` in its place."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def connection_made(self, chan: "asyncssh.SSHServerChannel[bytes]") -> None:
        chan.set_encoding(None)
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def session_started(self) -> None:
        self._task = asyncio.ensure_future(self._say(self._channel))


class _Anybody(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


@asynccontextmanager
async def _server(host_key: Path, say: Say | None = None, **options: Any) -> AsyncIterator[int]:
    connections: list[asyncssh.SSHServerConnection] = []

    class Server(_Anybody):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            connections.append(conn)

        def session_requested(self) -> Any:
            return _Session(say) if say else True

    others = asyncio.all_tasks()
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[str(host_key)],
        config=None,
        gss_host=None,
        **options,
    )
    try:
        yield server.get_port()
    finally:
        server.close()
        await server.wait_closed()
        for connection in connections:
            connection.abort()
            await connection.wait_closed()
        # The task of a server that never answers does not end itself.
        left = asyncio.all_tasks() - others
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
