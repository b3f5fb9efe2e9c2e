"""List the queue of one Postfix instance, and have deferred messages retried (postqueue(1))."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postfix_sync.errors import ApplyError
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.postconf import instance_command
from postfix_sync.postfix.queue import Queued, unquoted, without_extensions
from postfix_sync.system.commands import run
from postfix_sync.system.threads import run_in_daemon_thread

AT_ONCE = 4
"""Processes of postqueue(1) at the same time: more of them are not faster."""


@dataclass(frozen=True)
class MailQueue:
    """The queue of the instance with this configuration and queue directory."""

    config_directory: Path
    queue_directory: Path
    fold: Fold
    delimiters: str
    """The value of recipient_delimiter."""

    async def messages(self) -> list[Queued]:
        """List the messages in the queue. Raises ApplyError if postqueue(1) fails."""
        if not (self.queue_directory / "active").is_dir():
            return []  # this Postfix was never started
        done = await run(instance_command(self.config_directory, "postqueue", "-j"))
        if done.status:
            raise ApplyError(f"postqueue -j: {done.complaint}")
        try:
            return await run_in_daemon_thread(_messages, done.stdout)
        except (ValueError, KeyError, TypeError) as error:
            raise ApplyError(f"postqueue -j: its output cannot be parsed: {error}") from None

    async def deliver_now(self, queue_ids: Sequence[str]) -> None:
        """Have Postfix retry deferred messages now; those on hold, or already removed, are skipped.

        postqueue(1) takes only one queue id, so each message needs a process. With the first of
        them, qmgr(8) also forgets which destinations are dead, so that it tries new mail for them.

        Raises ApplyError if postqueue(1) fails.
        """
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


def _messages(printed: str) -> list[Queued]:
    # Addresses may hold U+2028 and its like, at which splitlines() would split.
    return [_queued(json.loads(line)) for line in printed.split("\n") if line]


def _queued(found: dict[str, Any]) -> Queued:
    """Parse a line of `postqueue -j` (Postfix 3.1 and later)."""
    return Queued(
        queue_id=found["queue_id"],
        queue_name=found["queue_name"],
        arrival_time=float(found["arrival_time"]),
        recipients=tuple(
            (unquoted(recipient["address"]), recipient.get("delay_reason", ""))
            for recipient in found["recipients"]
        ),
    )
