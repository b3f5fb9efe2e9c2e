"""One module a command: from its options to its exit status.

Each has a function `run(options)`, and is imported when its command is given, so that no command
pays for what another one needs.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

T = TypeVar("T")


def load(options: argparse.Namespace) -> "Config":
    """The configuration that the command line names. Raises ConfigError or NotPermitted."""
    from postfix_sync.config.reading import load  # noqa: PLC0415 - pydantic is heavy
    from postfix_sync.config.schema import DEFAULT_PATH  # noqa: PLC0415 - pydantic is heavy

    return load(options.config or DEFAULT_PATH)


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end; SIGTERM cancels it, as SIGINT does."""

    async def cancelled_by_sigterm() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    wait_without_threads()
    return asyncio.run(cancelled_by_sigterm())


def wait_without_threads() -> None:
    """Have asyncio wait for commands by pidfd_open(2), as it does by itself from Python 3.12 on.

    Until then it starts a thread for each command, and where memory is short, Thread.start() may
    wait for ever for a thread that has ended already.
    """
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            return  # an old kernel, or a sandbox that does not know it
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
