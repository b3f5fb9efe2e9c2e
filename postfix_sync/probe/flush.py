"""Recovery: deliver the deferred mail of a destination as soon as that is up again.

Postfix retries a deferred message after minutes at first, and after more than an hour later on; as
long as it takes the destination for dead, it defers new mail as well. So, once a destination is up
again, recovery finds its deferred messages in the queue, and has flush(8) retry only those now.

Recovery reads from status.json and from the queue whether it is due, and does not rely on events:
after a restart, a failure of flush(8), or an interrupted recovery, it is still due. There are two
causes:

- A probe failed since the last recovery: all deferred mail of the destination is retried.
- No probe failed, but Postfix reports that mail which arrived since then did not reach the
  destination: that was down between two probes. Only such mail is retried.

Mail that is deferred for another reason is left to Postfix.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from postfix_sync.log import LOG
from postfix_sync.model.table import Table
from postfix_sync.postfix import queue
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.instance import mail_queue_of
from postfix_sync.postfix.mail_queue import MailQueue
from postfix_sync.postfix.processes import Processes
from postfix_sync.postfix.queue import Queued
from postfix_sync.status.schema import DestinationStatus, Status
from postfix_sync.system.tasks import together
from postfix_sync.system.threads import run_in_daemon_thread
from postfix_sync.text import counted, seconds_of

AGAIN = 60.0
"""Minimum seconds between two recoveries of a destination, so that flapping does not flood it."""

UNSEEN_AGAIN = 300.0
"""Minimum seconds between two recoveries if no probe failed: perhaps only Postfix cannot reach the
destination."""

LISTINGS = 3
"""How often the queue is listed, at most: mail that arrived before Postfix took the destination for
alive again may have been deferred after the previous listing."""


LONGEST = 300.0
"""Seconds of one recovery at most, so that a slow destination does not delay those that recover
later; it is then continued with them."""

LATE = 5.0
"""Seconds until the last listings. A delivery that was under way to the previous address of the
destination, as with a container that has moved, fails after three seconds; Postfix then takes the
destination for dead once more."""


@dataclass(frozen=True)
class Due:
    """The destinations that are up, and whose deferred mail may have to be retried."""

    failed: AbstractSet[str] = frozenset()
    """The destinations with a failed probe since their last recovery, as HOST:PORT."""
    unseen: Mapping[str, float] = field(default_factory=dict)
    """The destinations that may have been down between probes, as HOST:PORT.

    Each has the time, in seconds since the epoch, after which mail must have arrived to count.
    """

    def __bool__(self) -> bool:
        return bool(self.failed or self.unseen)


def due(status: Status, now: float, *, unseen: bool = True) -> Due:
    """Return the destinations whose recovery is due by status.json. Pure.

    `now` is in seconds since the epoch. Without `unseen`, only failed probes count.
    """
    failed, maybe = set(), {}
    for endpoint, destination in status["destinations"].items():
        waited = _since_last(destination, now)
        if destination["failures"] or waited < AGAIN:
            continue
        if _failed_since(destination):
            failed.add(endpoint)
        elif unseen and waited >= UNSEEN_AGAIN:
            maybe[endpoint] = _flushed(destination)
    return Due(failed, maybe)


def due_in(status: Status, now: float) -> float | None:
    """Return the seconds until the next recovery is due that only AGAIN delays; None if there is
    none. Pure."""
    waits = [
        AGAIN - _since_last(destination, now)
        for destination in status["destinations"].values()
        if not destination["failures"] and _failed_since(destination)
    ]
    return min((seconds for seconds in waits if seconds > 0), default=None)


def _flushed(destination: DestinationStatus) -> float:
    return seconds_of(destination["last_flush"]) if destination["last_flush"] else 0.0


def _since_last(destination: DestinationStatus, now: float) -> float:
    """Return the seconds since the destination's last recovery."""
    flushed = _flushed(destination)
    return now - flushed if now >= flushed else now  # the clock was set back


def _failed_since(destination: DestinationStatus) -> bool:
    return bool(
        destination["last_failure"]
        and seconds_of(destination["last_failure"]) >= _flushed(destination)
    )


