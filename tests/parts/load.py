"""A source of mail: so many messages a second, each over a new SMTP connection.

The schedule is open-loop: a message is due when it is due, whether or not those before it are
done, so a stall of the server shows as waiting messages and not as a pause in the load.  All goes
to 127.0.0.1, and both the number of messages and the time that each may take are bounded.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .lmtp_sink import LOAD_ID
from .postfix_instance import SENDER

LIMIT = 100_000  # messages in one load
CONCURRENT = 90  # connections at a time: fewer than Postfix's default_process_limit
TIMEOUT = 60.0  # seconds for one message


@dataclass(frozen=True)
class Reply:
    """What the server said at the end of one phase, and when (time.time())."""

    phase: str  # connect, ehlo, mail, rcpt, data, end
    code: int
    text: str
    time: float


@dataclass(frozen=True)
class Sent:
    """One message that was offered to the server, and what the server said to it."""

    load_id: str
    recipient: str
    due: float
    started: float
    replies: tuple[Reply, ...]
    error: str = ""

    @property
    def accepted(self) -> bool:
        """The server took the message: 250 after the final dot."""
        return self.code("end") == 250

    @property
    def last(self) -> Reply:
        """The reply that decided: the last one."""
        return self.replies[-1] if self.replies else Reply("connect", 0, self.error, self.started)

    @property
    def rcpt_time(self) -> float:
        """When RCPT was answered; 0 if it never was."""
        return next((reply.time for reply in self.replies if reply.phase == "rcpt"), 0.0)

    @property
    def seconds(self) -> float:
        """How long it took from the moment it was due."""
        return self.last.time - self.due

    def code(self, phase: str) -> int:
        """The code of the reply in this phase; 0 if it never came."""
        return next((reply.code for reply in self.replies if reply.phase == phase), 0)


class Load:
    """A load in a thread of its own: `with Load(...) as load: change something`, then load.sent.

    The recipients take turns; per_second counts the messages to all of them together.
    """

    def __init__(
        self, port: int, recipients: Sequence[str], *, per_second: float, seconds: float
    ) -> None:
        """Prepare the load; start() begins it."""
        self.count = int(per_second * seconds)
        if not 0 < self.count <= LIMIT:
            raise ValueError(f"{self.count} messages: must be between 1 and {LIMIT}")
        self.sent: list[Sent] = []
        self._port = port
        self._recipients = tuple(recipients)
        self._interval = 1 / per_second
        self._failure: BaseException | None = None
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

    def join(self) -> list[Sent]:
        """Wait until the whole load is sent; then self.sent is complete, in the order ended."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.sent

    def accepted_ids(self, recipient: str | None = None) -> set[str]:
        """The X-Load-Id of each message (to this recipient) that the server accepted."""
        return {
            sent.load_id
            for sent in self.sent
            if sent.accepted and recipient in (None, sent.recipient)
        }

    def refusals(self) -> Counter[str]:
        """What was said to the messages not accepted: how often which code in which phase."""
        return Counter(
            f"{sent.recipient} {sent.last.phase} {sent.last.code} {sent.error}".rstrip()
            for sent in self.sent
            if not sent.accepted
        )

    def _main(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as failure:  # noqa: BLE001 - handed to who joins
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
                await free.acquire()
                recipient = self._recipients[number % len(self._recipients)]
                task = tasks.create_task(
                    send_message(self._port, recipient, f"{mark}-{number}", due=due)
                )
                task.add_done_callback(lambda done: self.sent.append(done.result()))
                task.add_done_callback(lambda _: free.release())


def send(port: int, recipient: str, load_id: str = "") -> Sent:
    """Send one message."""
    return asyncio.run(send_message(port, recipient, load_id or f"{time.time_ns():x}"))


async def send_message(
    port: int, recipient: str, load_id: str, *, due: float | None = None
) -> Sent:
    """Send one message over a new connection, and note every reply; never raises."""
    started = time.time()
    replies: list[Reply] = []
    error = ""
    try:
        async with asyncio.timeout(TIMEOUT):
            await _converse(port, recipient, load_id, replies)
    except TimeoutError:
        error = f"timeout after {len(replies)} replies"
    except (OSError, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Sent(load_id, recipient, due or started, started, tuple(replies), error)


async def _converse(port: int, recipient: str, load_id: str, replies: list[Reply]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for phase, words in (
            ("connect", ""),
            ("ehlo", "EHLO load.example\r\n"),
            ("mail", f"MAIL FROM:<{SENDER}>\r\n"),
            ("rcpt", f"RCPT TO:<{recipient}>\r\n"),
            ("data", "DATA\r\n"),
            ("end", f"{_message(recipient, load_id)}.\r\n"),
        ):
            writer.write(words.encode())
            code, text = await _reply(reader)
            replies.append(Reply(phase, code, text, time.time()))
            if code >= 400:
                break
        writer.write(b"QUIT\r\n")
        await writer.drain()
    finally:
        writer.close()
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
