"""Log in over SSH: one key, known hosts only, through a bastion if there is one."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError, quote, why
from postfix_sync.sources import ssh_errors as say
from postfix_sync.sources.ssh_errors import Server
from postfix_sync.sources.ssh_host import KEEPALIVE, Hop, KnownHost, _name, abort, has_gone, lost
from postfix_sync.sources.ssh_session import Session
from postfix_sync.system.files import read_file
from postfix_sync.system.tcp import dial, resolve

if TYPE_CHECKING:
    import asyncssh

# The fastest first: of 68 MB, asyncssh decrypted some 200 MB/s with AES-GCM, 140 with ChaCha20.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)


@dataclass(frozen=True)
class Jump:
    """A bastion; the same key logs in there, and its host key is looked up in the same file."""

    host: str
    port: int
    user: str


@dataclass(frozen=True)
class Login:
    """Where to log in, as whom, with which key, and how the host is known."""

    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path
    connect_timeout: float
    """Seconds for each of bastion and host, from the first packet to a usable session."""
    jump: Jump | None = None


def _client(hop: Hop) -> "asyncssh.SSHClient":
    """asyncssh's callbacks; asyncssh itself verifies that the server has the key it offers."""
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
    """The private key. Raises NotPermitted."""
    import asyncssh  # noqa: PLC0415 - see above

    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise say.bad_identity(file)
        if found.st_mode & 0o077:
            raise say.open_identity(file, found.st_mode)
        text = read_file(file)
    except OSError as error:
        raise say.no_identity(file, why(error)) from None
    try:
        return asyncssh.import_private_key(text)
    except asyncssh.KeyEncryptionError:
        raise say.encrypted_identity(file) from None
    except asyncssh.KeyImportError as error:
        if str(error).startswith("Passphrase"):
            raise say.encrypted_identity(file) from None
        raise say.bad_identity(file) from None


def _known(file: Path, server: Server) -> KnownHost:
    """What the known_hosts file says of a server. Raises NotPermitted.

    By name only, as ssh(1) does: an address may be another host's tomorrow. In capitals or not.
    @revoked lines count whether or not they name the port.
    """
    import asyncssh  # noqa: PLC0415 - see above

    try:
        lines = [line.strip() for line in read_file(file).decode("utf-8", "replace").splitlines()]
    except OSError as error:
        raise say.no_known_hosts(file, why(error), server) from None
    entries = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        try:
            marker, names, key = _entry(line)
            entries.append(f"{marker} {names} {key}")
            asyncssh.import_known_hosts(entries[-1])
            if marker == "@revoked":
                asyncssh.import_public_key(key)  # the line before passes over what it can't read
        except ValueError:
            raise say.bad_known_hosts(file, number, line) from None
    known = asyncssh.import_known_hosts("\n".join(entries))
    keys, authorities, *_ = known.match(server.host, "", None if server.port == 22 else server.port)
    # Asked by port, match() would forget those of the port when it falls back to the plain name.
    revoked = [*known.match(server.host, "", None)[2], *known.match(server.known_as, "", None)[2]]
    return KnownHost(file, tuple(keys), tuple(authorities), tuple(revoked))


def _entry(line: str) -> tuple[str, str, str]:
    """Marker or nothing, names, and key of a line. Raises ValueError where there are no names.

    Names are in lower case, as hosts are, and names before they are hashed. A comment is left out:
    asyncssh does not read lines that are not ASCII.
    """
    fields = line.split()
    marker = fields.pop(0) if line.startswith("@") else ""
    names, *key = fields[:3]
    if not all(names.split(",")):
        raise ValueError("an empty name, which asyncssh would find for every host")
    return marker, names if names.startswith("|") else names.lower(), " ".join(key)


# --- the connection, by way of a bastion if need be


async def connect(login: Login, directory: PurePosixPath) -> "Session":
    """Logs in and starts SFTP. Raises NotPermitted or OutOfReach."""
    identity = _identity(login.identity)
    server, bastion = _servers(login)
    hops: list[Hop] = []
    try:
        if bastion:
            hops.append(Hop(bastion, _known(login.known_hosts, bastion)))
            async with _told(hops[0], login, identity):
                await _dial(hops[0], login)
                await _log_in(hops[0], identity)
        hops.append(Hop(server, _known(login.known_hosts, server)))
        async with _told(hops[-1], login, identity, bastion):
            if not bastion:
                await _dial(hops[-1], login)
            connection = await _log_in(hops[-1], identity, hops[0].connection if bastion else None)
            sftp = await connection.start_sftp_client()
    except BaseException:
        await abort(hops)
        raise
    return Session(hops, sftp, directory)


def _servers(login: Login) -> tuple[Server, Server | None]:
    """The host, and the bastion before it."""
    jump = login.jump
    bastion = Server(jump.host, jump.port, jump.user, role="bastion") if jump else None
    server = Server(login.host, login.port, login.user, behind=f"{bastion}" if bastion else "")
    by_hand = say.by_hand(server, login.identity, login.known_hosts, login.connect_timeout, bastion)
    server = replace(server, by_hand=by_hand)
    return server, replace(bastion, by_hand=by_hand) if bastion else None


async def _dial(hop: Hop, login: Login) -> None:
    """Makes the TCP connection. Each of the server's addresses has its share of the time."""
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
        # asyncssh itself knows no host, so that it asks the client about every key.
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
        # One that has a certificate: asyncssh asks about its CA alone.
        raise say.host_key_revoked(hop.server, _name(key), hop.known.file)
    return connection


@asynccontextmanager
async def _told(
    hop: Hop, login: Login, identity: "asyncssh.SSHKey", bastion: Server | None = None
) -> AsyncIterator[None]:
    """Gives whatever goes wrong while a server is connected to its name, and an end in time."""
    try:
        async with asyncio.timeout(login.connect_timeout):
            yield
    except SyncError:
        raise
    except Exception as error:  # noqa: BLE001 - what a server sends decides what asyncssh raises
        if isinstance(error, TimeoutError) and not error.errno:  # ours, not the kernel's
            said = f"no answer {hop.phase} within {login.connect_timeout:g} s"
            raise say.unreachable(hop.server, said) from None
        raise await _why_not(hop, login, _name(identity), bastion, error) from None


async def _why_not(
    hop: Hop, login: Login, key: str, bastion: Server | None, error: Exception
) -> SyncError:
    """What kept a connection from being made."""
    import asyncssh  # noqa: PLC0415 - see above

    server = hop.server
    said: SyncError = lost(hop, error)
    match error:
        case _ if hop.refusal:
            said = hop.refusal
        case asyncssh.HostKeyNotVerifiable():
            said = say.host_certificate(server, "a known CA", str(error), login.known_hosts)
        case asyncssh.PermissionDenied():
            said = say.login_refused(server, login.identity, key)
        case asyncssh.ChannelOpenError() if bastion and not hop.connection:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                said = say.no_forwarding(server, bastion, error.reason)
            else:
                said = say.unreachable(server, f"no way from there: {quote(error.reason)}")
        case _ if hop.logged_in and hop.connection and not await has_gone(hop.connection):
            said = say.no_sftp(server)
    return said
