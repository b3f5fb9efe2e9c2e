"""Log in over SSH: with one key, to known hosts only, through a bastion if one is configured."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError, quote, why
from postfix_sync.sources import ssh_errors
from postfix_sync.sources.ssh_errors import Server
from postfix_sync.sources.ssh_host import (
    CIPHERS,
    KEEPALIVE,
    Hop,
    KnownHost,
    _name,
    abort,
    is_closing,
    lost,
)
from postfix_sync.sources.ssh_negotiation import no_common_algorithm, start_sftp
from postfix_sync.sources.ssh_session import Session
from postfix_sync.system.files import read_file
from postfix_sync.system.tcp import dial, resolve

if TYPE_CHECKING:
    import asyncssh


@dataclass(frozen=True)
class Jump:
    """A bastion: the same key logs in there, and the same file has its host key."""

    host: str
    port: int
    user: str


@dataclass(frozen=True)
class Login:
    """The host and the user to log in as, the key, and the file with the known hosts."""

    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path
    connect_timeout: float
    """Seconds for bastion and host each, from the first packet to a usable session."""
    jump: Jump | None = None


def _client(hop: Hop) -> "asyncssh.SSHClient":
    """Return the callbacks for asyncssh, which verifies that the server owns the key it offers."""
    import asyncssh  # noqa: PLC0415 - heavy: only loaded with an SSH source

    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            hop.guard(conn)

        def validate_host_public_key(
            self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey
        ) -> bool:
            return hop.accepts_key(key)

        def validate_host_ca_key(
            self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey
        ) -> bool:
            return hop.accepts_authority(key)

        def auth_completed(self) -> None:
            hop.logged_in = True

    return Client()


def _identity(file: Path) -> "asyncssh.SSHKey":
    """Read the private key. Raises NotPermitted."""
    import asyncssh  # noqa: PLC0415 - see above

    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ssh_errors.bad_identity(file)
        if found.st_mode & 0o077:
            raise ssh_errors.open_identity(file, found.st_mode)
        text = read_file(file)
    except OSError as error:
        raise ssh_errors.no_identity(file, why(error)) from None
    try:
        return asyncssh.import_private_key(text)
    except asyncssh.KeyEncryptionError:
        raise ssh_errors.encrypted_identity(file) from None
    except asyncssh.KeyImportError as error:
        if str(error).startswith("Passphrase"):
            raise ssh_errors.encrypted_identity(file) from None
        raise ssh_errors.bad_identity(file) from None


def _known(file: Path, server: Server) -> KnownHost:
    """Read the keys of a server from the known_hosts file. Raises NotPermitted.

    As in ssh(1), only the name counts, in upper or lower case, because another host may get the
    address. @revoked lines count whether or not they name the port.
    """
    import asyncssh  # noqa: PLC0415 - see above

    try:
        lines = [line.strip() for line in read_file(file).decode("utf-8", "replace").splitlines()]
    except OSError as error:
        raise ssh_errors.no_known_hosts(file, why(error), server) from None
    entries = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        try:
            marker, names, key = _entry(line)
            entries.append(f"{marker} {names} {key}")
            asyncssh.import_known_hosts(entries[-1])
            if marker == "@revoked":
                asyncssh.import_public_key(key)  # import_known_hosts() skips a key it can't read
        except ValueError:
            raise ssh_errors.bad_known_hosts(file, number, line) from None
    known = asyncssh.import_known_hosts("\n".join(entries))
    keys, authorities, *_ = known.match(server.host, "", None if server.port == 22 else server.port)
    # With a port, match() omits the port's @revoked lines when it falls back to the plain name.
    revoked = [*known.match(server.host, "", None)[2], *known.match(server.known_as, "", None)[2]]
    return KnownHost(file, tuple(keys), tuple(authorities), tuple(revoked))


def _entry(line: str) -> tuple[str, str, str]:
    """Return marker (or ""), names, and key of a line. Raises ValueError if a name is empty.

    Plain names are in lower case, as the configured hosts are, and as ssh(1) hashes names. The
    comment is omitted, because asyncssh rejects lines that are not ASCII.
    """
    fields = line.split()
    marker = fields.pop(0) if line.startswith("@") else ""
    names, *key = fields[:3]
    if not all(names.split(",")):
        raise ValueError("an empty name, which asyncssh would match with every host")
    return marker, names if names.startswith("|") else names.lower(), " ".join(key)


# --- the connection, through a bastion if one is configured


async def connect(login: Login, directory: PurePosixPath) -> "Session":
    """Log in and start SFTP. Raises NotPermitted or OutOfReach."""
    identity = _identity(login.identity)
    server, bastion = _servers(login)
    hops: list[Hop] = []
    try:
        if bastion:
            hops.append(Hop(bastion, _known(login.known_hosts, bastion)))
            async with _connecting(hops[0], login, identity):
                await _dial(hops[0], login)
                await _log_in(hops[0], identity)
        hops.append(Hop(server, _known(login.known_hosts, server)))
        async with _connecting(hops[-1], login, identity, bastion):
            if not bastion:
                await _dial(hops[-1], login)
            connection = await _log_in(hops[-1], identity, hops[0].connection if bastion else None)
            sftp = await start_sftp(connection, server)
    except BaseException:
        await abort(hops)
        raise
    return Session(hops, sftp, directory)


def _servers(login: Login) -> tuple[Server, Server | None]:
    """Return the host, and the bastion before it, or None."""
    jump = login.jump
    bastion = Server(jump.host, jump.port, jump.user, role="bastion") if jump else None
    server = Server(login.host, login.port, login.user, behind=f"{bastion}" if bastion else "")
    server = ssh_errors.by_hand(
        server, login.identity, login.known_hosts, login.connect_timeout, bastion
    )
    return server, replace(bastion, by_hand=server.by_hand) if bastion else None


async def _dial(hop: Hop, login: Login) -> None:
    """Open the TCP connection; each of the server's addresses gets an equal share of the time."""
    found = await resolve(hop.server.host, hop.server.port)
    hop.socket = await dial(found, login.connect_timeout / len(found))


