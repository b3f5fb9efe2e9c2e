"""Run the daemon's tasks together, repeat actions, and wait for events."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from postfix_sync.errors import is_out_of_memory, out_of_memory
from postfix_sync.log import LOG, log_problem


def report_end(error: BaseException | None) -> None:
    """Log why the daemon's tasks have ended; the daemon then starts them again."""
    if error and is_out_of_memory(error.__cause__ or error):
        log_problem(out_of_memory("postfix-sync"))
    else:
        LOG.error("internal error in the daemon; please report this", exc_info=error)


async def until_one_ends(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines that should not end until this task is cancelled, as concurrent tasks.

    The first task that ends cancels the others. Raises RuntimeError with the name of that task.
    asyncio.TaskGroup would continue without a task that returns or is cancelled by mistake.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        errors = [None if task.cancelled() else task.exception() for task in tasks]
    first = next(number for number, task in enumerate(tasks) if task in ended)
    raise RuntimeError(f"{tasks[first].get_coro()!r} has ended") from errors[first]


async def every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Call `act` repeatedly, `seconds` after its last call has ended; never return."""
    while True:
        await act()
        await asyncio.sleep(seconds)


async def set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, at most `seconds` if given."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
