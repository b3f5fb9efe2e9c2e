"""Run functions in threads that do not delay the end of the process.

A thread can't be interrupted, and a process waits for the threads of asyncio.to_thread() before it
ends. So a file that takes long to parse, or a mount that does not answer, would keep the daemon
running. The threads here end with the process. Use them only for functions that read or compute: a
function that writes must be completed.
"""

import _thread
import asyncio
import contextlib
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

STACK = 2**21
"""Bytes of address space for the stack of each thread. glibc reserves 8 MiB, which a limit on the
address space (ulimit -v) may not leave, beside the 64 MiB that it reserves for a thread's heap."""

threading.stack_size(STACK)

CHECK = 1.0
"""Seconds between checks whether a thread has ended; one that has memory for it says so at once."""


async def run_in_daemon_thread(
    function: Callable[P, T], *arguments: P.args, **named: P.kwargs
) -> T:
    """Run a function in a thread of its own; return its result, or raise its exception.

    If the task is cancelled meanwhile, it ends at once, and the result is dropped. If there is no
    memory for the thread, or in it, this raises MemoryError or RuntimeError, and never waits for a
    thread that has died: threading.Thread.start() does, and a Future needs memory to be set.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    outcome: _Outcome[T] = _Outcome()

    def work() -> None:
        try:
            outcome.value = function(*arguments, **named)
            outcome.has_value = True
        except BaseException as error:  # noqa: BLE001 - raised where the outcome is awaited
            outcome.error = error
            if isinstance(error, MemoryError):
                traceback.clear_frames(error.__traceback__)  # what is done next needs memory
        loop.call_soon_threadsafe(ended.set)

    held = _Thread()
    is_alive = weakref.ref(held)
    _thread.start_new_thread(_run, (work, held))
    del held
    waiter = asyncio.ensure_future(ended.wait())
    try:
        # An error keeps the thread's frames alive, and so what they hold. asyncio.timeout() of
        # Python 3.11.2 would end a task that was cancelled before and goes on.
        while not (outcome.has_value or outcome.error or waiter.done()) and is_alive():
            await asyncio.wait({waiter}, timeout=CHECK)
    finally:
        waiter.cancel()
    if outcome.error:
        raise outcome.error
    if not outcome.has_value:
        raise MemoryError("a thread died at its start")
    return outcome.value


def _run(work: Callable[[], None], _held: "_Thread") -> None:
    """Run a thread's work, and hold an object for as long as the thread runs.

    An error that is left is for want of memory, or of an event loop that has ended.
    """
    with contextlib.suppress(MemoryError, RuntimeError):
        work()


class _Thread:
    """An object that only a thread holds: a weak reference to it says whether the thread runs.

    That takes no memory, as a flag that the thread sets in the end may.
    """


class _Outcome(Generic[T]):
    """What came of a thread."""

    __slots__ = ("error", "has_value", "value")

    value: T

    def __init__(self) -> None:
        self.has_value = False
        self.error: BaseException | None = None