def chosen(
    messages: Sequence[Queued], routes: Table[str], fold: Fold, delimiters: str, wanted: Due
) -> dict[str, tuple[str, ...]]:
    """Return the queue ids of the messages to retry now, by HOST:PORT, the oldest first. Pure.

    `fold` and `delimiters` are as for `queue.deferred_by_destination`.
    """
    found: dict[str, tuple[str, ...]] = {}
    # After a failed probe, all mail of the destination counts, for whatever reason it is deferred.
    choices: list[tuple[Sequence[Queued], AbstractSet[str]]] = [(messages, wanted.failed)]
    choices += [
        (queue.not_reached(messages, at), {endpoint}) for endpoint, at in wanted.unseen.items()
    ]
    for deferred, endpoints in choices:
        for hop, mail in queue.deferred_by_destination(deferred, routes, fold, delimiters).items():
            if hop.endpoint in endpoints:
                found[hop.endpoint] = mail.queue_ids
    return found


async def recover(
    config_directory: Path, routes: Table[str], wanted: Due, is_up: Callable[[str], bool]
) -> AbstractSet[str]:
    """Have Postfix retry the deferred mail of the destinations in `wanted`, batch by batch.

    `routes` are the installed routes; `is_up` returns whether HOST:PORT is still up, and recovery
    of that destination ends once it is not.

    Return the destinations that were recovered, as HOST:PORT: none if Postfix is stopped, and of
    `wanted.unseen` only those that had deferred mail. Raises SyncError if the queue or the
    configuration of Postfix cannot be read, or if flush(8) cannot be asked.
    """
    mail = await mail_queue_of(config_directory)
    if Processes(config_directory, mail.queue_directory).master is None:
        return set()
    tried: dict[str, set[str]] = {}
    done = set(wanted.failed)
    alive_since = 0.0
    for _ in range(LISTINGS):
        messages = await mail.messages()
        if tried:
            messages = [message for message in messages if message.arrival_time <= alive_since]
        found = await run_in_daemon_thread(
            chosen, messages, routes, mail.fold, mail.delimiters, wanted
        )
        done |= found.keys()
        alive_since = alive_since or time.time()
        if not await _deliver_fresh(mail, found, tried, is_up):
            break
    if done:
        await asyncio.sleep(LATE)
        late: dict[str, set[str]] = {}
        for _ in range(LISTINGS):
            unreached = queue.not_reached(await mail.messages(), 0.0)
            found = await run_in_daemon_thread(
                chosen, unreached, routes, mail.fold, mail.delimiters, Due(failed=done)
            )
            if not await _deliver_fresh(mail, found, late, is_up):
                break
    return done


async def _deliver_fresh(
    mail: MailQueue,
    found: Mapping[str, Sequence[str]],
    tried: dict[str, set[str]],
    is_up: Callable[[str], bool],
) -> bool:
    """Retry the messages in `found` that are not in `tried`, and add them; return whether any.

    Both have messages by destination. The destinations are served at the same time, so that none
    waits for a slow one.
    """
    fresh = {
        endpoint: [queue_id for queue_id in ids if queue_id not in tried.get(endpoint, ())]
        for endpoint, ids in found.items()
    }
    fresh = {endpoint: ids for endpoint, ids in fresh.items() if ids}
    unfinished = {*fresh}

    async def deliver(endpoint: str, ids: Sequence[str]) -> None:
        before = tried.setdefault(endpoint, set())
        wanted = partial(is_up, endpoint)
        shares = partial(len, unfinished)
        async for batch in mail.deliver_steadily(ids, frozenset(before), wanted, shares):
            before.update(batch)
        before.update(ids)
        unfinished.discard(endpoint)

    for endpoint, ids in fresh.items():
        retried = counted(len(ids), "deferred message")
        LOG.info("destination %s: up again; retrying %s", endpoint, retried)
    await together(*(deliver(endpoint, ids) for endpoint, ids in fresh.items()))
    return bool(fresh)
