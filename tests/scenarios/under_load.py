"""Mail goes on while lists come and go: what became of every single message.

Lists end in an LMTP sink in Mailman's place, so that each message can be followed by its id from
the SMTP session that offered it to the LMTP session that took it, or to the line in Postfix's log
that says why not.
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
"""Messages a second to each list: 50 at least are asked for."""

BEFORE = 5.0
"""Seconds of load before each change."""

AFTER = 8.0
"""Seconds of load after the last one: longer than a list may take to come, or to go."""


@dataclass(frozen=True)
class Figures(Tally):
    """One run in numbers, for the report."""

    sent: int
    accepted: int
    refused_by_smtp: int
    delivered: int
    refused_by_lmtp: int
    bounced: int
    """Accepted, and returned by Postfix itself, which had no route for it."""
    lost: int
    """Accepted, and neither delivered nor refused by the LMTP server; those bounced among them."""
    temporary: int
    """4xx replies, deferrals, and broken or timed-out sessions."""
    per_second: float
    worst_seconds: float
    """The longest SMTP session, counted from the moment the message was due."""
    live_seconds: float
    """From the change in Mailman's files to the first accepted message for the new list."""

    def __str__(self) -> str:
        """A line of words."""
        return (
            f"sent {self.sent} ({self.per_second:.0f}/s), accepted {self.accepted},"
            f" delivered {self.delivered}, refused by LMTP {self.refused_by_lmtp},"
            f" bounced {self.bounced}, lost {self.lost}, 4xx {self.temporary},"
            f" worst SMTP {self.worst_seconds:.2f} s,"
            f" new list live after {self.live_seconds:.2f} s"
        )


@dataclass(frozen=True)
class Run:
    """All that is known of one load after its last message left the queue."""

    sent: list[Sent]
    delivered: Counter[str]
    """How often each X-Load-Id reached the sink."""
    outcomes: dict[str, Outcome]
    """The final outcome of each message in the queue, by queue id."""
    deferred: list[Outcome]
    changes: list[float]
    """When each change began (time.time())."""

    def to(self, recipient: str) -> list[Sent]:
        """The messages to one list, in the order in which RCPT was answered."""
        return sorted(
            (one for one in self.sent if one.recipient == recipient), key=lambda one: one.rcpt_time
        )

    def accepted(self, recipient: str | None = None) -> list[Sent]:
        """The messages that Postfix accepted."""
        return [one for one in self.sent if one.accepted and recipient in (None, one.recipient)]

    def outcome(self, sent: Sent) -> Outcome | None:
        """What Postfix logged at last of an accepted message."""
        return self.outcomes.get(queue_id(sent))

    def refused_by_lmtp(self, sent: Sent) -> bool:
        """The message was accepted, and the LMTP server would not have it."""
        outcome = self.outcome(sent)
        return outcome is not None and outcome.refused_by_server

    def bounced(self) -> list[Outcome]:
        """What Postfix itself returned for want of a route."""
        return [one for one in self.outcomes.values() if NO_ROUTE in one.text]

    def lost(self) -> list[tuple[Sent, Outcome | None]]:
        """Accepted, and neither delivered nor refused by the LMTP server."""
        return [
            (one, self.outcome(one))
            for one in self.accepted()
            if not self.delivered[one.load_id] and not self.refused_by_lmtp(one)
        ]

    def temporary(self) -> list[str]:
        """Every 4xx, broken session and deferral, in words."""
        replies = [
            f"{one.recipient}: {one.last.phase} {one.last.code} {one.last.text} {one.error}"
            for one in self.sent
            if one.error or any(400 <= reply.code < 500 for reply in one.replies)
        ]
        return replies + [f"{one.recipient}: {one.status}: {one.text}" for one in self.deferred]

    def per_second(self, recipient: str) -> float:
        """How many messages a second this list was really offered.

        The longest pause is left out: what it delays is made up for afterwards, but at the end.
        """
        started = sorted(one.started for one in self.to(recipient))
        pause = max(after - before for before, after in pairwise(started))
        return (len(started) - 2) / (started[-1] - started[0] - pause)

    def figures(self, new: str) -> Figures:
        """The run in numbers; `new` is the list that was created."""
        accepted = self.accepted()
        live = min((one.rcpt_time for one in self.accepted(new)), default=math.inf)
        return Figures(
            sent=len(self.sent),
            accepted=len(accepted),
            refused_by_smtp=sum(500 <= one.last.code < 600 for one in self.sent),
            delivered=sum(1 for one in accepted if self.delivered[one.load_id]),
            refused_by_lmtp=sum(1 for one in accepted if self.refused_by_lmtp(one)),
            bounced=len(self.bounced()),
            lost=len(self.lost()),
            temporary=len(self.temporary()),
            per_second=round(sum(self.per_second(to) for to in {x.recipient for x in self.sent})),
            worst_seconds=round(max(one.seconds for one in self.sent), 3),
            live_seconds=round(live - self.changes[0], 3),
        )


def queue_id(sent: Sent) -> str:
    """The queue id of an accepted message, from the reply to its end: `2.0.0 Ok: queued as ID`."""
    return sent.last.text.rpartition(" ")[2]


def final_outcomes(
    postfix: PostfixInstance, sent: Sequence[Sent], timeout: float
) -> dict[str, Outcome]:
    """Wait until every accepted message was delivered or returned, and no longer than `timeout`.

    Return the final outcomes by queue id; a message that has none is missing.
    """
    accepted = {queue_id(one) for one in sent if one.accepted}
    found: dict[str, Outcome] = {}

    def all_ended() -> bool:
        outcomes = postfix.outcomes()
        found.update((one.queue_id, one) for one in outcomes if one.status != "deferred")
        return accepted <= found.keys()

    with suppress(TimeoutError):
        wait_for(all_ended, timeout, "a final outcome of every accepted message")
    return found


def wait_for_load(load: Load, moment: float) -> None:
    """Wait until a message that was sent at this moment (time.time()) or later was answered."""
    timeout = max(moment - time.time(), 0) + PATIENCE
    wait_for(lambda: any(one.started >= moment for one in load.sent), timeout, "mail flowing")


class Bench:
    """A Postfix, an LMTP sink in Mailman's place, and the files that name the sink's lists."""

    def __init__(
        self, directory: Path, main_cf: dict[str, str], *, lmtp_host: str = "127.0.0.1"
    ) -> None:
        """Prepare all; `lmtp_host` is what Mailman calls the sink."""
        self.sink = LmtpSink()
        self.files = MailmanFiles(directory / "data")
        self.hosts = directory / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.hop = f"lmtp:[{lmtp_host}]:{self.sink.port}"
        # Ids that no two messages share, so that each can be found again in the log.
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=self.hosts,
            main_cf={"enable_long_queue_ids": "yes", **main_cf},
        )

    def have(self, *lists: str) -> None:
        """These lists there are from now on, in the sink and in Mailman's files.

        The sink is told first, so a removed list's mail is refused there a moment before anybody
        can know of the removal, as Mailman does it.
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
        """Send to all recipients, and make the changes while mail flows."""
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
            return accepted <= {one.queue_id for one in outcomes if one.status != "deferred"}

        wait_for(is_logged, 30, "a final outcome of every accepted message")
        return Run(
            sent=load.sent,
            delivered=Counter(one.load_id for one in self.sink.deliveries()),
            outcomes={
                one.queue_id: one
                for one in outcomes
                if one.queue_id in accepted and one.status != "deferred"
            },
            deferred=[one for one in outcomes if one.status == "deferred"],
            changes=began,
        )
