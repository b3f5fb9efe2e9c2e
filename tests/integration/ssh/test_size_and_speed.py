"""The cost of a fetch over SSH: memory, round trips on a slow link, time of the event loop."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from postfix_sync.errors import OutOfReach
from postfix_sync.sources import ssh_session
from tests.parts.common import TRIES
from tests.parts.disk import small_disk
from tests.parts.slow_link import Link
from tests.parts.source_content import fetch
from tests.parts.ssh_source import BIG, Far, closing, failed, run

pytestmark = pytest.mark.slow


def in_its_own_process(far: Far, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the variable `source`, in a process with its own memory and output."""
    head = (
        "import asyncio, resource, sys, time\n"
        "from pathlib import Path, PurePosixPath\n"
        "from postfix_sync.sources.sftp import Ssh\n"
        "from postfix_sync.sources.ssh_login import Login\n"
        f"login = Login('127.0.0.1', {far.sshd.port}, 'root', Path({str(far.key)!r}),"
        f" Path({str(far.known_hosts)!r}), 10.0)\n"
        f"source = Ssh(login, PurePosixPath({str(far.files.directory)!r}), 2**30)\n"
        "def size(snapshot): return snapshot.lmtp.size\n"
        "async def never(_): return False\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, check=False
    )


def test_memory_does_not_grow_with_the_files(far: Far) -> None:
    script = (
        "async def main():\n"
        "    await source.read(size, never)\n"
        "    before = peak()\n"
        "    with open({path!r}, 'r+b') as file: file.truncate({size})\n"
        "    assert await source.read(size, never) == {size}\n"
        "    await source.close()\n"
        "    print(peak() - before)\n"
        "asyncio.run(main())\n"
    ).format(path=str(far.files.directory / "postfix_lmtp"), size=4 * BIG)
    done = in_its_own_process(far, script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < BIG


def test_fetch_prints_nothing_and_loads_no_heavy_module(far: Far) -> None:
    script = (
        "assert 'asyncssh' not in sys.modules\n"
        "async def main():\n"
        "    for key in (login.identity, Path('/etc/hostname')):\n"
        "        object.__setattr__(login, 'identity', key)\n"
        "        try: await source.read(size, never)\n"
        "        except Exception as error: print(type(error).__name__)\n"
        "        await source.close()\n"
        "asyncio.run(main())\n"
    )
    far.known_hosts.write_text(far.known_hosts.read_text() + "# nothing\n")
    done = in_its_own_process(far, script)
    assert (done.stderr, done.stdout) == ("", "NotPermitted\n")


def test_event_loop_is_not_blocked_while_a_large_file_is_fetched(far: Far) -> None:
    far.grow(2 * BIG)

    async def session() -> float:
        longest = 0.0

        async def beat() -> None:
            nonlocal longest
            while True:
                began = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - began)

        async with closing(far.source()) as source:
            beating = asyncio.create_task(beat())
            assert await fetch(source)
            beating.cancel()
        return longest

    assert min(run(session()) for _ in range(TRIES)) < 0.5


def test_unchanged_files_take_one_round_trip_on_a_slow_link(far: Far, slow_link: Link) -> None:
    far.grow(20_000_000)

    async def session() -> list[float]:
        async with closing(far.source(port=slow_link.port)) as source:
            assert await fetch(source)
            await fetch(source)
            seconds = []
            for _ in range(TRIES):
                began = time.monotonic()
                assert await fetch(source) is None
                seconds.append(time.monotonic() - began)
            return seconds

    assert 0.2 < min(run(session())) < 0.4, "one round trip for all three files"


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("percent", [10, 150], ids=["too small", "full with the copies"])
def test_full_disk_for_the_copies_is_named(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, percent: int
) -> None:
    """Copies do not take the last space: Postfix's queue may be on the same disk."""
    copies = tmp_path / "copies"
    monkeypatch.setattr(ssh_session, "COPIES", copies)
    far.grow(BIG)
    with small_disk(copies, f"{BIG * percent // 100}"):
        error = failed(far.source())
    assert type(error) is OutOfReach
    assert error.message.startswith(f"{copies}: can't copy the source's files there: No space left")
    assert f"df -h {copies}" in error.hint


def test_missing_directory_for_the_copies_is_named(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_session, "COPIES", tmp_path / "missing")
    error = failed(far.source())
    assert type(error) is OutOfReach
    assert (
        "missing: can't copy the source's files there: No such file or directory" in error.message
    )
