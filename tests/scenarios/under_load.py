"""Lists are added and removed under load: the outcome of every message.

An LMTP sink replaces Mailman, so that each message can be followed by its id from its SMTP session
to the LMTP session that accepted it, or to the line of Postfix's log with the reason of a failure.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.parts.common import PATIENCE, wait_for
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import Load, Sent
from tests.parts.mailman_files import MailmanFiles
from tests.parts.postfix_instance import NO_ROUTE, Outcome, PostfixInstance
from tests.scenarios.tally import Tally

PER_SECOND = 55.0
"""Messages a second to each list; the tests require at least 50."""

BEFORE = 5.0
"""Seconds of load before each change."""

AFTER = 8.0
"""Seconds of load after the last change: longer than an addition or removal may take."""


@dataclass(frozen=True)
class Figures(Tally):
    """The figures of one run."""

    sent: int
    accepted: int
    refused_by_smtp: int
    delivered: int
    refused_by_lmtp: int
    bounced: int
    """Messages accepted, and returned by Postfix itself, which had no route."""
    lost: int
    """Messages accepted, and neither delivered nor refused by the LMTP server."""
    temporary: int
    """4xx replies, deferrals, and broken or timed-out sessions."""
    per_second: float
    worst_seconds: float
    """The longest SMTP session, from the scheduled time of its message, in seconds."""
    live_seconds: float
    """Seconds from the change in Mailman's files to the new list's first accepted message."""

    def __str__(self) -> str:
        """Return the figures as one line."""
        return (
            f"sent {self.sent} ({self.per_second:.0f}/s), accepted {self.accepted},"
            f" delivered {self.delivered}, refused by LMTP {self.refused_by_lmtp},"
            f" bounced {self.bounced}, lost {self.lost}, 4xx {self.temporary},"
            f" worst SMTP {self.worst_seconds:.2f} s,"
            f" new list live after {self.live_seconds:.2f} s"
        )


@dataclass(frozen=True)
class Run:
    """The result of one load, after its last message left the queue."""

    sent: list[Sent]
    delivered: Counter[str]
    """The number of deliveries of each X-Load-Id."""
    outcomes: dict[str, Outcome]
    """The final outcome of each message in the queue, by queue id."""
    deferred: list[Outcome]
    changes: list[float]
    """The start of each change (time.time())."""

    def to(self, recipient: str) -> list[Sent]:
        """Return the messages to one list, in the order of the replies to RCPT."""
        return sorted(
            (message for message in self.sent if message.recipient == recipient),
            key=lambda message: message.rcpt_time,
        )

    def accepted(self, recipient: str | None = None) -> list[Sent]:
        """Return the messages that Postfix accepted."""
        return [
            message
            for message in self.sent
            if message.accepted and recipient in (None, message.recipient)
        ]

    def outcome(self, sent: Sent) -> Outcome | None:
        """Return the final outcome of an accepted message."""
        return self.outcomes.get(queue_id(sent))

    def refused_by_lmtp(self, sent: Sent) -> bool:
        """Whether the message was accepted by Postfix and refused by the LMTP server."""
        outcome = self.outcome(sent)
        return outcome is not None and outcome.refused_by_server

    def bounced(self) -> list[Outcome]:
        """Return the messages that Postfix itself returned because it had no route."""
        return [outcome for outcome in self.outcomes.values() if NO_ROUTE in outcome.text]

    def lost(self) -> list[tuple[Sent, Outcome | None]]:
        """Return the messages accepted, and neither delivered nor refused by the LMTP server."""
        return [
            (message, self.outcome(message))
            for message in self.accepted()
            if not self.delivered[message.load_id] and not self.refused_by_lmtp(message)
        ]

    def temporary(self) -> list[str]:
        """Describe every 4xx, broken session and deferral."""
        replies = [
            f"{sent.recipient}: {sent.last.phase} {sent.last.code} {sent.last.text} {sent.error}"
            for sent in self.sent
            if sent.error or any(400 <= reply.code < 500 for reply in sent.replies)
        ]
        return replies + [
            f"{outcome.recipient}: {outcome.status}: {outcome.text}" for outcome in self.deferred
        ]

    def per_second(self, recipient: str) -> float:
        """Return the actual rate of the messages to a list.

        The longest pause is left out: the load makes up for it, except at the end.
        """
        started = sorted(sent.started for sent in self.to(recipient))
        pause = max(after - before for before, after in pairwise(started))
        return (len(started) - 2) / (started[-1] - started[0] - pause)

    def figures(self, new: str) -> Figures:
        """Return the figures of the run; `new` is the list that was created."""
        accepted = self.accepted()
        live = min((message.rcpt_time for message in self.accepted(new)), default=math.inf)
        return Figures(
            sent=len(self.sent),
            accepted=len(accepted),
            refused_by_smtp=sum(500 <= message.last.code < 600 for message in self.sent),
            delivered=sum(1 for message in accepted if self.delivered[message.load_id]),
            refused_by_lmtp=sum(1 for message in accepted if self.refused_by_lmtp(message)),
            bounced=len(self.bounced()),
            lost=len(self.lost()),
            temporary=len(self.temporary()),
            per_second=round(
                sum(self.per_second(to) for to in {message.recipient for message in self.sent})
            ),
            worst_seconds=round(max(message.seconds for message in self.sent), 3),
            live_seconds=round(live - self.changes[0], 3),
        )


def queue_id(sent: Sent) -> str:
    """Return the queue id of an accepted message, from the reply `2.0.0 Ok: queued as ID`."""
    return sent.last.text.rpartition(" ")[2]


def final_outcomes(
    postfix: PostfixInstance, sent: Sequence[Sent], timeout: float
) -> dict[str, Outcome]:
    """Wait until every accepted message is delivered or returned, but at most `timeout` seconds.

    Return the final outcomes by queue id; a message that has none is missing.
    """
    accepted = {queue_id(message) for message in sent if message.accepted}
    found: dict[str, Outcome] = {}

    def all_ended() -> bool:
        outcomes = postfix.outcomes()
        found.update(
            (outcome.queue_id, outcome) for outcome in outcomes if outcome.status != "deferred"
        )
        return accepted <= found.keys()

    with suppress(TimeoutError):
        wait_for(all_ended, timeout, "a final outcome of every accepted message")
    return found


def wait_for_load(load: Load, moment: float) -> None:
    """Wait until a message that was sent at `moment` (time.time()) or later has been answered."""
    timeout = max(moment - time.time(), 0) + PATIENCE
    wait_for(
        lambda: any(message.started >= moment for message in load.sent), timeout, "mail flowing"
    )


class Bench:
    """A Postfix, an LMTP sink in place of Mailman, and Mailman's files for the sink's lists."""

    def __init__(
        self, directory: Path, main_cf: dict[str, str], *, lmtp_host: str = "127.0.0.1"
    ) -> None:
        """Prepare all parts; `lmtp_host` is the sink's name in Mailman's files."""
        self.sink = LmtpSink()
        self.files = MailmanFiles(directory / "data")
        self.hosts = directory / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.hop = f"lmtp:[{lmtp_host}]:{self.sink.port}"
        # Unique queue ids, so that each message can be found in the log.
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=self.hosts,
            main_cf={"enable_long_queue_ids": "yes", **main_cf},
        )

    def have(self, *lists: str) -> None:
        """Replace the lists in the sink and in Mailman's files.

        The sink changes first: as with Mailman, the LMTP server refuses a removed list's mail a
        moment before the files show the removal.
        """
        self.sink.accept(lists)
        self.files.write(*lists, hop=self.hop)

    def _wait_for_empty_queue(self) -> None:
        try:
            self.postfix.wait_for_empty_queue(60)
        except TimeoutError as error:
            some = "\n".join(str(message) for message in self.postfix.queue()[:5])
            end = self.postfix.log[-8000:]
            raise AssertionError(f"{error}\nqueue:\n{some}\nmaillog:\n{end}") from None

    def load(self, recipients: Sequence[str], *changes: Callable[[], object]) -> Run:
        """Send to all recipients, and make the changes meanwhile."""
        per_second = PER_SECOND * len(recipients)
        seconds = BEFORE * len(changes) + AFTER
        load = Load(self.postfix.port, recipients, per_second=per_second, seconds=seconds)
        began = []
        with load:
            for number, change in enumerate(changes, 1):
                enough = int(per_second * BEFORE * number)
                wait_for(lambda least=enough: len(load.sent) >= least, 60, "mail flowing")  # type: ignore[misc]
                began.append(time.time())
                change()
        self._wait_for_empty_queue()
        accepted = {queue_id(sent) for sent in load.sent if sent.accepted}
        outcomes: list[Outcome] = []

        def is_logged() -> bool:
            outcomes[:] = self.postfix.outcomes()
            return accepted <= {
                outcome.queue_id for outcome in outcomes if outcome.status != "deferred"
            }

        wait_for(is_logged, 30, "a final outcome of every accepted message")
        return Run(
            sent=load.sent,
            delivered=Counter(delivery.load_id for delivery in self.sink.deliveries()),
            outcomes={
                outcome.queue_id: outcome
                for outcome in outcomes
                if outcome.queue_id in accepted and outcome.status != "deferred"
            },
            deferred=[outcome for outcome in outcomes if outcome.status == "deferred"],
            changes=began,
        )
