"""Finish work that must not be cancelled halfway."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` until it ends, even if this task is cancelled meanwhile.

    A cancelled task then continues, to report what was done; `interrupted` returns true for it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.result()


def interrupted() -> bool:
    """Return whether this task was cancelled, but continued until its work was completed."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())
