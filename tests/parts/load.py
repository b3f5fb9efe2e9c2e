"""Load: a constant rate of messages, each over a new SMTP connection.

The schedule is open-loop: each message is sent at its time, whether or not the previous ones are
done, so a stall of the server shows as slow messages and not as a pause in the load.  All messages
are sent to 127.0.0.1; the number of messages and the time for each are limited.
"""

import asyncio
import itertools
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, TypeAlias

from .lmtp_sink import LOAD_ID
from .postfix_instance import SENDER

LIMIT = 100_000  # messages in one load
CONCURRENT = 90  # connections at a time: fewer than Postfix's default_process_limit
TIMEOUT = 60.0  # seconds for one message

Phases: TypeAlias = tuple[tuple[str, str], ...]
"""The phases of an SMTP session, each with the text that is sent in it."""


@dataclass(frozen=True)
class Reply:
    """The server's reply to one phase, and its time (time.time())."""

    phase: str  # connect, ehlo, mail, rcpt, data, end
    code: int
    text: str
    time: float


@dataclass(frozen=True)
class Sent:
    """One message that was sent to the server, and the server's replies."""

    load_id: str
    recipient: str
    due: float
    started: float
    replies: tuple[Reply, ...]
    error: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the server accepted the message: 250 after the final dot."""
        return self.code("end") == 250

    @property
    def last(self) -> Reply:
        """The last reply, which decides."""
        return self.replies[-1] if self.replies else Reply("connect", 0, self.error, self.started)

    @property
    def rcpt_time(self) -> float:
        """The time of the reply to RCPT; 0 if there was none."""
        return next((reply.time for reply in self.replies if reply.phase == "rcpt"), 0.0)

    @property
    def seconds(self) -> float:
        """The seconds from its scheduled time to its last reply."""
        return self.last.time - self.due

    def code(self, phase: str) -> int:
        """Return the reply code of this phase; 0 if there was none."""
        return next((reply.code for reply in self.replies if reply.phase == phase), 0)


class Load:
    """A load in a thread of its own: `with Load(...) as load: change something`, then load.sent.

    The recipients alternate; per_second is the rate of the messages to all of them together.
    """

    def __init__(
        self,
        port: int,
        recipients: Sequence[str],
        *,
        per_second: float,
        seconds: float,
        sender: str = SENDER,
    ) -> None:
        """Prepare the load; start() starts it."""
        self.count = int(per_second * seconds)
        if not 0 < self.count <= LIMIT:
            raise ValueError(f"{self.count} messages: must be between 1 and {LIMIT}")
        self.sent: list[Sent] = []
        self._port = port
        self._recipients = tuple(recipients)
        self._interval = 1 / per_second
        self._sender = sender
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._main, name="load", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Wait until the whole load is sent."""
        self.join()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending; messages that are being sent are completed."""
        self._stopped.set()

    def join(self) -> list[Sent]:
        """Wait until the whole load is sent; return self.sent, in the order of completion."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.sent

    def accepted_ids(self, recipient: str | None = None) -> set[str]:
        """Return the X-Load-Id of each accepted message (to `recipient`, if given)."""
        return {
            sent.load_id
            for sent in self.sent
            if sent.accepted and recipient in (None, sent.recipient)
        }

    def refusals(self) -> Counter[str]:
        """Count the messages that were not accepted, by phase and code."""
        return Counter(
            f"{sent.recipient} {sent.last.phase} {sent.last.code} {sent.error}".rstrip()
            for sent in self.sent
            if not sent.accepted
        )

    def _main(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as failure:  # noqa: BLE001 - raised by join()
            self._failure = failure

    async def _send_all(self) -> None:
        mark = f"{time.time_ns():x}"
        begin = time.time()
        free = asyncio.Semaphore(CONCURRENT)
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.count):
                due = begin + number * self._interval
                if (early := due - time.time()) > 0:
                    await asyncio.sleep(early)
                if self._stopped.is_set():
                    break
                await free.acquire()
                recipient = self._recipients[number % len(self._recipients)]
                task = tasks.create_task(
                    send_message(
                        self._port, recipient, f"{mark}-{number}", due=due, sender=self._sender
                    )
                )
                task.add_done_callback(lambda done: self.sent.append(done.result()))
                task.add_done_callback(lambda _: free.release())


def send(port: int, recipient: str, load_id: str = "", *, sender: str = SENDER) -> Sent:
    """Send one message."""
    load_id = load_id or f"{time.time_ns():x}"
    return asyncio.run(send_message(port, recipient, load_id, sender=sender))


