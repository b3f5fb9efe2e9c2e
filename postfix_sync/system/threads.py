"""Work beside the event loop that the end of the process does not wait for.

A thread can't be interrupted, and those of asyncio.to_thread() are waited for when the process
ends. So a file that takes long to parse, or a mount that does not answer, would keep a daemon from
ending. Threads here are daemon threads: they end with the process. That is right for work that only
reads or computes; what writes must come to its end.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_in_daemon_thread(
    function: Callable[P, T], *arguments: P.args, **named: P.kwargs
) -> T:
    """Runs a function in a thread of its own; returns its result, or raises what it raises.

    A task that is cancelled meanwhile ends at once, and the result is dropped.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()  # from here on, it can't be cancelled

    def work() -> None:
        try:
            result.set_result(function(*arguments, **named))
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(result)
