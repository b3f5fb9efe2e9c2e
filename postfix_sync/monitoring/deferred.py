"""Count the deferred mail for the destinations of the maps."""

import asyncio
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError
from postfix_sync.model.destination import Destination
from postfix_sync.postfix.instance import mail_queue_of
from postfix_sync.postfix.map_directory import installed_routes
from postfix_sync.postfix.next_hop import next_hops_of
from postfix_sync.postfix.queue import DeferredMail, deferred_by_destination
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

COUNTING = 30.0
"""Longest time in seconds for reading the queue: postqueue(1) opens each of its files."""


async def count_deferred(config: "Config") -> dict[Destination, DeferredMail]:
    """Count the deferred mail of each destination of the installed routes.

    Raises ConfigError if there is no Postfix, ApplyError if its queue can't be read within
    COUNTING seconds.
    """
    queue = await mail_queue_of(config.postfix.config_directory)
    try:
        async with asyncio.timeout(COUNTING):
            messages = await queue.messages()
    except TimeoutError:
        raise ApplyError(
            f"postqueue -j: not done after {COUNTING:g} s; deferred mail is not counted",
            "see how large the queue is: qshape deferred",
        ) from None

    def count() -> dict[Destination, DeferredMail]:
        routes = installed_routes(config.postfix.map_directory)
        none = {hop: DeferredMail() for hop in next_hops_of(routes)}
        return {**none, **deferred_by_destination(messages, routes, queue.fold, queue.delimiters)}

    return await run_in_daemon_thread(count)
