"""Recovery: what waited for a destination while it was away is delivered when it is back.

By itself Postfix comes back to a deferred message after minutes, later after an hour, and holds up
new mail as well for as long as it takes the destination for dead. So, once a destination is up
again, the messages that wait for it are found in the queue, and Postfix is told to try those, and
no others, now.

Whether there is something to do is read from status.json and from the queue, not from an event:
after a restart, a failure of postqueue, or an end in the middle, it still is to be done. There are
two causes. A probe failed since the last time: then all that waits is tried. Or no probe failed,
but Postfix says of mail that came since that it did not reach the destination: it was away
between two probes. What waits for another reason is left to Postfix.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from postfix_sync.log import LOG
from postfix_sync.model import Table
from postfix_sync.postfix import queue
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.instance import Postfix, inspect
from postfix_sync.postfix.queue import Queued
from postfix_sync.status.schema import DestinationStatus, Status
from postfix_sync.text import counted, seconds_of

AGAIN = 60.0
"""Seconds at least between two recoveries of one destination: one that flaps is not flooded."""

UNSEEN_AGAIN = 300.0
"""The same where no probe failed: it may be Postfix alone that does not reach the destination."""

BATCH = 100
"""Messages between two looks whether the destination is still up."""

LOOKS = 3
"""How often the queue is looked at, at most: what came before Postfix took the destination for
alive again may have been deferred after the look before."""


LATE = 5.0
"""Seconds until the last looks. A try that was under way to where the destination was before, as
with a container that has moved, fails after three, and Postfix then takes it for dead once more."""


@dataclass(frozen=True)
class Due:
    """The destinations that are up, and for which something may have to be done."""

    failed: AbstractSet[str] = frozenset()
    """Those that a probe failed for since the last recovery, as HOST:PORT."""
    unseen: Mapping[str, float] = field(default_factory=dict)
    """Those that may have been away unseen, each with the time from which on mail counts."""

    def __bool__(self) -> bool:
        return bool(self.failed or self.unseen)


def due(status: Status, now: float, *, unseen: bool = True) -> Due:
    """What is to be looked at, after status.json; those away unseen only with `unseen`. Pure."""
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
    """Seconds until AGAIN is over for a destination that failed in it, and is back; None: for no
    destination. Pure."""
    waits = [
        AGAIN - _since_last(destination, now)
        for destination in status["destinations"].values()
        if not destination["failures"] and _failed_since(destination)
    ]
    return min((seconds for seconds in waits if seconds > 0), default=None)


def _flushed(destination: DestinationStatus) -> float:
    return seconds_of(destination["last_flush"]) if destination["last_flush"] else 0.0


def _since_last(destination: DestinationStatus, now: float) -> float:
    """Seconds since its last recovery."""
    flushed = _flushed(destination)
    return now - flushed if now >= flushed else now  # a clock that was set back


def _failed_since(destination: DestinationStatus) -> bool:
    return bool(
        destination["last_failure"]
        and seconds_of(destination["last_failure"]) >= _flushed(destination)
    )


def chosen(
    messages: Sequence[Queued], routes: Table, fold: Fold, delimiters: str, wanted: Due
) -> dict[str, tuple[str, ...]]:
    """The queue ids of what is to be tried now, by destination, the oldest first. Pure.

    `fold` and `delimiters` are this Postfix's, as for `queue.deferred_by_destination`.
    """
    found: dict[str, tuple[str, ...]] = {}
    # What failed counts from the beginning, and for whatever reason mail waits for it.
    looks: list[tuple[Sequence[Queued], AbstractSet[str]]] = [(messages, wanted.failed)]
    looks += [
        (queue.not_reached(messages, at), {endpoint}) for endpoint, at in wanted.unseen.items()
    ]
    for waiting, endpoints in looks:
        for hop, held in queue.deferred_by_destination(waiting, routes, fold, delimiters).items():
            if hop.endpoint in endpoints:
                found[hop.endpoint] = held.queue_ids
    return found


async def recover(
    config_directory: Path, routes: Table, wanted: Due, is_up: Callable[[str], bool]
) -> AbstractSet[str]:
    """Has Postfix try what waits for the destinations in `wanted`, BATCH by BATCH.

    `routes` are those that are installed; `is_up` says of HOST:PORT whether to go on with it.

    Returns the destinations that this was done for: none where Postfix is stopped, and of those
    that were away unseen only those that mail waited for. Raises SyncError where Postfix can't be
    asked.
    """
    instance = await inspect(config_directory)
    if instance.master is None:
        return set()
    delimiters = instance.parameters["recipient_delimiter"]
    tried: set[str] = set()
    done = set(wanted.failed)
    alive_since = 0.0
    for _ in range(LOOKS):
        messages = await instance.queue()
        if tried:
            messages = [message for message in messages if message.arrival_time <= alive_since]
        found = await asyncio.to_thread(chosen, messages, routes, instance.fold, delimiters, wanted)
        done |= found.keys()
        alive_since = alive_since or time.time()
        if not await _deliver_fresh(instance, found, tried, is_up):
            break
    if done:
        await asyncio.sleep(LATE)
        late: set[str] = set()
        for _ in range(LOOKS):
            held_up = queue.not_reached(await instance.queue(), 0.0)
            found = await asyncio.to_thread(
                chosen, held_up, routes, instance.fold, delimiters, Due(failed=done)
            )
            if not await _deliver_fresh(instance, found, late, is_up):
                break
    return done


async def _deliver_fresh(
    instance: Postfix,
    found: Mapping[str, Sequence[str]],
    tried: set[str],
    is_up: Callable[[str], bool],
) -> bool:
    """Has those tried that were not yet, and notes them as tried; whether there were any."""
    before = len(tried)
    for endpoint, ids in found.items():
        await _deliver(
            instance, endpoint, [queue_id for queue_id in ids if queue_id not in tried], is_up
        )
        tried.update(ids)
    return len(tried) > before


async def _deliver(
    instance: Postfix, endpoint: str, ids: list[str], is_up: Callable[[str], bool]
) -> None:
    if ids:
        LOG.info(
            "destination %s: %s that waited for it %s being delivered",
            endpoint,
            counted(len(ids), "message"),
            "are" if len(ids) > 1 else "is",
        )
    for start in range(0, len(ids), BATCH):
        if not is_up(endpoint):
            break
        await instance.deliver_now(ids[start : start + BATCH])
