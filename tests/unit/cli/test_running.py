"""What the commands share."""

import asyncio
import os
import signal

import pytest

from postfix_sync.cli.running import complete


def test_sigterm_ends_work_as_an_interrupt_does() -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        complete(work())
