"""The probe: check whether Mailman's LMTP server is up and accepts mail for its lists.

A session has the phases of RFC 2033 up to RCPT for one list's address, then RSET and QUIT; it never
sends DATA. The probe checks the code of every reply, and every phase has its own timeout. An open
TCP connection proves little, because Docker's proxy accepts connections for a container that does
not run; the greeting 220 proves that Mailman runs.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from postfix_sync.errors import quote, why
from postfix_sync.model.notice import Notice
from postfix_sync.model.probe_result import PHASES, ProbeResult
from postfix_sync.probe.targets import Target
from postfix_sync.system.tcp import dial, resolve

if TYPE_CHECKING:
    from aiosmtplib import SMTP

LEVELS = {"connect": "greeting", "lhlo": "lhlo", "rcpt": "rcpt"}
"""The last phase of each level."""

REPLY_LENGTH = 80
"""Characters of a reply that a message quotes."""

AT_ONCE = 50
"""Probes under way at the same time, with three open files each."""

SESSION_BYTES = 64 * 2**10
"""Bytes that a server may send in one session. Mailman sends less than 2 KiB."""

_VERSIONS = {socket.AF_INET: 4, socket.AF_INET6: 6}

MAILMAN = "GNU Mailman"
"""The text in the greeting of every Mailman 3: `220 HOST GNU Mailman LMTP runner 2.0`."""

NOBODY = "postfix-sync/no-such-list"
"""A local part that no list has: Mailman permits no slash in a list's name (app/lifecycle.py)."""

REFUSED_FOR_GOOD = ("lhlo", "mail", "rcpt")
"""Phases in which Postfix returns mail for a 5xx reply; it treats a 5xx greeting as a 4xx."""


async def probe_all(
    wanted: Iterable[Target],
    level: str,
    timeout: float,
    hosts: Mapping[str, str],
    *,
    within: float | None = None,
) -> list[ProbeResult]:
    """Probe all targets, AT_ONCE of them at the same time; see `probe`.

    `timeout` is in seconds, for each phase. If `within` is given, all probes together end after
    that many seconds.
    """
    turn = asyncio.Semaphore(AT_ONCE)
    deadline = None if within is None else asyncio.get_running_loop().time() + within

    async def in_turn(target: Target) -> ProbeResult:
        async with turn:
            return await probe(target, level, timeout, hosts, deadline)

    return list(await asyncio.gather(*map(in_turn, wanted)))


async def probe(
    target: Target,
    level: str,
    timeout: float,
    hosts: Mapping[str, str],
    deadline: float | None = None,
) -> ProbeResult:
    """Run an LMTP session up to `level`; never raise for what a server does.

    `timeout` is in seconds, for each phase; at `deadline`, a time of the event loop's clock, the
    probe ends in whatever phase it is. `hosts` maps host names to known IP addresses: those names
    are not looked up.
    """
    from aiosmtplib import SMTPException, SMTPServerDisconnected  # noqa: PLC0415 - only for probes

    session = _Session(target, timeout)
    error, barred = "", False
    try:
        async with asyncio.timeout_at(deadline) as whole:
            await session.run(LEVELS[level], hosts)
    except TimeoutError:
        error = "no time left" if whole.expired() else f"no answer within {timeout:g} s"
    except SMTPServerDisconnected:
        error = session.why_lost()
    except SMTPException as failure:
        error = _one_line(str(failure.args[-1] if failure.args else failure))
    except OSError as failure:
        error = str(failure.strerror) if isinstance(failure, socket.gaierror) else why(failure)
    except (_UnexpectedReplyError, _BarredError) as failure:
        error = str(failure)
        barred = isinstance(failure, _BarredError)
    finally:
        await session.close()
    return ProbeResult(
        destination=target.destination,
        up=not error,
        phase=session.phase,
        reply=session.reply,
        seconds=round(time.monotonic() - session.began, 4),
        error=error,
        warning="" if error else session.warning,
        offers=session.offers,
        barred=barred,
    )


_HINTS = {
    "resolve": "see what the name resolves to: getent hosts {host}; or set sources.address",
    "connect": "check that Mailman runs and listens on this address: ss -ltn; mailman status",
    "greeting": "something other than Mailman may answer there, such as a container's proxy",
    "lhlo": "compare {host} and its port with lmtp_host and lmtp_port in mailman.cfg",
    "mail": "see Mailman's log: var/logs/lmtp.log and var/logs/mailman.log",
    "rcpt": "check that its database is up, and that this Mailman has the list: mailman lists",
}


