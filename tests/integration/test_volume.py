"""The volume source on a real directory: whole snapshots, and a watch that doesn't go deaf.

Mailman renames three files one after the other, and rewrites them whenever it likes; the directory
is a volume that may come, go, and come back.
"""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from postfix_sync.errors import OutOfReach
from postfix_sync.model import Snapshot
from postfix_sync.sources import QUIET, SETTLE_AT_MOST
from postfix_sync.sources.volume import LOOK_AGAIN, Volume
from tests.parts.mailman_files import HEADER, MailmanFiles, lmtp_text

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"


@pytest.fixture
def files(tmp_path: Path) -> MailmanFiles:
    """A data directory that has been quiet for a while."""
    made = MailmanFiles(tmp_path / "data")
    made.write(ANTS)
    time.sleep(QUIET + 0.05)  # being quiet is a matter of time alone
    return made


def volume(files: MailmanFiles) -> Volume:
    """The source, on this directory."""
    return Volume(files.directory, max_size=2**30)


def timed_fetch(files: MailmanFiles) -> tuple[Snapshot, float]:
    """A snapshot, and how long it took."""
    began = time.monotonic()
    snapshot = asyncio.run(volume(files).fetch())
    return snapshot, time.monotonic() - began


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Does something again and again in a thread."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def put_and_pause(files: MailmanFiles, name: str, seconds: float) -> None:
    """One change in a stream of them."""
    files.put(name, HEADER)
    time.sleep(seconds)


def test_a_quiet_set_is_taken_at_once(files: MailmanFiles) -> None:
    snapshot, seconds = timed_fetch(files)
    assert seconds < QUIET / 2
    assert snapshot.lmtp.content == (files.directory / "postfix_lmtp").read_bytes()
    assert snapshot.lmtp.place == str(files.directory / "postfix_lmtp")
    assert snapshot.domains.content == (files.directory / "postfix_domains").read_bytes()
    assert snapshot.vmap is None


def test_aliases_are_part_of_a_snapshot_where_there_are_any(files: MailmanFiles) -> None:
    files.write(ANTS, aliases={"ants@alias.example.net": ANTS})
    snapshot, _ = timed_fetch(files)
    assert snapshot.vmap
    assert snapshot.vmap.content == (files.directory / "postfix_vmap").read_bytes()


def test_a_set_that_was_just_written_is_given_time_to_be_completed(files: MailmanFiles) -> None:
    files.write(ANTS, BEES)
    _, seconds = timed_fetch(files)
    assert QUIET - 0.05 < seconds < QUIET + 0.5


def test_a_set_is_taken_when_all_of_it_is_there(files: MailmanFiles) -> None:
    """The second file comes when the first is nearly old enough to pass for complete."""
    files.put("postfix_lmtp", lmtp_text([ANTS, "cats@other.example"], "lmtp:[127.0.0.1]:8024"))
    late = threading.Timer(QUIET * 0.7, files.put, ("postfix_domains", "late"))
    late.start()
    snapshot, _ = timed_fetch(files)
    late.join()
    assert snapshot.domains.content == b"late"


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(files: MailmanFiles) -> None:
    """Both files carry a number: a snapshot with two numbers would be torn."""
    names = ("postfix_lmtp", "postfix_domains")

    def stage(number: int) -> None:
        for name in names:
            with (files.directory / f"{name}.new").open("wb") as file:
                file.write(b"%d" % number)
                file.truncate(2**25)  # takes a moment to read, and none to write

    def publish() -> None:
        for name in names:
            (files.directory / f"{name}.new").rename(files.directory / name)

    def is_being_read() -> bool:
        opened = set()
        for one in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed meanwhile
                opened.add(one.readlink())
        return files.directory / names[0] in opened

    async def replaced_during_the_read() -> Snapshot:
        fetching = asyncio.create_task(volume(files).fetch())
        while not is_being_read():
            assert not fetching.done(), "this machine needs larger files here"
            await asyncio.sleep(0)
        publish()
        return await fetching

    stage(1)
    publish()
    stage(2)
    time.sleep(QUIET + 0.05)  # being quiet is a matter of time alone
    snapshot = asyncio.run(replaced_during_the_read())
    assert [one.content[:1] for one in (snapshot.lmtp, snapshot.domains)] == [b"2", b"2"]


