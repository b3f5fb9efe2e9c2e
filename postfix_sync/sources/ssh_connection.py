"""SSH and SFTP: a login with one key on one known host, and what is asked of it then.

asyncssh does the cryptography. Decided here is whom to believe: the host's key must be in one
known_hosts file, for the bastion as well, and nothing but the configured identity is ever used: no
agent, no ~/.ssh, no password. Whatever a server does or fails to do, a request ends in time, with
bounded memory, in an answer or in a SyncError.
"""

import asyncio
import contextlib
import io
import logging
import socket
import stat
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from postfix_sync.dial import dial, resolve
from postfix_sync.errors import OutOfReach, SyncError, quote, why
from postfix_sync.sources import NAMES
from postfix_sync.sources import ssh_errors as say
from postfix_sync.sources.ssh_errors import Server
from postfix_sync.system import read_file

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

READ_TIMEOUT = 30.0
"""Seconds in which an SFTP request must be answered, and a read must get on by one block."""

KEEPALIVE = 15.0
"""Seconds of silence after which the other side is asked whether it is there; three times."""

CLOSE_TIMEOUT = 2.0
"""Seconds for an orderly goodbye."""

IN_FLIGHT = 16
"""Read requests under way at once, for each file. With `BLOCK` it fills asyncssh's window."""

BLOCK = 255 * 1024
"""Bytes of one read request: the most that OpenSSH answers."""

BLOCK_AT_LEAST = 32 * 1024
"""Bytes: what every server has to answer, whatever it announces."""

SLACK = 1024 * 1024
"""Bytes that a server may send without having been asked for a file's content."""

# The fastest first: of 68 MB, asyncssh decrypted some 200 MB/s with AES-GCM, 140 with ChaCha20.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)

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


# --- one server


@dataclass(frozen=True)
class _Known:
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


class _Hop:
    """What is known of one server while, and after, a connection to it is made."""

    def __init__(self, server: Server, known: _Known) -> None:
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


def _client(hop: _Hop) -> "asyncssh.SSHClient":
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


def _known(file: Path, server: Server) -> _Known:
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
    return _Known(file, tuple(keys), tuple(authorities), tuple(revoked))


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
    hops: list[_Hop] = []
    try:
        if bastion:
            hops.append(_Hop(bastion, _known(login.known_hosts, bastion)))
            async with _told(hops[0], login, identity):
                await _dial(hops[0], login)
                await _log_in(hops[0], identity)
        hops.append(_Hop(server, _known(login.known_hosts, server)))
        async with _told(hops[-1], login, identity, bastion):
            if not bastion:
                await _dial(hops[-1], login)
            connection = await _log_in(hops[-1], identity, hops[0].connection if bastion else None)
            sftp = await connection.start_sftp_client()
    except BaseException:
        await _abort(hops)
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


async def _dial(hop: _Hop, login: Login) -> None:
    """Makes the TCP connection. Each of the server's addresses has its share of the time."""
    found = await resolve(hop.server.host, hop.server.port)
    hop.socket = await dial(found, login.connect_timeout / len(found))


async def _log_in(
    hop: _Hop, identity: "asyncssh.SSHKey", tunnel: "asyncssh.SSHClientConnection | None" = None
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
    hop: _Hop, login: Login, identity: "asyncssh.SSHKey", bastion: Server | None = None
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
    hop: _Hop, login: Login, key: str, bastion: Server | None, error: Exception
) -> SyncError:
    """What kept a connection from being made."""
    import asyncssh  # noqa: PLC0415 - see above

    server = hop.server
    said: SyncError = _lost(hop, error)
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
        case _ if hop.logged_in and hop.connection and not await _has_gone(hop.connection):
            said = say.no_sftp(server)
    return said


def _lost(hop: _Hop, error: Exception) -> OutOfReach:
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


async def _has_gone(connection: "asyncssh.SSHClientConnection") -> bool:
    """Whether a connection is closed, or will be in a moment: its channels end before it does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection.wait_closed()
    return connection.is_closed()


async def _abort(hops: list[_Hop]) -> None:
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


class Session:
    """An SFTP session on the connection to the host."""

    def __init__(
        self, hops: list[_Hop], sftp: "asyncssh.SFTPClient", directory: PurePosixPath
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
        await _abort(self._hops)

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