def describe(result: ProbeResult) -> Notice:
    """Describe a result; the hint helps if the destination is down, or its replies are odd."""
    endpoint = result.destination.endpoint
    about = f"destination {endpoint}"
    if result.up:
        up = f"{about}: up ({result.phase}: {result.reply}), {result.seconds:g} s"
        if not result.warning:
            return Notice(up)
        hint = _UPDATE if NOBODY in result.warning else _HINTS["greeting"]
        return Notice(f"{up}; but {result.warning}", hint)
    said = f" ({result.reply})" if result.reply else ""
    return Notice(
        f"{about}: down: {result.phase}: {result.error}{said}; {consequence(result)}",
        _BARRED if result.barred else _HINTS[result.phase].format(host=result.destination.host),
    )


def consequence(result: ProbeResult) -> str:
    """Describe what Postfix does with mail for a destination that is down for this reason."""
    if result.barred:
        return "Postfix returns mail for it to its sender"
    if result.phase in REFUSED_FOR_GOOD and result.reply.startswith("5"):
        whose = "this list" if result.phase == "rcpt" else "it"
        return f"Postfix returns mail for {whose} to its sender"
    return "mail for it is deferred"


_BARRED = (
    "doctor prints the command that permits lmtp(8) to use that family; or set the source's"
    " address: or destination: to one that Postfix may use"
)

_UPDATE = "update Mailman: 3.3.6 and later refuse an address that no list has"


class _UnexpectedReplyError(Exception):
    """A reply with another code than the phase needs."""


class _BarredError(Exception):
    """The destination resolves only to addresses of a family that Postfix must not use."""


