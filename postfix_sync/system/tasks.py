"""Finish work that must not be cancelled halfway."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits `work` to its end, also when this task is cancelled meanwhile.

    The task goes on then, to tell what was done; `interrupted` says that it should end.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.result()


def interrupted() -> bool:
    """Whether this task was to end while it was applying a plan, and did not for that reason."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())
