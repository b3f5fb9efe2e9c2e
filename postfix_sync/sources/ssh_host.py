"""One SSH server: its known host keys, and how far a connection to it got."""

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import OutOfReach, SyncError, quote, why
from postfix_sync.sources import ssh_errors as say
from postfix_sync.sources.ssh_errors import Server

if TYPE_CHECKING:
    import asyncssh

KEEPALIVE = 15.0
"""Seconds of silence after which the other side is asked whether it is there; three times."""

CLOSE_TIMEOUT = 2.0
"""Seconds for an orderly goodbye."""

SLACK = 1024 * 1024
"""Bytes that a server may send without having been asked for a file's content."""

HOST_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)

# asyncssh logs what it then raises; without a handler Python would print some of it.
logging.getLogger("asyncssh").addHandler(logging.NullHandler())


# --- one server


@dataclass(frozen=True)
class KnownHost:
    """What the known_hosts file says of one host."""

    file: Path
    keys: tuple["asyncssh.SSHKey", ...]
    authorities: tuple["asyncssh.SSHKey", ...]
    revoked: tuple["asyncssh.SSHKey", ...]

    @property
    def algorithms(self) -> list[str]:
        """Host key algorithms, the known ones first: a server has keys of several types.

        The others are named all the same, so that a host that has another key shows it.
        """
        kinds = {key.get_algorithm() for key in self.keys}
        signers = [f"{name}-cert-v01@openssh.com" for name in HOST_KEYS if self.authorities]
        known = [n for n in HOST_KEYS if n in kinds or (n[:4] == "rsa-" and "ssh-rsa" in kinds)]
        return [*signers, *known, *(name for name in HOST_KEYS if name not in known)]


class Hop:
    """What is known of one server while, and after, a connection to it is made."""

    def __init__(self, server: Server, known: KnownHost) -> None:
        self.server = server
        self.known = known
        self.socket: socket.socket | None = None
        self.connection: asyncssh.SSHClientConnection | None = None
        self.refusal: SyncError | None = None
        """What is wrong with its host key."""
        self.logged_in = False
        self.allowance = SLACK
        """How many more bytes it may send; below zero, it has sent what nobody asked for."""

    @property
    def phase(self) -> str:
        """How far it got."""
        if not self.connection:
            return "while connecting"
        if not self.connection.get_extra_info("server_version"):
            return "before its greeting"
        if not self.connection.get_server_host_key():
            return "in the key exchange"
        return "while starting SFTP" if self.logged_in else "at login"

    def allow(self, size: int) -> None:
        """Lets the server send `size` bytes of content, with what SSH and SFTP add to them."""
        self.allowance += size + size // 8

    def guard(self, connection: "asyncssh.SSHClientConnection") -> None:
        """Aborts the connection when the server sends far more than it was asked for.

        asyncssh 2.20 would collect packets of any length that a server announces, up to 4 GiB.
        """
        deliver = connection.data_received

        def data_received(data: bytes, datatype: int | None = None) -> None:
            self.allowance -= len(data)
            if self.allowance < 0:
                connection.abort()
            else:
                deliver(data, datatype)

        connection.data_received = data_received  # type: ignore[method-assign]
        self.connection = connection

    def accepts_key(self, key: "asyncssh.SSHKey") -> bool:
        """Whether a plain host key is one of the known ones."""
        known, offered = self.known, _name(key)
        if key in known.revoked:
            self.refusal = say.host_key_revoked(self.server, offered, known.file)
        elif known.keys and key not in known.keys:
            others = tuple(map(_name, known.keys))
            self.refusal = say.host_key_changed(self.server, offered, others, known.file)
        elif key not in known.keys:
            authorities = tuple(map(_name, known.authorities))
            self.refusal = say.host_key_unknown(self.server, offered, authorities, known.file)
        return self.refusal is None

    def accepts_authority(self, key: "asyncssh.SSHKey") -> bool:
        """Whether a host certificate's CA is one of the known ones."""
        known, offered = self.known, f"the CA {_name(key)}"
        if key in known.revoked:
            self.refusal = say.host_key_revoked(self.server, offered, known.file)
        elif key not in known.authorities:
            unknown = "no such CA is known for this host"
            self.refusal = say.host_certificate(self.server, offered, unknown, known.file)
        return self.refusal is None


def _name(key: "asyncssh.SSHKey") -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def lost(hop: Hop, error: Exception) -> OutOfReach:
    """The server is not there, is no SSH server, or went away."""
    if hop.allowance < 0:
        return say.unreachable(hop.server, f"sends data without end {hop.phase}")
    if isinstance(error, socket.gaierror):
        return say.unreachable(
            hop.server, f"name unknown: {error.strerror}", f"getent ahosts {hop.server.host}"
        )
    if isinstance(error, OSError):
        return say.unreachable(hop.server, why(error))
    said = f"connection lost {hop.phase}: {quote(str(error))}"
    return say.unreachable(hop.server, said, say.thrown_out(hop.server) if hop.logged_in else "")


async def has_gone(connection: "asyncssh.SSHClientConnection") -> bool:
    """Whether a connection is closed, or will be in a moment: its channels end before it does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection.wait_closed()
    return connection.is_closed()


async def abort(hops: list[Hop]) -> None:
    """Drops connections, the inner one first, without a word to the other side."""
    for hop in reversed(hops):
        if hop.connection:
            hop.connection.abort()
    for hop in reversed(hops):
        if hop.connection:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await hop.connection.wait_closed()
    # asyncssh's tasks see the end one after the other, each at its next turn.
    for _ in range(5):
        await asyncio.sleep(0)
    for hop in hops:
        if hop.socket:
            hop.socket.close()  # asyncssh does, if it came to use it
