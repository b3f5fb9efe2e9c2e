"""Tasks of the event loop that end together, and timers between them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from postfix_sync.errors import is_out_of_memory, out_of_memory
from postfix_sync.log import LOG, tell


def report_end(error: BaseException | None) -> None:
    """Logs why the daemon's work has ended: it is begun anew."""
    if error and is_out_of_memory(error.__cause__ or error):
        tell(out_of_memory("postfix-sync"))
    else:
        LOG.error("an unforeseen error; please report it", exc_info=error)


async def until_one_ends(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Does all works at the same time, none of which ends by itself; raises RuntimeError when one
    does. A TaskGroup would go on without one that returns, or that was cancelled by mistake."""
    tasks = [asyncio.create_task(one) for one in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        errors = [None if task.cancelled() else task.exception() for task in tasks]
    first = next(number for number, task in enumerate(tasks) if task in ended)
    raise RuntimeError(f"{tasks[first].get_coro()!r} has ended by itself") from errors[first]


async def every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await act()
        await asyncio.sleep(seconds)


async def set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Waits for an event, `seconds` at most if given."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