def rcpt(port: int, recipient: str, sender: str = SENDER) -> int:
    """Return the reply code to RCPT for an address, in a session without a message."""
    with smtplib.SMTP("127.0.0.1", port, timeout=TIMEOUT) as client:
        client.ehlo("client.example")
        client.mail(sender)
        return client.rcpt(recipient)[0]


async def send_message(
    port: int, recipient: str, load_id: str, *, due: float | None = None, sender: str = SENDER
) -> Sent:
    """Send one message over a new connection, and record every reply; never raise."""
    started = time.time()
    replies: list[Reply] = []
    error = ""
    try:
        async with asyncio.timeout(TIMEOUT):
            await _converse(port, _transaction(sender, recipient, load_id), replies)
    except TimeoutError:
        error = f"timeout after {len(replies)} replies"
    except (OSError, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Sent(load_id, recipient, due or started, started, tuple(replies), error)


class Session:
    """One SMTP session that stays open between messages, in a thread of its own.

    If the server closes it, the next message opens another one, as a real sender does.
    """

    def __init__(
        self, port: int, recipients: Sequence[str], *, per_second: float, sender: str = SENDER
    ) -> None:
        """Prepare it; the recipients alternate."""
        self.sent: list[Sent] = []
        self._port = port
        self._recipients = itertools.cycle(recipients)
        self._sender = sender
        self._interval = 1 / per_second
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._main, name="session", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End it after the current message."""
        self._stopped.set()
        self._thread.join()

    def _main(self) -> None:
        while not self._stopped.wait(self._interval):
            with suppress(OSError, ValueError):  # no greeting; try again
                asyncio.run(self._hold())

    async def _hold(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await _exchange(reader, writer, _GREETING, [])
            while not self._stopped.is_set():
                sent = await _send_next(reader, writer, next(self._recipients), self._sender)
                self.sent.append(sent)
                if sent.error or sent.last.code == 421:
                    return
                await asyncio.sleep(self._interval)
        finally:
            await _hang_up(writer)


def send_in_one_session(
    port: int, recipient: str, count: int, *, sender: str = SENDER
) -> list[Sent]:
    """Send `count` messages over one connection, as fast as the server accepts them."""

    async def conversation() -> list[Sent]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await _exchange(reader, writer, _GREETING, [])
            return [await _send_next(reader, writer, recipient, sender) for _ in range(count)]
        finally:
            await _hang_up(writer)

    return asyncio.run(conversation())


_GREETING: Phases = (("connect", ""), ("ehlo", "EHLO load.example\r\n"))


async def _send_next(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipient: str, sender: str
) -> Sent:
    """Send another message over a connection; never raise."""
    load_id, started, error = f"{time.time_ns():x}s", time.time(), ""
    replies: list[Reply] = []
    try:
        async with asyncio.timeout(TIMEOUT):
            await _exchange(reader, writer, _transaction(sender, recipient, load_id), replies)
            if replies[-1].code >= 400:
                await _exchange(reader, writer, (("rset", "RSET\r\n"),), [])
    except TimeoutError:
        error = f"timeout after {len(replies)} replies"
    except (OSError, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Sent(load_id, recipient, started, started, tuple(replies), error)


async def _converse(port: int, transaction: Phases, replies: list[Reply]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await _exchange(reader, writer, (*_GREETING, *transaction), replies)
    finally:
        await _hang_up(writer)


def _transaction(sender: str, recipient: str, load_id: str) -> Phases:
    return (
        ("mail", f"MAIL FROM:<{sender}>\r\n"),
        ("rcpt", f"RCPT TO:<{recipient}>\r\n"),
        ("data", "DATA\r\n"),
        ("end", f"{_message(recipient, load_id)}.\r\n"),
    )


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    phases: Phases,
    replies: list[Reply],
) -> None:
    """Go through the phases, and record each reply, until one is 4xx or 5xx."""
    for phase, words in phases:
        writer.write(words.encode())
        code, text = await _reply(reader)
        replies.append(Reply(phase, code, text, time.time()))
        if code >= 400:
            break


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.write(b"QUIT\r\n")
        await writer.drain()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _reply(reader: asyncio.StreamReader) -> tuple[int, str]:
    while True:
        line = (await reader.readline()).decode(errors="replace")
        if not line.endswith("\n"):
            raise ConnectionResetError(f"connection closed by the server after {line!r}")
        if line[3:4] != "-":
            return int(line[:3]), line[4:].rstrip()


def _message(recipient: str, load_id: str) -> str:
    return (
        f"From: {SENDER}\r\n"
        f"To: {recipient}\r\n"
        f"Subject: load {load_id}\r\n"
        f"Message-ID: <{load_id}@load.example>\r\n"
        f"{LOAD_ID}: {load_id}\r\n"
        "\r\n"
        "One of many.\r\n"
    )
