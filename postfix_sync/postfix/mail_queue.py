"""List the queue of one Postfix instance, and have deferred messages retried (postqueue(1))."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postfix_sync.errors import ApplyError, OutOfReach, TimedOut
from postfix_sync.log import LOG
from postfix_sync.postfix.flush_client import retry_now
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.postconf import instance_command
from postfix_sync.postfix.queue import Queued, unquoted, without_extensions
from postfix_sync.system.commands import COMMAND_TIMEOUT, run, running
from postfix_sync.system.threads import run_in_daemon_thread

FLUSH_SERVICE = "public/flush"
"""The socket of flush(8) below the queue directory (master.cf)."""

AT_ONCE = 4
"""Processes of postqueue(1) at the same time: more of them are not faster."""

BATCH = 500
"""Messages to retry before it is checked again whether that is still wanted."""

IN_PROGRESS = 5000
"""Messages that are retried at the same time, about: a quarter of those that qmgr(8) can have
(qmgr_message_active_limit), so that other mail does not wait for these."""

ROOM_POLL = 0.5
"""Seconds between checks whether qmgr(8) has fewer."""

ROOM_WAIT = 60.0
"""Seconds until the next messages are retried in any case: if Postfix was stopped meanwhile, that
fails, and is reported."""


@dataclass(frozen=True)
class MailQueue:
    """The queue of the instance with this configuration and queue directory."""

    config_directory: Path
    queue_directory: Path
    fold: Fold
    delimiters: str
    """The value of recipient_delimiter."""

    async def messages(self) -> list[Queued]:
        """List the messages in the queue. Raises ApplyError if postqueue(1) fails.

        The list is parsed while postqueue(1) prints it, because the text is larger than the result.
        """
        if not (self.queue_directory / "active").is_dir():
            return []  # this Postfix was never started
        command = instance_command(self.config_directory, "postqueue", "-j")
        found: list[Queued] = []
        reasons: dict[str, str] = {}
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT), running(command) as listing:
                async for lines in listing.blocks():
                    # Addresses may hold U+2028 and its like, at which splitlines() would split.
                    entries = map(json.loads, filter(None, lines.split(b"\n")))
                    found += (_queued(entry, reasons) for entry in entries)
        except TimeoutError:
            raise TimedOut(f"postqueue -j: not done after {COMMAND_TIMEOUT:g} s; killed") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ApplyError(f"postqueue -j: its output cannot be parsed: {error}") from None
        except ApplyError as error:
            raise ApplyError(f"postqueue -j: {error.message}") from None
        return found

    async def deliver_now(self, queue_ids: Sequence[str]) -> None:
        """Have Postfix retry deferred messages now; those on hold, or already removed, are skipped.

        With the first of them, qmgr(8) also forgets which destinations are dead, so that it tries
        new mail for them. If flush(8) can't be asked, postqueue(1) asks it, a process per message:
        it takes only one queue id.

        Raises ApplyError if postqueue(1) fails.
        """
        try:
            await run_in_daemon_thread(retry_now, self.queue_directory / FLUSH_SERVICE, queue_ids)
        except OutOfReach as error:
            LOG.debug("%s; running postqueue -i", error.message)
            await self._run_postqueue(queue_ids)

    async def deliver_steadily(
        self,
        queue_ids: Sequence[str],
        before: frozenset[str] = frozenset(),
        is_wanted: Callable[[], bool] = lambda: True,
        shares: Callable[[], int] = lambda: 1,
    ) -> AsyncIterator[Sequence[str]]:
        """Have Postfix retry deferred messages, and yield each BATCH of them, while `is_wanted`.

        About IN_PROGRESS messages are retried at the same time, with those in `before`, and by all
        of the `shares` callers that do so now. Raises ApplyError as `deliver_now` does.
        """
        start = 0
        while start < len(queue_ids):
            at_most = max(IN_PROGRESS // shares(), 1)
            tried = before.union(queue_ids[:start])
            if len(tried) >= at_most:
                await self._wait_for_room(tried, at_most, is_wanted)
            if not is_wanted():
                return
            batch = queue_ids[start : start + min(BATCH, at_most)]
            await self.deliver_now(batch)
            yield batch
            start += len(batch)

    async def _wait_for_room(
        self, tried: frozenset[str], at_most: int, is_wanted: Callable[[], bool]
    ) -> None:
        """Wait until qmgr(8) has fewer than `at_most` of the messages, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOM_WAIT):
                # No event says that a message has left the queue.
                while is_wanted() and await self.in_progress(tried) >= at_most:  # noqa: ASYNC110
                    await asyncio.sleep(ROOM_POLL)

    async def _run_postqueue(self, queue_ids: Sequence[str]) -> None:
        """Run `postqueue -i` for each message. Raises ApplyError if it fails."""
        for start in range(0, len(queue_ids), AT_ONCE):
            done = await asyncio.gather(
                *(
                    run(instance_command(self.config_directory, "postqueue", "-i", queue_id))
                    for queue_id in queue_ids[start : start + AT_ONCE]
                )
            )
            for completed in done:
                if completed.status:
                    raise ApplyError(f"postqueue -i: {completed.complaint}")

    async def in_progress(self, queue_ids: frozenset[str]) -> int:
        """Count the messages among these that qmgr(8) has not yet delivered, or deferred again."""

        def count() -> int:
            paths = (self.queue_directory / name for name in ("incoming", "active"))
            names = (names for path in paths for _, _, names in os.walk(path))
            return sum(map(len, map(queue_ids.intersection, names)))

        return await run_in_daemon_thread(count)

    async def recipients(self, before: float) -> frozenset[str]:
        """Return the folded recipients of queued mail, each with its extensions and without them.

        Only mail that arrived by `before`, in seconds since the epoch, counts.

        Raises ApplyError if postqueue(1) fails.
        """
        messages = await self.messages()
        return self.recipients_of(message for message in messages if message.arrival_time <= before)

    def recipients_of(self, messages: Iterable[Queued]) -> frozenset[str]:
        """Return the folded recipients of messages, each with its extensions and without them."""
        return frozenset(
            key
            for message in messages
            for address, _ in message.recipients
            for key in without_extensions(self.fold(address), self.delimiters)
        )


def _queued(found: dict[str, Any], reasons: dict[str, str]) -> Queued:
    """Parse a line of `postqueue -j` (Postfix 3.1 and later).

    Thousands of recipients have the same reason: they share its text in `reasons`.
    """

    def shared(reason: str) -> str:
        return reasons.setdefault(reason, reason)

    return Queued(
        queue_id=found["queue_id"],
        queue_name=shared(found["queue_name"]),
        arrival_time=float(found["arrival_time"]),
        recipients=tuple(
            (unquoted(recipient["address"]), shared(recipient.get("delay_reason", "")))
            for recipient in found["recipients"]
        ),
    )
