"""Recognize servers with which nothing can be negotiated: no common algorithm, or no SFTP.

Both stay so until an operator changes the server, and asyncssh reports neither as such: with no
common host key algorithm the server hangs up, and a text before SFTP is read as a length.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from postfix_sync.errors import NotPermitted
from postfix_sync.sources import ssh_errors
from postfix_sync.sources.ssh_errors import Server
from postfix_sync.sources.ssh_host import CIPHERS, Hop

if TYPE_CHECKING:
    import asyncssh

MORE = 0.2
"""Seconds to wait for the rest of a text that comes instead of SFTP."""

SAID_AT_MOST = 200
"""Bytes of that text to read."""

_KEXINIT = 20
"""The message number of the lists of algorithms (RFC 4253, section 7.1)."""

_BEFORE_LISTS = 18
"""The bytes before the lists: the length of the padding, the message number, the cookie."""

LISTS = 10
"""Key exchanges, host keys, ciphers, MACs, compressions, languages; the last four twice."""

_EXTENSIONS = ("ext-info-", "kex-strict-")
"""The beginnings of names in the list of key exchanges that name an extension (RFC 8308)."""

_WITHOUT_MAC = ("gcm@openssh.com", "poly1305@openssh.com")
"""The ends of the names of ciphers that need no MAC."""


def no_common_algorithm(hop: Hop) -> NotPermitted | None:
    """Return the error for a server without a common algorithm; None if there is another cause.

    The server's list is compared here, because asyncssh reports that the connection is lost if the
    server, which compares the lists, too, closes it soon enough.
    """
    from asyncssh import kex, mac  # noqa: PLC0415 - heavy: only loaded with an SSH source

    offered = _offered(hop.begun)
    if offered is None or (hop.connection and hop.connection.get_server_host_key()):
        return None
    exchanges, host_keys, ciphers, _, macs, *_ = offered
    for what, ours, theirs in (
        ("key exchange", _names(kex.get_default_kex_algs()), exchanges),
        ("host key", hop.known.algorithms, host_keys),
        ("encryption", CIPHERS, ciphers),
    ):
        common = [name for name in ours if name in theirs]
        if not common:
            return ssh_errors.nothing_in_common(hop.server, what, ours, theirs)
    ours = _names(mac.get_default_mac_algs())
    if common[0].endswith(_WITHOUT_MAC) or {*ours} & {*macs}:
        return None
    return ssh_errors.nothing_in_common(hop.server, "MAC", ours, macs)


def _names(algorithms: Iterable[bytes]) -> list[str]:
    return [name.decode("ascii") for name in algorithms]


def _offered(begun: bytes) -> list[list[str]] | None:
    """Return the lists of algorithms that a server offers; None if it has not sent them all.

    `begun` are the first bytes from the server: lines, the last of which is its version, and then a
    packet that is not encrypted, with the lists (RFC 4253, sections 4.2, 6 and 7.1).
    """
    version = re.search(rb"^SSH-[^\n]*\n", begun, re.MULTILINE)
    if not version:
        return None
    length = int.from_bytes(begun[version.end() :][:4], "big")
    packet = begun[version.end() + 4 :][:length]
    if len(packet) < length or packet[1:2] != bytes([_KEXINIT]):
        return None
    rest, lists = packet[_BEFORE_LISTS:], []
    for _ in range(LISTS):
        end = 4 + int.from_bytes(rest[:4], "big")
        if len(rest) < end:
            return None
        names = rest[4:end].decode("ascii", "replace").split(",")
        lists.append([name for name in names if name and not name.startswith(_EXTENSIONS)])
        rest = rest[end:]
    return lists


async def start_sftp(
    connection: "asyncssh.SSHClientConnection", server: Server
) -> "asyncssh.SFTPClient":
    """Start SFTP. Raises NotPermitted if a text comes instead of it, and what asyncssh raises."""
    opening = connection.open_session

    async def open_session(*arguments: Any, **options: Any) -> tuple[Any, Any, Any]:
        writer, reader, errors = await opening(*arguments, **options)
        _check_first(reader, server)
        return writer, reader, errors

    connection.open_session = open_session  # type: ignore[method-assign]
    try:
        return await connection.start_sftp_client()
    finally:
        del connection.open_session


def _check_first(reader: Any, server: Server) -> None:
    """Have the first read of a packet's length raise NotPermitted if it reads a text.

    The first packet has a version and some extensions, far below 16 MiB (OpenSSH's protocol.h has
    256 KiB as the limit), so the first byte of its length is 0, which no text begins with.
    """
    reading = reader.readexactly

    async def first(size: int) -> Any:
        del reader.readexactly
        try:
            begun = await reading(size)
        except asyncio.IncompleteReadError as error:
            if error.partial and error.partial[0]:
                raise ssh_errors.not_sftp(server, error.partial) from None
            raise
        if not begun[0]:
            return begun
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MORE):
                begun += await reader.read(SAID_AT_MOST)
        raise ssh_errors.not_sftp(server, begun)

    reader.readexactly = first