def test_a_set_that_is_never_quiet_is_given_up_or_taken_whole(files: MailmanFiles) -> None:
    """Both within some 2 s: either a moment was found at which nothing changed, or it is said."""
    hop = "lmtp:[127.0.0.1]:8024"
    texts = [lmtp_text([name], hop) for name in (ANTS, BEES)]
    turn = 0

    def rewrite() -> None:
        nonlocal turn
        turn += 1
        files.put("postfix_lmtp", texts[turn % 2])

    with meanwhile(rewrite):
        began = time.monotonic()
        found = asyncio.run(_fetched(volume(files)))
        seconds = time.monotonic() - began
    if isinstance(found, OutOfReach):
        assert "change faster than they can be read" in found.message
        assert f"fuser -v {files.directory / 'postfix_lmtp'}" in found.hint
    else:
        assert found.lmtp.content.decode() in texts
    assert SETTLE_AT_MOST - 0.1 < seconds < SETTLE_AT_MOST + 1


async def _fetched(source: Volume) -> Snapshot | OutOfReach:
    try:
        return await source.fetch()
    except OutOfReach as error:
        return error


def test_a_set_that_changes_now_and_then_is_taken_after_two_seconds(files: MailmanFiles) -> None:
    """It never rests for 200 ms, and yet it can be read between two changes."""
    files.put("postfix_vmap", HEADER)
    with meanwhile(partial(put_and_pause, files, "postfix_vmap", QUIET / 2)):
        snapshot, seconds = timed_fetch(files)
    assert snapshot.vmap
    assert SETTLE_AT_MOST - 0.1 < seconds < SETTLE_AT_MOST + 1


@pytest.mark.parametrize("missing", ["postfix_lmtp", "postfix_domains"])
def test_a_file_is_missing(files: MailmanFiles, missing: str) -> None:
    (files.directory / missing).unlink()
    with pytest.raises(OutOfReach, match="No such file") as caught:
        timed_fetch(files)
    assert caught.value.message.startswith(f"{files.directory / missing}: ")
    assert "mailman aliases" in caught.value.hint


def test_the_directory_is_missing(files: MailmanFiles) -> None:
    files.directory.rename(files.directory.with_name("away"))
    with pytest.raises(OutOfReach, match="No such file") as caught:
        timed_fetch(files)
    assert str(files.directory) in caught.value.message
    assert caught.value.hint == "is the volume mounted, and is it the source's path?"


# --- the watch


