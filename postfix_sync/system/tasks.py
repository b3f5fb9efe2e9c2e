"""Finish work that must not be cancelled halfway, and share the result of work."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, even if this task is cancelled meanwhile; return its result.

    This task then continues, so that it can report what was done; `interrupted` returns True.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        return task.result()


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Await all work, done at the same time; raise the error of the first that has one."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


async def concurrently(*work: Awaitable[T]) -> list[T]:
    """Await all work, done at the same time; the first error cancels the rest and is raised.

    This is not a TaskGroup: Python 3.11's leaves the parent task partly cancelled if a child fails,
    and the next asyncio.timeout() there ends the task instead of raising TimeoutError.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def interrupted() -> bool:
    """Return whether this task was cancelled while it awaited work to its end."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())


def shared(work: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Awaitable[T]]:
    """Return a function that starts `work` at its first call; every call returns that result."""
    started: list[asyncio.Task[T]] = []

    def result() -> Awaitable[T]:
        if not started:
            started.append(asyncio.create_task(work()))
            # It may not be awaited in the end.
            started[0].add_done_callback(lambda task: task.cancelled() or task.exception())
        return started[0]

    return result
