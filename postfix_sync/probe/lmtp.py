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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from postfix_sync.errors import quote, why
from postfix_sync.model.destination import Destination, family_of
from postfix_sync.model.probe_result import PHASES, ProbeResult
from postfix_sync.postfix.lmtp_client import LmtpClient
from postfix_sync.probe.notice import EXCLUDED, NO_TLS, NOBODY
from postfix_sync.probe.targets import Target
from postfix_sync.system.tcp import dial, place

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

MAILMAN = "GNU Mailman"
"""The text in the greeting of every Mailman 3: `220 HOST GNU Mailman LMTP runner 2.0`."""

REFUSED_FOR_GOOD = ("lhlo", "mail", "rcpt")
"""Phases in which Postfix returns mail for a 5xx reply; it treats a 5xx greeting as a 4xx."""


async def probe_all(
    wanted: Iterable[Target],
    level: str,
    timeout: float,
    lmtp: LmtpClient,
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
            return await probe(target, level, timeout, lmtp, deadline)

    return list(await asyncio.gather(*map(in_turn, wanted)))


async def probe(
    target: Target,
    level: str,
    timeout: float,
    lmtp: LmtpClient,
    deadline: float | None = None,
) -> ProbeResult:
    """Run an LMTP session up to `level`; never raise for what a server does.

    `timeout` is in seconds, for each phase; at `deadline`, a time of the event loop's clock, the
    probe ends in whatever phase it is. Names are looked up, and addresses and TLS used, as lmtp(8)
    may do it; only the names of lmtp.known have the addresses there.
    """
    from aiosmtplib import SMTPException, SMTPServerDisconnected  # noqa: PLC0415 - only for probes

    session = _Session(target, timeout, lmtp)
    error, hint, returned = "", "", False
    try:
        async with asyncio.timeout_at(deadline) as whole:
            await session.run(LEVELS[level])
    except TimeoutError:
        error = "no time left" if whole.expired() else f"no answer within {timeout:g} s"
    except SMTPServerDisconnected:
        error = session.why_lost()
    except SMTPException as failure:
        error = _one_line(str(failure.args[-1] if failure.args else failure))
    except OSError as failure:
        error = str(failure.strerror) if isinstance(failure, socket.gaierror) else why(failure)
    except _UnexpectedReplyError as failure:
        error = str(failure)
        returned = session.phase in REFUSED_FOR_GOOD and session.reply.startswith("5")
    except _UnusableError as failure:
        error, hint, returned = failure.problem, failure.hint, failure.returned
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
        returned=returned,
        hint=hint,
    )


class _UnexpectedReplyError(Exception):
    """A reply with another code than the phase needs."""


@dataclass(eq=False)
class _UnusableError(Exception):
    """A destination that lmtp(8) does not use, for a reason other than a reply of the server."""

    problem: str
    hint: str
    returned: bool
    """Whether Postfix returns mail for it to its sender."""


class _Session:
    """One LMTP session, and the last phase that it reached."""

    def __init__(self, target: Target, timeout: float, lmtp: LmtpClient) -> None:
        self.target = target
        self.lmtp = lmtp
        self.timeout = timeout
        self.phase = PHASES[0]
        self.reply = ""
        self.offers: tuple[str, ...] = ()
        self.warning = ""
        """What is odd about a server that accepts mail."""
        self.began = time.monotonic()
        self._client: SMTP | None = None
        self._relay: asyncio.Task[bool] | None = None

    async def run(self, last: str) -> None:
        """Run the session up to the phase `last`, then RSET and QUIT. Raises as a client does."""
        from aiosmtplib import SMTPServerDisconnected  # noqa: PLC0415

        connection = await self._connected()
        self._client = client = await self._greeted(connection)
        for phase, command, expected in _dialogue(last, self.target.recipient):
            self._enter(phase)
            self.reply = await self._send(client, command, expected)
            if phase == "lhlo" and self.lmtp.requires_tls and "STARTTLS" not in self.offers:
                problem = f"it does not offer STARTTLS, and {self.lmtp.tls_setting}"
                raise _UnusableError(problem, NO_TLS, returned=False)
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

    async def _connected(self) -> socket.socket:
        """Connect to the first address of the destination that accepts a connection.

        Raises OSError, TimeoutError, or _UnusableError if lmtp(8) finds no address to use.
        """
        host, port = self.target.destination.host, self.target.destination.port
        async with asyncio.timeout(self.timeout):
            found = await self._addresses(self.lmtp.known.get(host, host))
        usable = [address for address in found if family_of(address) in self.lmtp.families]
        if not usable:
            raise _UnusableError(
                f"it resolves only to {', '.join(found)}, which inet_protocols keeps Postfix from"
                " using",
                EXCLUDED,
                returned=True,
            )
        self._enter("connect")
        return await dial([place(address, port) for address in usable], self.timeout)

    async def _addresses(self, host: str) -> Sequence[str]:
        """Look a host up as lmtp(8) does, or, if that is not permitted, as this process can.

        Not permitted is to take on its user and its chroot, for example in a service with few
        capabilities. Raises _UnusableError if no address is found.
        """
        if not Destination(host, 0).is_name:
            return [host]
        resolver = self.lmtp.resolver
        first = answer = await resolver.look_up(host)
        if first.denied and resolver.mechanisms:
            answer = await replace(resolver, user=None, root=None).look_up(host)
        if answer.addresses:
            return answer.addresses
        problem = answer.said or answer.denied
        if first.denied:
            problem += "; lmtp(8) may find it, as it has another user and root directory"
        else:
            problem += f", as lmtp(8) looks names up ({', '.join(resolver.mechanisms)})"
        certain = not (first.denied or answer.unanswered)
        raise _UnusableError(problem, "", returned=certain)

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