class Watch:
    """What Volume.changes yields, from a task of its own."""

    def __init__(self, source: Volume) -> None:
        """Begin."""
        self.times: list[float] = []
        self._task = asyncio.create_task(self._follow(source))

    async def _follow(self, source: Volume) -> None:
        async for _ in source.changes():
            self.times.append(time.monotonic())

    async def reaches(self, number: int, timeout: float) -> float:
        """Wait for so many changes in all; when the last of them was told."""
        async with asyncio.timeout(timeout):
            while len(self.times) < number:
                assert not self._task.done(), self._task
                await asyncio.sleep(0.01)
        return self.times[number - 1]

    async def rests(self) -> int:
        """The number of changes, once there is no more for a while."""
        async with asyncio.timeout(10):
            while True:
                seen = len(self.times)
                await asyncio.sleep(1.2 * LOOK_AGAIN)
                if len(self.times) == seen:
                    return seen

    async def end(self) -> None:
        """End."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def watching(files: MailmanFiles) -> AsyncIterator[Watch]:
    """A watch of the directory, ended after the block."""
    watch = Watch(volume(files))
    try:
        yield watch
    finally:
        await watch.end()


def test_a_rename_into_the_directory_is_told_soon(files: MailmanFiles) -> None:
    async def session() -> None:
        async with watching(files) as watch:
            armed = await watch.rests()
            assert armed == 1, "one for being armed: what happened before was not seen"
            began = time.monotonic()
            await asyncio.to_thread(files.write, ANTS, BEES)
            assert await watch.reaches(armed + 1, 3) - began < 1
            assert await watch.rests() == armed + 1, "two renames at once are one change"

    asyncio.run(session())


def test_a_directory_that_was_removed_and_made_again_is_watched(files: MailmanFiles) -> None:
    """Also under a watch that does not see its own directory go, for it sees only what is in it."""

    async def session() -> None:
        async with watching(files) as watch:
            before = await watch.rests()
            for name in ("postfix_lmtp", "postfix_domains"):
                (files.directory / name).unlink()
            files.directory.rmdir()
            gone = await watch.reaches(before + 1, 3)
            assert gone
            before = await watch.rests()
            files.write(ANTS)
            await watch.reaches(before + 1, 3 * LOOK_AGAIN)
            before = await watch.rests()
            files.write(ANTS, BEES)
            await watch.reaches(before + 1, 3)

    asyncio.run(session())


def test_a_directory_that_was_replaced_is_watched(files: MailmanFiles) -> None:
    """By a rename, at once: as a volume that is mounted over the old one."""
    other = MailmanFiles(files.directory.with_name("other"))
    other.write(ANTS)

    async def session() -> None:
        async with watching(files) as watch:
            await watch.rests()
            files.directory.rename(files.directory.with_name("old"))
            other.directory.rename(files.directory)
            before = await watch.rests()
            files.write(ANTS, BEES)
            await watch.reaches(before + 1, 3)

    asyncio.run(session())


def test_a_directory_that_appears_later_is_watched(tmp_path: Path) -> None:
    files = MailmanFiles(tmp_path / "data")

    async def session() -> None:
        async with watching(files) as watch:
            assert await watch.rests() == 0
            files.write(ANTS)
            await watch.reaches(1, 4 * LOOK_AGAIN)
            before = await watch.rests()
            files.write(ANTS, BEES)
            await watch.reaches(before + 1, 3)

    asyncio.run(session())


def test_a_burst_is_one_change(files: MailmanFiles) -> None:
    """Ten rewrites, each within 200 ms of the one before."""

    async def session() -> None:
        async with watching(files) as watch:
            before = await watch.rests()
            for _ in range(10):
                files.write(ANTS, BEES)
                await asyncio.sleep(QUIET / 4)
            told = await watch.reaches(before + 1, 3)
            assert time.monotonic() - told < 1
            assert await watch.rests() <= before + 2

    asyncio.run(session())


def test_a_stream_of_events_does_not_starve_whoever_waits(files: MailmanFiles) -> None:
    async def session() -> None:
        async with watching(files) as watch:
            before = await watch.rests()
            began = time.monotonic()
            names = itertools.cycle(["postfix_lmtp", "postfix_domains", "postfix_vmap"])
            with meanwhile(lambda: put_and_pause(files, next(names), QUIET / 10)):
                first = await watch.reaches(before + 1, 2 * SETTLE_AT_MOST)
                second = await watch.reaches(before + 2, 2 * SETTLE_AT_MOST)
            assert first - began < SETTLE_AT_MOST + 0.7
            assert second - first < SETTLE_AT_MOST + 0.7

    asyncio.run(session())


def test_a_watch_ends_at_once_when_it_is_cancelled(files: MailmanFiles) -> None:
    async def session() -> float:
        async with watching(files) as watch:
            await watch.reaches(1, 3)
            began = time.monotonic()
        return time.monotonic() - began

    assert asyncio.run(session()) < 1
