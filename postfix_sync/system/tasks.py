"""Finish work that must not be cancelled halfway, and share the result of work."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


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


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Await two results, made at the same time; if one raises an error, cancel the other."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
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
            # Nobody may await it in the end.
            started[0].add_done_callback(lambda task: task.cancelled() or task.exception())
        return started[0]

    return result