async def _log_in(
    hop: Hop, identity: "asyncssh.SSHKey", tunnel: "asyncssh.SSHClientConnection | None" = None
) -> "asyncssh.SSHClientConnection":
    import asyncssh  # noqa: PLC0415 - see above

    connection = await asyncssh.connect(
        hop.server.host,
        hop.server.port,
        tunnel=tunnel,
        sock=hop.socket,
        config=None,
        client_factory=lambda: _client(hop),
        # asyncssh itself knows no host, so that it calls the client's callbacks for every key.
        known_hosts=([], [], []),
        x509_trusted_certs=None,
        server_host_key_algs=hop.known.algorithms,
        username=hop.server.user,
        client_keys=[identity],
        agent_path=None,
        preferred_auth="publickey",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        gss_kex=False,
        gss_auth=False,
        disable_trivial_auth=True,
        encryption_algs=CIPHERS,
        compression_algs=None,
        connect_timeout=None,  # the caller's
        login_timeout=0,
        keepalive_interval=KEEPALIVE,
        keepalive_count_max=3,
    )
    key = connection.get_server_host_key()
    if key in hop.known.revoked:
        # A revoked key with a certificate: asyncssh calls back for the certificate's CA only.
        raise ssh_errors.host_key_revoked(hop.server, _name(key), hop.known.file)
    return connection


@asynccontextmanager
async def _connecting(
    hop: Hop, login: Login, identity: "asyncssh.SSHKey", bastion: Server | None = None
) -> AsyncIterator[None]:
    """Limit the time of a connection, and raise every failure as a SyncError with the server."""
    try:
        async with asyncio.timeout(login.connect_timeout):
            yield
    except SyncError:
        raise
    except Exception as error:  # noqa: BLE001 - what a server sends decides what asyncssh raises
        if isinstance(error, TimeoutError) and not error.errno:  # ours, not the kernel's
            said = f"no answer {hop.phase} within {login.connect_timeout:g} s"
            raise ssh_errors.unreachable(hop.server, said) from None
        raise await _why_not(hop, login, _name(identity), bastion, error) from None


async def _why_not(
    hop: Hop, login: Login, key: str, bastion: Server | None, error: Exception
) -> SyncError:
    """Return the error for a connection that could not be made."""
    import asyncssh  # noqa: PLC0415 - see above

    server = hop.server
    said: SyncError = lost(hop, error)
    match error:
        case _ if hop.refusal:
            said = hop.refusal
        case asyncssh.HostKeyNotVerifiable():
            said = ssh_errors.host_certificate(server, "a known CA", str(error), login.known_hosts)
        case _ if found := no_common_algorithm(hop):
            said = found
        case asyncssh.PermissionDenied():
            said = ssh_errors.login_refused(server, login.identity, key)
        case asyncssh.ChannelOpenError() if bastion and not hop.connection:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                said = ssh_errors.no_forwarding(server, bastion, error.reason)
            else:
                said = ssh_errors.unreachable(
                    server, f"unreachable from the bastion: {quote(error.reason)}"
                )
        case _ if hop.logged_in and hop.connection and not await is_closing(hop.connection):
            said = ssh_errors.no_sftp(server)
    return said
