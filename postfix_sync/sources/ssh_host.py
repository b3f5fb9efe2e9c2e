"""One SSH server: its known host keys, and the progress of a connection to it."""

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import OutOfReach, SyncError, quote, why
from postfix_sync.sources import ssh_errors
from postfix_sync.sources.ssh_errors import Server

if TYPE_CHECKING:
    import asyncssh

KEEPALIVE = 15.0
"""Seconds without data before each of three keepalive requests to the server."""

CLOSE_TIMEOUT = 2.0
"""Seconds in which a connection must be closed in order."""

SLACK = 1024 * 1024
"""Bytes that a server may send in addition to the content that was requested."""

BEGINNING = 36_000
"""Bytes in which a server's version and its lists of algorithms fit (RFC 4253, 4.2 and 6.1)."""

HOST_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)

# The fastest first: asyncssh decrypted 68 MB at 200 MB/s with AES-GCM, at 140 MB/s with ChaCha20.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)

# asyncssh logs the errors that it raises; without a handler Python would print some of them.
logging.getLogger("asyncssh").addHandler(logging.NullHandler())


# --- one server


@dataclass(frozen=True)
class KnownHost:
    """The keys of one host in the known_hosts file."""

    file: Path
    keys: tuple["asyncssh.SSHKey", ...]
    authorities: tuple["asyncssh.SSHKey", ...]
    revoked: tuple["asyncssh.SSHKey", ...]

    @property
    def algorithms(self) -> list[str]:
        """Return all host key algorithms, those of known keys first.

        A server has keys of several types and offers the first type in this list that it has. The
        other algorithms follow, so that a host with another key offers that key, and a message can
        show it.
        """
        kinds = {key.get_algorithm() for key in self.keys}
        signers = [f"{name}-cert-v01@openssh.com" for name in HOST_KEYS if self.authorities]
        known = [n for n in HOST_KEYS if n in kinds or (n[:4] == "rsa-" and "ssh-rsa" in kinds)]
        return [*signers, *known, *(name for name in HOST_KEYS if name not in known)]


class Hop:
    """The state of one connection to a server: progress, refusals, bytes."""

    def __init__(self, server: Server, known: KnownHost) -> None:
        self.server = server
        self.known = known
        self.socket: socket.socket | None = None
        self.connection: asyncssh.SSHClientConnection | None = None
        self.refusal: SyncError | None = None
        """Why the server's host key is not accepted; None if it is, or was not checked yet."""
        self.logged_in = False
        self.begun = b""
        """The first bytes that the server has sent, at most BEGINNING."""
        self.allowance = SLACK
        """Bytes that the server may still send; below zero, it has sent unrequested data."""

    @property
    def phase(self) -> str:
        """Return the phase that the connection has reached, for messages."""
        if not self.connection:
            return "while connecting"
        if not self.connection.get_extra_info("server_version"):
            return "before its greeting"
        if not self.connection.get_server_host_key():
            return "in the key exchange"
        return "while starting SFTP" if self.logged_in else "at login"

    def allow(self, size: int) -> None:
        """Permit `size` more bytes of content, and an eighth for the headers of SSH and SFTP."""
        self.allowance += size + size // 8

    def guard(self, connection: "asyncssh.SSHClientConnection") -> None:
        """Abort the connection when the server sends far more data than was requested.

        asyncssh 2.20 buffers a packet of any length that a server announces, up to 4 GiB.
        """
        deliver = connection.data_received

        def data_received(data: bytes, datatype: int | None = None) -> None:
            self.allowance -= len(data)
            self.begun += data[: BEGINNING - len(self.begun)]
            if self.allowance < 0:
                connection.abort()
            else:
                deliver(data, datatype)

        connection.data_received = data_received  # type: ignore[method-assign]
        self.connection = connection

    def accepts_key(self, key: "asyncssh.SSHKey") -> bool:
        """Check whether a plain host key is known; set `refusal` if it is not."""
        known, offered = self.known, _name(key)
        if key in known.revoked:
            self.refusal = ssh_errors.host_key_revoked(self.server, offered, known.file)
        elif known.keys and key not in known.keys:
            others = tuple(map(_name, known.keys))
            self.refusal = ssh_errors.host_key_changed(self.server, offered, others, known.file)
        elif key not in known.keys:
            authorities = tuple(map(_name, known.authorities))
            self.refusal = ssh_errors.host_key_unknown(
                self.server, offered, authorities, known.file
            )
        return self.refusal is None

    def accepts_authority(self, key: "asyncssh.SSHKey") -> bool:
        """Check whether a host certificate's CA is known; set `refusal` if it is not."""
        known, offered = self.known, f"the CA {_name(key)}"
        if key in known.revoked:
            self.refusal = ssh_errors.host_key_revoked(self.server, offered, known.file)
        elif key not in known.authorities:
            unknown = "no such CA is known for this host"
            self.refusal = ssh_errors.host_certificate(self.server, offered, unknown, known.file)
        return self.refusal is None


def _name(key: "asyncssh.SSHKey") -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def lost(hop: Hop, error: Exception) -> OutOfReach:
    """Return the error for a connection that failed or ended: the server, the phase, the reason."""
    if hop.allowance < 0:
        return ssh_errors.unreachable(hop.server, f"sends data without end {hop.phase}")
    if isinstance(error, socket.gaierror):
        return ssh_errors.unreachable(
            hop.server, f"name unknown: {error.strerror}", f"getent ahosts {hop.server.host}"
        )
    if isinstance(error, OSError):
        return ssh_errors.unreachable(hop.server, why(error))
    said = f"connection lost {hop.phase}: {quote(str(error))}"
    return ssh_errors.unreachable(
        hop.server, said, ssh_errors.thrown_out(hop.server) if hop.logged_in else ""
    )


async def is_closing(connection: "asyncssh.SSHClientConnection") -> bool:
    """Check whether a connection is closed within 0.2 s: its channels end before it does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection.wait_closed()
    return connection.is_closed()


async def abort(hops: list[Hop]) -> None:
    """Drop connections, the innermost first, without notice to the servers."""
    for hop in reversed(hops):
        if hop.connection:
            hop.connection.abort()
    for hop in reversed(hops):
        if hop.connection:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await hop.connection.wait_closed()
    # asyncssh's tasks end one after the other, each in another iteration of the event loop.
    for _ in range(5):
        await asyncio.sleep(0)
    for hop in hops:
        if hop.socket:
            hop.socket.close()  # asyncssh closes only a socket that it has used