class _Session:
    """One LMTP session, and the last phase that it reached."""

    def __init__(self, target: Target, timeout: float) -> None:
        self.target = target
        self.timeout = timeout
        self.phase = PHASES[0]
        self.reply = ""
        self.offers: tuple[str, ...] = ()
        self.warning = ""
        """What is odd about a server that accepts mail."""
        self.began = time.monotonic()
        self._client: SMTP | None = None
        self._relay: asyncio.Task[bool] | None = None

    async def run(self, last: str, hosts: Mapping[str, str]) -> None:
        """Run the session up to the phase `last`, then RSET and QUIT. Raises as a client does."""
        from aiosmtplib import SMTPServerDisconnected  # noqa: PLC0415

        connection = await self._connected(hosts)
        self._client = client = await self._greeted(connection)
        for phase, command, expected in _dialogue(last, self.target.recipient):
            self._enter(phase)
            self.reply = await self._send(client, command, expected)
        if self.phase == "rcpt" and self.target.doubting and not self.warning:
            await self._doubt(client)
        if self.phase in {"mail", "rcpt"}:
            await self._send(client, b"RSET", 250)
        with contextlib.suppress(SMTPServerDisconnected):  # the probe has its result already
            await self._send(client, b"QUIT", 221)

    async def _send(self, client: "SMTP", command: bytes, expected: int) -> str:
        """Send a command; return its reply. Raises _UnexpectedReplyError for another code."""
        code, text = await client.execute_command(command, timeout=self.timeout)
        reply = _one_line(f"{code} {text}")
        if command.startswith(b"LHLO"):
            self.offers = tuple(line.strip().upper() for line in text.splitlines()[1:])
        if code != expected:
            self.reply = reply
            verb = command.split()[0].decode()
            problem = f"{verb} was answered with {code}, not {expected}"
            if verb == "LHLO" and code >= 500:
                problem += ": this is not an LMTP server"
            raise _UnexpectedReplyError(problem)
        return reply

    async def _doubt(self, client: "SMTP") -> None:
        """Check whether the server also accepts mail for an address that no list can have."""
        domain = (self.target.recipient or "").rpartition("@")[2]
        command = _rcpt(f"{NOBODY}@{domain}")
        code, text = await client.execute_command(command, timeout=self.timeout)
        if code == 250:
            self.warning = (
                f"it also says {_one_line(f'{code} {text}')} to {NOBODY}@{domain}, which cannot be"
                " a list: its replies do not show which lists exist"
            )

    def _enter(self, phase: str) -> None:
        """Begin a phase, which has no reply yet."""
        self.phase, self.reply = phase, ""

    async def _connected(self, hosts: Mapping[str, str]) -> socket.socket:
        """Connect to the first address of the destination that accepts a connection.

        Raises OSError, TimeoutError, or _BarredError if Postfix may use none of its addresses.
        """
        host, port = self.target.destination.host, self.target.destination.port
        async with asyncio.timeout(self.timeout):
            found = await resolve(hosts.get(host, host), port)
        families = self.target.families
        usable = [address for address in found if _VERSIONS.get(address[0]) in families]
        if found and not usable:
            addresses = ", ".join(str(address[4][0]) for address in found)
            raise _BarredError(
                f"it resolves only to {addresses}, which inet_protocols keeps Postfix from using"
            )
        self._enter("connect")
        return await dial(usable, self.timeout)

    async def _greeted(self, connection: socket.socket) -> "SMTP":
        from aiosmtplib import SMTP, SMTPConnectError, SMTPConnectResponseError  # noqa: PLC0415

        self._enter("greeting")
        ours, relayed = socket.socketpair()
        self._relay = asyncio.create_task(_relay(connection, relayed))
        client = SMTP(sock=ours, use_tls=False, start_tls=False, timeout=self.timeout)
        try:
            code, text = await client.connect()
        except SMTPConnectResponseError as error:
            self.reply = _one_line(f"{error.code} {error.message}")
            raise _UnexpectedReplyError(f"the greeting was {error.code}, not 220") from None
        except SMTPConnectError as error:
            if isinstance(error, TimeoutError):
                raise
            raise _UnexpectedReplyError(self.why_lost()) from None
        finally:
            if not client.is_connected:
                ours.close()
        self.reply = _one_line(f"{code} {text}")
        if MAILMAN not in text:
            self.warning = f"it greets with {self.reply}: this is not Mailman"
        return client

    def why_lost(self) -> str:
        """Return why the connection has ended."""
        if self._relay and self._relay.done() and self._relay.result():
            return f"it sent more than {SESSION_BYTES // 1024} KiB: this is not an LMTP server"
        if self.phase == "greeting":
            return "the connection was closed without a greeting: no server is behind that port"
        return "the connection was closed"

    async def close(self) -> None:
        """Close the connection."""
        if self._client:
            self._client.close()
        if self._relay:
            self._relay.cancel()
            await asyncio.wait([self._relay])


async def _relay(server: socket.socket, client: socket.socket) -> bool:
    """Forward between both until either closes; return if the server sent SESSION_BYTES or more.

    aiosmtplib before 5.1.1 reads without a bound; this relay bounds what a server can make it read.
    """
    loop = asyncio.get_running_loop()
    client.setblocking(False)

    async def forward(source: socket.socket, sink: socket.socket, limit: int) -> bool:
        with contextlib.suppress(OSError):
            while limit and (said := await loop.sock_recv(source, min(limit, 4096))):
                limit -= len(said)
                await loop.sock_sendall(sink, said)
        return not limit

    with server, client:
        ways = [
            asyncio.create_task(forward(server, client, SESSION_BYTES)),
            asyncio.create_task(forward(client, server, SESSION_BYTES)),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
        return any(way.result() for way in done)


def _dialogue(last: str, recipient: str | None) -> Iterator[tuple[str, bytes, int]]:
    """Yield each phase up to `last`, its command, and the code that the reply must have."""
    reached = PHASES.index(last)
    if reached >= PHASES.index("lhlo"):
        yield "lhlo", f"LHLO {socket.gethostname() or 'localhost'}".encode(), 250
    if reached >= PHASES.index("rcpt"):
        yield "mail", b"MAIL FROM:<>", 250
        if recipient:
            yield "rcpt", _rcpt(recipient), 250


def _rcpt(recipient: str) -> bytes:
    return f"RCPT TO:<{recipient}>".encode()


def _one_line(text: str) -> str:
    """Return a server's text as one line for a message: escaped, and cut to REPLY_LENGTH."""
    return quote(" ".join(text.split()), REPLY_LENGTH)[1:-1]
