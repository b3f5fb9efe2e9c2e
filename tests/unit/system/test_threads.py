"""Work in daemon threads: its result, its error, and an end that does not wait for it."""

import asyncio
import subprocess
import sys

import pytest

from postfix_sync.system.threads import run_in_daemon_thread

HANGS = """\
import asyncio, threading
from postfix_sync.system.threads import run_in_daemon_thread

async def main():
    begun = threading.Event()
    def hang():
        begun.set()
        threading.Event().wait()
    task = asyncio.create_task(run_in_daemon_thread(hang))
    await run_in_daemon_thread(begun.wait)
    task.cancel()
    await asyncio.wait([task])
    print(task.cancelled())

asyncio.run(main())
"""


def test_result_and_error_are_those_of_the_function() -> None:
    assert asyncio.run(run_in_daemon_thread(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run_in_daemon_thread(divmod, 7, 0))


def test_process_ends_while_cancelled_work_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=20, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_thread_without_memory_to_report_its_end_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    async def main() -> tuple[int, int]:
        monkeypatch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", fail)
        async with asyncio.timeout(10):
            return await run_in_daemon_thread(divmod, 7, 2)

    assert asyncio.run(main()) == (3, 1)
