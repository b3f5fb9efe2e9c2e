"""Mail that is wrongly bounced, refused or stalled while lists are added, under a steady load.

Each list is added while mail to it is coming in: first it is refused, rightly. From the first
message that Postfix accepts, every message must be accepted and delivered. So must every message to
lists that do not change.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.lists import list_name
from tests.bench.measure import Row, Say
from tests.bench.plan import Plan
from tests.bench.ways import Host, Way, all_ways
from tests.parts.common import public_directory
from tests.parts.load import Load, Sent
from tests.scenarios.under_load import final_outcomes, queue_id, wait_for_load

PER_SECOND = 25.0
"""Messages a second to the list that is new, and as many to lists that do not change."""

KEPT = 2
"""The number of those."""

WARM = 2.0
"""Seconds of load before the first change."""

STALLED = 1.0
"""Seconds: an SMTP session that takes longer counts as stalled."""

PATIENCE = 120.0


@dataclass
class Flow:
    """The messages that were sent, and when each new list was written by Mailman."""

    kept: list[Sent] = field(default_factory=list)
    new: dict[str, list[Sent]] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)

    def live(self) -> dict[str, float]:
        """Return the seconds until the first message to each new list was accepted, if one was."""
        return {
            name: max(min(accepted) - self.written[name], 0.0)
            for name, sent in self.new.items()
            if (accepted := [message.rcpt_time for message in sent if message.accepted])
        }

    def due(self) -> list[Sent]:
        """Return the messages that had to be accepted: to a new list, since its first one was."""
        live = self.live()
        return self.kept + [
            message
            for name, sent in self.new.items()
            for message in sent
            if name in live and message.started >= self.written[name] + live[name]
        ]

    def all(self) -> list[Sent]:
        """Return all messages."""
        return [*self.kept, *(message for sent in self.new.values() for message in sent)]


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row for each way."""
    rows = []
    for way in all_ways(plan.losses_cron):
        say(f"losses: {way.name}: {plan.losses_changes} changes, {plan.losses_watch:g} s each")
        with ExitStack() as stack:
            directory = stack.enter_context(public_directory(base))
            host = Host(directory, way, plan.losses_lists)
            stack.enter_context(host.sink)
            stack.enter_context(way.runs(host))
            stack.enter_context(host.postfix)
            flow = _flow(host, way, plan)
            rows.append(_row(host, way, plan, flow))
    return rows


def _flow(host: Host, way: Way, plan: Plan) -> Flow:
    """Add the lists one after the other, under load."""
    flow, port, count = Flow(), host.postfix.port, plan.losses_lists
    kept = [list_name(number, count) for number in range(KEPT)]
    seconds = plan.losses_watch * plan.losses_changes
    lists = list(kept)
    host.sink.accept(lists)
    steady = Load(port, kept, per_second=PER_SECOND, seconds=seconds + PATIENCE)
    with steady:
        wait_for_load(
            steady, time.time() + min(WARM, plan.losses_watch)
        )  # each process of Postfix has its tables open
        for number in range(plan.losses_changes):
            name = list_name(number * count // plan.losses_changes, count, "new")
            lists.append(name)
            host.sink.accept(lists)
            host.files.add(name)
            with Load(port, [name], per_second=PER_SECOND, seconds=plan.losses_watch) as load:
                flow.written[name] = time.time()
                host.files.write()
                way.after_writing(host)
            flow.new[name] = load.sent
        steady.stop()
    flow.kept = steady.sent
    return flow


def _row(host: Host, way: Way, plan: Plan, flow: Flow) -> Row:
    sent, due, live = flow.all(), flow.due(), flow.live()
    outcomes = final_outcomes(host.postfix, sent, PATIENCE)
    arrived = host.sink.load_ids()
    accepted = [message for message in sent if message.accepted]
    bounced = {key for key, outcome in outcomes.items() if outcome.status == "bounced"}
    return {
        "way": way.name,
        "title": way.title,
        "lists": plan.losses_lists,
        "changes": plan.losses_changes,
        "sent": len(sent),
        "accepted": len(accepted),
        "bounced": sum(queue_id(message) in bounced for message in accepted),
        "refused": sum(not message.accepted for message in due),
        "stalled": sum(message.seconds > STALLED for message in due),
        "longest_seconds": _longest(due),
        "undelivered": sum(
            message.load_id not in arrived and queue_id(message) not in bounced
            for message in accepted
        ),
        "live_p50": median(live.values()) if live else None,
        "live_max": max(live.values()) if live else None,
        "not_live": plan.losses_changes - len(live),
    }


def _longest(sent: Sequence[Sent]) -> float:
    return max(message.seconds for message in sent)
