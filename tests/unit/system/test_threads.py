"""Work in daemon threads: its result, its error, and the end of the process without it."""

import asyncio
import subprocess
import sys
import time

import pytest

from postfix_sync.system.tasks import interrupted, to_its_end
from postfix_sync.system.threads import CHECK, run_in_daemon_thread

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


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent threads from reporting their end, as without memory."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "call_soon_threadsafe", fail)


@pytest.mark.usefixtures("mute")
def test_thread_that_can_not_report_its_end_is_detected() -> None:
    async def run(dividend: int, divisor: int) -> tuple[int, int]:
        async with asyncio.timeout(10):
            return await run_in_daemon_thread(divmod, dividend, divisor)

    assert asyncio.run(run(7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(7, 0))


def test_cancelled_task_that_continues_gets_its_result() -> None:
    """A sync that is stopped does so: it writes its report, which takes more than a second."""

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await to_its_end(asyncio.sleep(0.01))
        assert interrupted()
        return await run_in_daemon_thread(slowly)

    def slowly() -> str:
        time.sleep(CHECK + 0.3)
        return "done"

    assert asyncio.run(main()) == "done"
