"""Run functions in threads that do not delay the end of the process.

A thread can't be interrupted, and a process waits for the threads of asyncio.to_thread() before it
ends. So a file that takes long to parse, or a mount that does not answer, would keep the daemon
running. The threads here are daemon threads, which end with the process. Use them only for
functions that read or compute: a function that writes must be completed.
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
    """Run a function in a thread of its own; return its result, or raise its exception.

    If the task is cancelled meanwhile, it ends at once, and the result is dropped.
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
