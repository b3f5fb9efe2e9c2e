"""Send messages to a Postfix instance, and find out what became of each."""

import re
import smtplib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.parts.common import PATIENCE, wait_for
from tests.parts.lmtp_sink import LOAD_ID
from tests.parts.postfix_instance import Outcome, outcomes_in

SENDER = "ann@outside.example"

CLIENTS = {"inside": "127.0.0.1", "outside": "127.0.0.2"}
"""Clients: the first is in mynetworks, the second is a stranger."""

SESSIONS = 10
"""SMTP sessions at a time."""

SMTP_TIMEOUT = 60.0

LOG_EXCERPT = 5000
"""So much of the log is in the message about a test that failed."""

_QUEUED = re.compile(r"(?:queued|forwarded) as (\w+)")
_ACTIVE = re.compile(r"qmgr\[\d+\]: (\w+): from=.*, nrcpt=(\d+) ")


@dataclass(frozen=True)
class Message:
    """One message to be sent."""

    client: str
    port: int
    recipient: str
    size: int = 0


@dataclass(frozen=True)
class Fate:
    """What became of one message."""

    code: int
    """The last reply's code."""
    reply: str
    deliveries: tuple[str, ...] = ()
    """For each recipient that it was delivered to: the place and the address."""

    def __str__(self) -> str:
        """Return the reply of a message that was refused, else the deliveries."""
        return ", ".join(self.deliveries) if self.accepted else f"{self.code} {self.reply}"

    @property
    def accepted(self) -> bool:
        """Whether Postfix accepted the message."""
        return self.code == 250

    @property
    def denied(self) -> bool:
        """Whether Postfix said that it is not responsible for the domain."""
        return "Relay access denied" in self.reply

    @property
    def kind(self) -> str:
        """refused, bounced, deferred, elsewhere, sent, or lost: accepted, and not delivered."""
        if not self.accepted:
            return "refused"
        if not self.deliveries:
            return "lost"
        kinds = [delivery.partition(" ")[0] for delivery in self.deliveries]
        return next(
            (kind for kind in ("bounced", "deferred", "elsewhere") if kind in kinds), "sent"
        )

    def same_for_sender(self, after: "Fate") -> bool:
        """Whether the sender sees no difference, or an earlier refusal of what bounced.

        A refusal for relaying may become one of an unknown address.
        """
        if "refused" in (self.kind, after.kind):
            return after.kind == "refused" and (
                self.kind == "bounced" or self.code // 100 == after.code // 100 or self.denied
            )
        return sorted(self.deliveries) == sorted(after.deliveries)


def send_all(messages: Iterable[Message]) -> list[tuple[str, int, str]]:
    """Send messages at the same time; return their load ids and the last reply to each."""
    mark = f"{time.time_ns():x}"
    with ThreadPoolExecutor(SESSIONS) as pool:
        return list(
            pool.map(
                lambda item: (f"{mark}-{item[0]}", *_send(item[1], f"{mark}-{item[0]}")),
                enumerate(messages),
            )
        )


def _send(message: Message, load_id: str) -> tuple[int, str]:
    text = (
        f"From: {SENDER}\r\nTo: {message.recipient}\r\nMessage-ID: <{load_id}@outside.example>\r\n"
        f"{LOAD_ID}: {load_id}\r\n\r\n" + ("x" * 998 + "\r\n") * (message.size // 1000 + 1)
    )
    try:
        with smtplib.SMTP(
            "127.0.0.1", message.port, "client.example", SMTP_TIMEOUT, (message.client, 0)
        ) as smtp:
            smtp.ehlo()
            for code, reply in (smtp.mail(SENDER), smtp.rcpt(message.recipient)):
                if code >= 400:
                    return code, reply.decode(errors="replace")
            code, reply = smtp.data(text)
            return code, reply.decode(errors="replace")
    except smtplib.SMTPResponseException as error:
        return error.smtp_code, str(error.smtp_error)


class Trace:
    """The log, from when the messages were sent on."""

    def __init__(self, log: str) -> None:
        """Read the outcomes, and how many recipients each message has."""
        self._recipients = {queue_id: int(count) for queue_id, count in _ACTIVE.findall(log)}
        self._outcomes: dict[str, list[Outcome]] = {}
        for outcome in outcomes_in(log):
            self._outcomes.setdefault(outcome.queue_id, []).append(outcome)

    def ends(self, queue_id: str) -> Iterator[Outcome | None]:
        """Yield the outcome of each recipient; None for one that is not known yet.

        A message that Postfix sends to itself (after a filter, or for an alias) is followed.
        """
        found = self._outcomes.get(queue_id, [])
        if len(found) < self._recipients.get(queue_id, 1):
            yield None
        for outcome in found:
            if again := _QUEUED.search(outcome.text):
                yield from self.ends(again[1])
            else:
                yield outcome


def fates(
    messages: Iterable[Message], read_log: Callable[[], str], places: Mapping[int, str]
) -> list[tuple[str, Fate]]:
    """Send messages; return the load id and the fate of each. `places` has names of ports."""
    sent = send_all(messages)
    queued = [_QUEUED.search(reply) for _, _, reply in sent]

    def ends() -> list[tuple[Outcome, ...]] | None:
        trace = Trace(read_log())
        found = [tuple(trace.ends(match[1])) if match else () for match in queued]
        known = [tuple(end for end in each if end) for each in found]
        return known if known == found else None

    try:
        ended = wait_for(ends, 3 * PATIENCE, "the end of all messages")
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{read_log()[-LOG_EXCERPT:]}") from None
    assert ended
    return [
        (load_id, Fate(code, " ".join(reply.split()), tuple(_place(end, places) for end in each)))
        for (load_id, code, reply), each in zip(sent, ended, strict=True)
    ]


def _place(outcome: Outcome, places: Mapping[int, str]) -> str:
    port = outcome.relay.rpartition(":")[2]
    place = places.get(int(port)) if port.isdigit() else None
    daemon = outcome.daemon.rpartition("/")[2]
    # With soft_bounce, qmgr(8) keeps the message.
    status = outcome.status.replace("SOFTBOUNCE", "deferred")
    return f"{status} {place or daemon} {outcome.recipient}"
