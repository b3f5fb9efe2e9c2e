"""The probe: is Mailman's LMTP server there, and does it know its lists?

A session goes through the phases of RFC 2033 up to RCPT for one list's address, then RSET and QUIT:
never DATA. The code of every reply is checked and every phase has its own timeout. That a TCP
connection opens says little: Docker's proxy accepts for a container that isn't there. The 220 does.
"""

import asyncio
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postfix_sync.errors import quote, why
from postfix_sync.model import PHASES, Destination, Notice, ProbeResult, Table
from postfix_sync.tables import destinations_of

if TYPE_CHECKING:
    from aiosmtplib import SMTP

LEVELS = {"connect": "greeting", "lhlo": "lhlo", "rcpt": "rcpt"}
"""The last phase of each level."""

REPLY_LENGTH = 80


@dataclass(frozen=True)
class Target:
    """A destination to probe, and the address of one of its lists, if one is known."""

    destination: Destination
    recipient: str | None = None


def targets(routes: Table) -> list[Target]:
    """The destinations of installed routes, each with the first of its lists."""
    return [
        Target(destination, next(filter(str.isascii, lists), None))
        for destination, lists in sorted(destinations_of(routes).items())
    ]


async def probe_all(
    wanted: Iterable[Target], level: str, timeout: float, hosts: Mapping[str, str]
) -> list[ProbeResult]:
    """Probes all targets at the same time; see `probe`."""
    return list(await asyncio.gather(*(probe(one, level, timeout, hosts) for one in wanted)))


async def probe(
    target: Target, level: str, timeout: float, hosts: Mapping[str, str]
) -> ProbeResult:
    """Goes through an LMTP session up to `level`; never raises for what a server does.

    `timeout` is in seconds, for each phase. `hosts` are names with known addresses, which are not
    looked up.
    """
    from aiosmtplib import SMTPException  # noqa: PLC0415 - not loaded where nothing is probed

    session = _Session(target, timeout)
    try:
        await session.run(LEVELS[level], hosts)
        error = ""
    except TimeoutError:
        error = f"no answer within {timeout:g} s"
    except SMTPException as failure:
        error = quote(str(failure.args[-1] if failure.args else failure)).strip('"')
    except OSError as failure:
        error = str(failure.strerror) if isinstance(failure, socket.gaierror) else why(failure)
    except _UnexpectedReplyError as failure:
        error = str(failure)
    finally:
        session.close()
    return ProbeResult(
        destination=target.destination,
        up=not error,
        phase=session.phase,
        reply=session.reply,
        seconds=round(time.monotonic() - session.began, 4),
        error=error,
    )


_HINTS = {
    "resolve": "see what the name resolves to: getent hosts {host}; or set sources.address",
    "connect": "does Mailman run, and does it listen on this address? ss -ltn; mailman status",
    "greeting": "something else than Mailman may answer there, such as a container's proxy",
    "lhlo": "the server there may be no LMTP server: compare with Mailman's lmtp_port",
    "mail": "see Mailman's log: var/logs/lmtp.log and var/logs/mailman.log",
    "rcpt": "does the list exist in this Mailman? mailman lists; is its database up?",
}


def describe(result: ProbeResult) -> Notice:
    """A result in words, with what helps where the destination is down."""
    endpoint = result.destination.endpoint
    about = f"destination {endpoint}"
    if result.up:
        return Notice(about, f"{about}: up ({result.phase}: {result.reply}), {result.seconds:g} s")
    said = f" ({result.reply})" if result.reply else ""
    return Notice(
        about,
        f"{about}: down: {result.phase}: {result.error}{said}; mail for it waits in the queue",
        _HINTS[result.phase].format(host=result.destination.host),
    )


class _UnexpectedReplyError(Exception):
    """A reply with another code than the phase needs."""


class _Session:
    """One LMTP session, and how far it came."""

    def __init__(self, target: Target, timeout: float) -> None:
        self.target = target
        self.timeout = timeout
        self.phase = PHASES[0]
        self.reply = ""
        self.began = time.monotonic()
        self._client: SMTP | None = None

    async def run(self, last: str, hosts: Mapping[str, str]) -> None:
        self._client = await self._greeted(await self._connected(hosts))
        for phase, command, expected in _dialogue(last, self.target.recipient):
            self.phase = phase or self.phase
            code, text = await self._client.execute_command(command, timeout=self.timeout)
            if phase or code != expected:
                self.reply = _one_line(code, text)
            if code != expected:
                verb = command.split()[0].decode()
                raise _UnexpectedReplyError(f"{verb} was answered with {code}, not {expected}")

    async def _connected(self, hosts: Mapping[str, str]) -> socket.socket:
        """A connection to the first address of the destination that accepts one."""
        host, port = self.target.destination.host, self.target.destination.port
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.timeout):
            found = await loop.getaddrinfo(hosts.get(host, host), port, type=socket.SOCK_STREAM)
        self.phase = "connect"
        refused: OSError = OSError("no address")
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)
            try:
                async with asyncio.timeout(self.timeout):
                    await loop.sock_connect(connection, address)
            except OSError as error:
                connection.close()
                refused = error
            else:
                return connection
        raise refused

    async def _greeted(self, connection: socket.socket) -> "SMTP":
        from aiosmtplib import SMTP, SMTPConnectResponseError  # noqa: PLC0415

        self.phase = "greeting"
        client = SMTP(sock=connection, use_tls=False, start_tls=False, timeout=self.timeout)
        try:
            code, text = await client.connect()
        except SMTPConnectResponseError as error:
            self.reply = _one_line(error.code, error.message)
            raise _UnexpectedReplyError(f"the greeting was {error.code}, not 220") from None
        self.reply = _one_line(code, text)
        return client

    def close(self) -> None:
        if self._client:
            self._client.close()


def _dialogue(last: str, recipient: str | None) -> Iterator[tuple[str, bytes, int]]:
    """Phase ("" for none of its own), command, and the code of the reply that it must have."""
    reached = PHASES.index(last)
    if reached >= PHASES.index("lhlo"):
        yield "lhlo", f"LHLO {socket.gethostname() or 'localhost'}".encode(), 250
    if reached >= PHASES.index("rcpt"):
        yield "mail", b"MAIL FROM:<>", 250
        if recipient:
            yield "rcpt", f"RCPT TO:<{recipient}>".encode(), 250
        yield "", b"RSET", 250
    yield "", b"QUIT", 221


def _one_line(code: int, text: str) -> str:
    said = " ".join(text.split())
    return quote(f"{code} {said}", REPLY_LENGTH)[1:-1]
