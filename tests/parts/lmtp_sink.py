"""An LMTP server in place of Mailman under load: it accepts mail for some addresses and counts it.

It uses aiosmtpd's LMTP class, like Mailman itself, in a process of its own, so that it and the test
do not slow each other.  The accepted addresses can be changed while it runs, as lists are created
or removed in Mailman.
"""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from multiprocessing.connection import Connection
from typing import Any, Self

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from .common import free_port

LOAD_ID = "X-Load-Id"
IDENT = "GNU Mailman LMTP runner 2.0"

_PATIENCE = 30.0


def base_address(recipient: str) -> str:
    """Return an address in lower case and without its +extension."""
    local, _, domain = recipient.lower().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


@dataclass(frozen=True)
class Delivery:
    """One message that the server accepted, for one recipient."""

    recipient: str
    load_id: str
    time: float


@dataclass(frozen=True)
class Offer:
    """One RCPT that the server got, and its reply code."""

    recipient: str
    code: int
    time: float


class LmtpSink:
    """The server; start() and stop() it, or use it in a with statement."""

    def __init__(
        self, accept: Iterable[str] = (), *, host: str = "127.0.0.1", port: int | None = None
    ) -> None:
        """Prepare a server for these addresses; each start uses the same port."""
        self.host = host
        self.port = port or free_port(host)
        self._accept = frozenset(accept)
        self._past: list[Delivery] = []
        self._past_offers: list[Offer] = []
        self._pipe: Connection | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start the server; return when it listens."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_main, args=(theirs, self.host, self.port, self._accept), daemon=True
        )
        self._process.start()
        theirs.close()
        self._answer()

    def stop(self) -> None:
        """Stop the server: its port refuses connections.  Its records are kept."""
        if self._pipe is None or self._process is None:
            return
        try:
            self._past, self._past_offers = self.deliveries(), self.offers()
        finally:
            self._pipe.close()
            self._pipe = None
            self._process.join(_PATIENCE)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
            self._process = None

    def accept(self, addresses: Iterable[str]) -> None:
        """Accept mail only for these addresses (with any +extension) from now on."""
        self._accept = frozenset(addresses)
        if self._pipe is not None:
            self._pipe.send(("accept", self._accept))
            self._answer()

    def busy(self, *addresses: str) -> None:
        """Reply 451 to these addresses, like a Mailman without its database; none ends that."""
        assert self._pipe is not None
        self._pipe.send(("busy", frozenset(addresses)))
        self._answer()

    def slow(self, seconds: float) -> None:
        """Delay the reply to each message by `seconds`."""
        assert self._pipe is not None
        self._pipe.send(("seconds", seconds))
        self._answer()

    def at_work(self) -> list[float]:
        """Return the delay of each message whose reply is pending, in seconds."""
        return self._all("at_work")

    def deliveries(self) -> list[Delivery]:
        """Return all deliveries so far, oldest first."""
        return self._past + self._all("deliveries")

    def offers(self) -> list[Offer]:
        """Return every RCPT so far, oldest first."""
        return self._past_offers + self._all("offers")

    def _all(self, name: str) -> list[Any]:
        if self._pipe is None:
            return []
        self._pipe.send(name)
        fresh: list[Any] = self._answer()
        return fresh

    def load_ids(self) -> set[str]:
        """Return the X-Load-Id of each delivered message."""
        return {delivery.load_id for delivery in self.deliveries()}

    def by_recipient(self) -> Counter[str]:
        """Return the number of deliveries to each address."""
        return Counter(base_address(delivery.recipient) for delivery in self.deliveries())

    def _answer(self) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(_PATIENCE):
            raise TimeoutError(f"LMTP server on {self.host}:{self.port}: its process is mute")
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"LMTP server on {self.host}:{self.port}: it has ended") from None


class _Handler:
    """The hooks that aiosmtpd calls for each recipient and each message."""

    def __init__(self, accept: frozenset[str]) -> None:
        self.accept = accept
        self.busy: frozenset[str] = frozenset()
        self.seconds = 0.0
        self.at_work: list[float] = []
        self.deliveries: list[Delivery] = []
        self.offers: list[Offer] = []

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if base_address(address) in self.busy:
            reply = "451 Requested action aborted: error in processing"
        elif base_address(address) not in self.accept:
            reply = f"550 5.1.1 <{address}>: no such list here"
        else:
            envelope.rcpt_tos.append(address)
            reply = "250 2.1.5 OK"
        self.offers.append(Offer(address, int(reply[:3]), time.time()))
        return reply

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
    ) -> str:
        seconds = self.seconds
        self.at_work.append(seconds)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.at_work.remove(seconds)
        content = envelope.content
        assert isinstance(content, bytes)
        load_id = BytesHeaderParser().parsebytes(content).get(LOAD_ID, "")
        now = time.time()
        self.deliveries += [Delivery(address, load_id, now) for address in envelope.rcpt_tos]
        # LMTP has one reply for each recipient.
        return "\r\n".join("250 2.0.0 OK" for _ in envelope.rcpt_tos)


def _main(pipe: Connection, host: str, port: int, accept: frozenset[str]) -> None:
    asyncio.run(_serve(pipe, host, port, _Handler(accept)))


async def _serve(pipe: Connection, host: str, port: int, handler: _Handler) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def obey() -> None:
        try:
            wanted = pipe.recv()
        except EOFError:  # the test has closed the pipe, or has ended
            loop.remove_reader(pipe.fileno())
            ended.set()
            return
        if isinstance(wanted, str):
            pipe.send(getattr(handler, wanted))
        else:
            setattr(handler, *wanted)
            pipe.send("ok")

    server = await loop.create_server(
        lambda: LMTP(handler, hostname="sink", ident=IDENT), host, port
    )
    loop.add_reader(pipe.fileno(), obey)
    pipe.send("listening")
    await ended.wait()
    server.close()
