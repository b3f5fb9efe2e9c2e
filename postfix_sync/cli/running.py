"""What the commands share: load the configuration, and run coroutines.

The module of each command has a function `run(options)`, which returns the exit status. It is
imported only for its command, so that no command loads what only another one needs.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from postfix_sync.config import reading
from postfix_sync.config.schema import DEFAULT_PATH, Config

T = TypeVar("T")


def load(options: argparse.Namespace) -> Config:
    """Load the configuration that the command line names. Raises ConfigError or NotPermitted."""
    return reading.load(options.config or DEFAULT_PATH)


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result; SIGTERM cancels it, as SIGINT does.

    Raises KeyboardInterrupt if it was cancelled.
    """

    async def cancelled_by_sigterm() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    return run_loop(cancelled_by_sigterm())


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in an event loop. Raises KeyboardInterrupt if it was cancelled."""
    _wait_without_threads()
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _wait_without_threads() -> None:
    """Have asyncio wait for commands with pidfd_open(2), which is its default since Python 3.12.

    Older versions start a thread for each command, and when memory is short, Thread.start() may
    wait forever for a thread that has already ended.
    """
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            return  # an old kernel, or a sandbox that does not permit it
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
