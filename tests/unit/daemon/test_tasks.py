"""The end of any of the daemon's tasks is reported, whatever its cause."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from postfix_sync.daemon.tasks import until_one_ends

Work = Coroutine[Any, Any, None]


async def returns() -> None:
    await asyncio.sleep(0)


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError


async def is_cancelled_by_mistake() -> None:
    """Raise CancelledError, as after a TaskGroup of Python 3.11 that left a cancellation behind."""
    await asyncio.sleep(0)
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [returns, fails, is_cancelled_by_mistake])
def test_task_that_ends_ends_all_tasks_with_an_error(work: Callable[[], Work]) -> None:
    cleaned = []

    async def runs_until_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError

    with pytest.raises(RuntimeError, match=f"{work.__name__}.* has ended") as caught:
        asyncio.run(until_one_ends([runs_until_cancelled(), work(), fails_when_cancelled()]))
    assert isinstance(caught.value.__cause__, LookupError if work is fails else type(None))
    assert cleaned == ["up"]


def test_cancellation_ends_all_tasks_without_an_error() -> None:
    async def main() -> None:
        task = asyncio.create_task(until_one_ends([asyncio.sleep(3600), asyncio.sleep(3600)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
