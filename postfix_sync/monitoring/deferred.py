"""Count the deferred mail for the destinations of the maps."""

import asyncio
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError
from postfix_sync.model import Destination
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.map_directory import installed_routes
from postfix_sync.postfix.next_hop import next_hops_of
from postfix_sync.postfix.queue import DeferredMail, deferred_by_destination

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

COUNTING = 30.0
"""Seconds that counting the queue may take. Postfix opens each file of it for that."""


async def count_deferred(config: "Config") -> dict[Destination, DeferredMail]:
    """What is deferred for each destination that a route leads to.

    Raises ConfigError where there is no Postfix, ApplyError where its queue can't be read in time.
    """
    instance = await inspect(config.postfix.config_directory)
    delimiters = instance.parameters["recipient_delimiter"]
    try:
        async with asyncio.timeout(COUNTING):
            messages = await instance.queue()
    except TimeoutError:
        raise ApplyError(
            f"postqueue -j: not done after {COUNTING:g} s; deferred mail is not counted",
            "see how large the queue is: qshape deferred",
        ) from None

    def count() -> dict[Destination, DeferredMail]:
        routes = installed_routes(config.postfix.map_directory)
        none = {hop: DeferredMail() for hop in next_hops_of(routes)}
        return {**none, **deferred_by_destination(messages, routes, instance.fold, delimiters)}

    return await asyncio.to_thread(count)
