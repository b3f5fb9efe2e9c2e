"""The volume source on a real directory: consistent snapshots, and a watch that keeps working.

Mailman renames three files one after the other, and rewrites them at any time; the directory is a
volume that may be unmounted and mounted again.

Many of these tests depend on fractions of a second, and a machine may pause for longer than that.
A time that is too short is a failure if the test saw no pause; a time that is too long, or an
excess of changes, is a failure if it happens TRIES times in a row.
"""

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from postfix_sync.errors import HalfWritten, OutOfReach, Refused
from postfix_sync.model.source import Snapshot
from postfix_sync.sources.local import RECHECK, REREAD_FOR, Volume
from postfix_sync.sources.mailman_files import QUIET, SETTLE_AT_MOST
from tests.parts.common import PATIENCE, TRIES, run, wait_for
from tests.parts.mailman_files import HEADER, MailmanFiles, lmtp_text
from tests.parts.source_content import Contents, contents_of, fetch, never

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
TICK = 0.02
"""The most seconds by which a file's time of change may precede the change."""


@pytest.fixture
def files(tmp_path: Path) -> MailmanFiles:
    """A data directory without recent changes."""
    made = MailmanFiles(tmp_path / "data")
    made.write(ANTS)
    time.sleep(QUIET + 0.05)  # the directory must be unchanged for this time
    return made


def volume(files: MailmanFiles) -> Volume:
    """Return the source for this directory."""
    return Volume(files.directory, max_size=2**30)


def timed_fetch(files: MailmanFiles) -> tuple[Contents, float]:
    """Return a snapshot, and the seconds that it took."""
    began = time.monotonic()
    snapshot = asyncio.run(fetch(volume(files)))
    assert snapshot
    return snapshot, time.monotonic() - began


class Changes:
    """Repeat a change in a thread, and measure the longest time without a change."""

    def __init__(self, act: Callable[[], None], pause: float = 0) -> None:
        """Prepare; `pause` is in seconds."""
        self.count = 0
        self._act, self._pause = act, pause
        self._longest = 0.0
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat)

    def __enter__(self) -> Self:
        """Start, and wait for the first changes."""
        self._thread.start()
        wait_for(lambda: self.count > 1, PATIENCE, "changes")
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop the thread."""
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            self._act()
            if self.count:
                self._longest = max(self._longest, self.rest)
            self._last = began
            self.count += 1
            self._ended.wait(self._pause)

    @property
    def rest(self) -> float:
        """Seconds since the last change began."""
        return time.monotonic() - self._last

    @property
    def were_quiet(self) -> bool:
        """Return whether the directory may have been unchanged for QUIET at some time."""
        rest = self.rest  # read before _longest, which it may be added to
        return max(self._longest, rest) > QUIET - TICK


def test_unchanged_files_are_read_at_once(files: MailmanFiles) -> None:
    for _ in range(TRIES):
        snapshot, seconds = timed_fetch(files)
        if seconds < QUIET / 2:
            break
    assert seconds < QUIET / 2
    assert snapshot.lmtp.content == (files.directory / "postfix_lmtp").read_bytes()
    assert snapshot.lmtp.place == str(files.directory / "postfix_lmtp")
    assert snapshot.domains.content == (files.directory / "postfix_domains").read_bytes()
    assert snapshot.vmap is None


def test_snapshot_has_aliases_if_there_are_any(files: MailmanFiles) -> None:
    files.write(ANTS, aliases={"ants@alias.example.net": ANTS})
    snapshot, _ = timed_fetch(files)
    assert snapshot.vmap
    assert snapshot.vmap.content == (files.directory / "postfix_vmap").read_bytes()


def test_files_that_were_just_written_are_read_after_a_pause(files: MailmanFiles) -> None:
    for _ in range(TRIES):
        began = time.monotonic()
        files.write(ANTS, BEES)
        timed_fetch(files)
        seconds = time.monotonic() - began
        assert seconds > QUIET - TICK
        if seconds < SETTLE_AT_MOST / 2:
            break
    assert seconds < SETTLE_AT_MOST / 2


def test_files_are_read_after_the_last_of_them_is_written(files: MailmanFiles) -> None:
    """The second file is written when the first is nearly old enough to be read."""
    for _ in range(TRIES):
        began = time.monotonic()
        files.put("postfix_domains", "early")
        files.put("postfix_lmtp", lmtp_text([ANTS, "cats@other.example"], "lmtp:[127.0.0.1]:8024"))
        taken: list[float] = []

        def complete() -> None:
            files.put("postfix_domains", "late")
            taken.append(time.monotonic() - began)  # noqa: B023 - joined below

        late = threading.Timer(QUIET * 0.7, complete)
        late.start()
        snapshot, _ = timed_fetch(files)
        late.join()
        if taken[0] < QUIET - TICK:
            break
    assert taken[0] < QUIET - TICK, "this machine pauses all the time"
    assert snapshot.domains.content == b"late"


def test_result_that_is_safe_counts_at_once(files: MailmanFiles) -> None:
    for _ in range(TRIES):
        files.write(ANTS, BEES)
        found, seconds, asked = asyncio.run(read_if(files, safe=True))
        if seconds < QUIET / 2:
            break
    assert seconds < QUIET / 2
    assert asked == [found]
    assert BEES in found


def test_result_that_is_not_safe_counts_once_the_files_are_quiet(files: MailmanFiles) -> None:
    began = time.time()
    files.write(ANTS, BEES)
    found, _, asked = asyncio.run(read_if(files, safe=False))
    assert asked == [found], "it is read early, and each version once"
    assert time.time() - began > QUIET - TICK


def test_error_counts_once_the_files_are_quiet(files: MailmanFiles) -> None:
    """A set of files that contradict each other is normal while Mailman writes them."""
    calls = 0

    def refuse(_snapshot: Snapshot) -> str:
        nonlocal calls
        calls += 1
        raise HalfWritten("half")

    async def safe(_found: str) -> bool:
        return True

    began = time.time()
    files.write(ANTS, BEES)
    with pytest.raises(HalfWritten):
        asyncio.run(volume(files).read(refuse, safe))
    assert time.time() - began > QUIET - TICK
    assert calls == 2


def test_error_of_files_that_change_meanwhile_does_not_count(files: MailmanFiles) -> None:
    calls = 0

    def refuse_once(snapshot: Snapshot) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            files.put("postfix_domains", "new\n")
            raise Refused("the old file")
        return contents_of(snapshot).domains.content.decode()

    assert asyncio.run(volume(files).read(refuse_once, never)) == "new\n"


async def read_if(files: MailmanFiles, *, safe: bool) -> tuple[str, float, list[str]]:
    """Return postfix_lmtp, the seconds to read it, and the texts that `is_safe` judged."""
    asked: list[str] = []

    async def is_safe(found: str) -> bool:
        asked.append(found)
        return safe

    def parse(snapshot: Snapshot) -> str:
        return contents_of(snapshot).lmtp.content.decode()

    began = time.monotonic()
    found = await volume(files).read(parse, is_safe)
    return found, time.monotonic() - began, asked


def test_files_replaced_during_the_read_are_read_again(
    files: MailmanFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files have a number: in a consistent snapshot, the numbers are equal."""
    names = ("postfix_lmtp", "postfix_domains")
    first, second = (files.directory / name for name in names)
    for name in names:
        files.put(name, "1")
    time.sleep(QUIET + 0.05)  # the files must be unchanged for this time
    replaced = 0

    def replacing_open(path: Path, *others: Any) -> int:
        """Replace both files after the first was read."""
        nonlocal replaced
        if path == second and not replaced:
            replaced += 1
            for name in names:
                files.put(name, "2")
        return os_open(path, *others)

    os_open = os.open
    monkeypatch.setattr(os, "open", replacing_open)
    snapshot, _ = timed_fetch(files)
    assert replaced
    assert [file.content for file in (snapshot.lmtp, snapshot.domains)] == [b"2", b"2"]
    assert first.read_bytes() == b"2"


@pytest.mark.usefixtures("root")
def test_file_longer_than_its_size_is_not_read_in_part(files: MailmanFiles) -> None:
    """A file that grows during the read; those of proc(5) always do, as their size is 0."""
    files.put("postfix_vmap", "")
    path = files.directory / "postfix_vmap"
    run("mount", "--bind", "/proc/version", str(path))
    try:
        assert path.stat().st_size == 0
        with pytest.raises(OutOfReach, match="change faster than they can be read"):
            timed_fetch(files)
    finally:
        run("umount", str(path))


def test_files_that_always_change_are_read_consistently_or_not_at_all(files: MailmanFiles) -> None:
    """Within about 2 s, the files are read between two changes, or an error is raised."""
    hop = "lmtp:[127.0.0.1]:8024"
    texts = [lmtp_text([name], hop) for name in (ANTS, BEES)]
    turns = itertools.cycle(texts)
    for _ in range(TRIES):
        with Changes(lambda: files.put("postfix_lmtp", next(turns))) as changes:
            began = time.monotonic()
            found = asyncio.run(_fetched(volume(files)))
            were_quiet, seconds = changes.were_quiet, time.monotonic() - began
        if isinstance(found, OutOfReach):
            assert "change faster than they can be read" in found.message
            assert f"fuser -v {files.directory / 'postfix_lmtp'}" in found.hint
            assert seconds > SETTLE_AT_MOST
        else:
            assert found.lmtp.content.decode() in texts
            assert seconds > SETTLE_AT_MOST or were_quiet
        if SETTLE_AT_MOST < seconds < SETTLE_AT_MOST + REREAD_FOR + 0.5:
            break
    assert SETTLE_AT_MOST < seconds < SETTLE_AT_MOST + REREAD_FOR + 0.5


async def _fetched(source: Volume) -> Contents | OutOfReach:
    try:
        async with asyncio.timeout(PATIENCE):
            found = await fetch(source)
    except OutOfReach as error:
        return error
    assert found
    return found


def test_files_that_often_change_are_read_after_two_seconds(files: MailmanFiles) -> None:
    """There is a change at least every 200 ms, but the files can be read between two changes."""
    for _ in range(TRIES):
        with Changes(lambda: files.put("postfix_vmap", HEADER), pause=QUIET / 2) as changes:
            began = time.monotonic()
            found = asyncio.run(_fetched(volume(files)))
            were_quiet, seconds = changes.were_quiet, time.monotonic() - began
        assert seconds > SETTLE_AT_MOST or were_quiet
        taken = isinstance(found, Contents) and found.vmap is not None
        if taken and SETTLE_AT_MOST < seconds < SETTLE_AT_MOST + 1:
            break
    assert taken
    assert SETTLE_AT_MOST < seconds < SETTLE_AT_MOST + 1


@pytest.mark.parametrize("missing", ["postfix_lmtp", "postfix_domains"])
def test_missing_file_is_out_of_reach(files: MailmanFiles, missing: str) -> None:
    (files.directory / missing).unlink()
    with pytest.raises(OutOfReach, match="No such file") as caught:
        timed_fetch(files)
    assert caught.value.message.startswith(f"{files.directory / missing}: ")
    assert "mailman aliases" in caught.value.hint


def test_missing_directory_is_out_of_reach(files: MailmanFiles) -> None:
    files.directory.rename(files.directory.with_name("away"))
    with pytest.raises(OutOfReach, match="No such file") as caught:
        timed_fetch(files)
    assert str(files.directory) in caught.value.message
    assert caught.value.hint == "is the volume mounted, and is it the source's path?"


# --- the watch


class Watch:
    """A task that collects what Volume.changes yields."""

    def __init__(self, source: Volume) -> None:
        """Start the task."""
        self.times: list[float] = []
        self._task = asyncio.create_task(self._follow(source))

    async def _follow(self, source: Volume) -> None:
        async for _ in source.changes():
            self.times.append(time.monotonic())

    async def reaches(self, number: int) -> float:
        """Wait for the change of this number; return when it was reported."""
        async with asyncio.timeout(PATIENCE):
            while len(self.times) < number:
                assert not self._task.done(), self._task
                await asyncio.sleep(0.01)
        return self.times[number - 1] if number else 0

    async def rests(self, least: int = 1) -> int:
        """Return the number of changes once they have stopped; the first one reports the start."""
        await self.reaches(least)
        async with asyncio.timeout(PATIENCE):
            while True:
                seen = len(self.times)
                await asyncio.sleep(1.2 * RECHECK)
                if len(self.times) == seen:
                    return seen

    async def end(self) -> None:
        """End the task."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def watching(files: MailmanFiles) -> AsyncIterator[Watch]:
    """Watch the directory until the end of the block."""
    watch = Watch(volume(files))
    try:
        yield watch
    finally:
        await watch.end()


def test_rename_into_the_directory_is_reported_soon(files: MailmanFiles) -> None:
    async def session() -> None:
        async with watching(files) as watch:
            armed = await watch.rests()
            assert armed == 1, "one for being armed: what happened before was not seen"
            for _ in range(TRIES):
                before = await watch.rests()
                began = time.monotonic()
                await asyncio.to_thread(files.write, ANTS, BEES)
                seconds = await watch.reaches(before + 1) - began
                changes = await watch.rests() - before
                if seconds < 1 and changes == 1:
                    break
            assert seconds < 1
            assert changes == 1, "two renames at once are one change"

    asyncio.run(session())


def test_directory_that_is_removed_and_created_again_is_watched(files: MailmanFiles) -> None:
    """The watch reports only events in the directory, not the removal of the directory itself."""

    async def session() -> None:
        async with watching(files) as watch:
            before = await watch.rests()
            for name in ("postfix_lmtp", "postfix_domains"):
                (files.directory / name).unlink()
            files.directory.rmdir()
            gone = await watch.reaches(before + 1)
            assert gone
            before = await watch.rests()
            files.write(ANTS)
            await watch.reaches(before + 1)
            before = await watch.rests()
            files.write(ANTS, BEES)
            await watch.reaches(before + 1)

    asyncio.run(session())


def test_directory_that_is_replaced_is_watched(files: MailmanFiles) -> None:
    """A rename replaces it at once, as a volume that is mounted over the old one does."""
    other = MailmanFiles(files.directory.with_name("other"))
    other.write(ANTS)

    async def session() -> None:
        async with watching(files) as watch:
            await watch.rests()
            files.directory.rename(files.directory.with_name("old"))
            other.directory.rename(files.directory)
            before = await watch.rests()
            files.write(ANTS, BEES)
            await watch.reaches(before + 1)

    asyncio.run(session())


def test_directory_that_is_created_later_is_watched(tmp_path: Path) -> None:
    files = MailmanFiles(tmp_path / "data")

    async def session() -> None:
        async with watching(files) as watch:
            assert await watch.rests(least=0) == 0
            files.write(ANTS)
            await watch.reaches(1)
            before = await watch.rests()
            files.write(ANTS, BEES)
            await watch.reaches(before + 1)

    asyncio.run(session())


def test_each_rename_is_reported_soon(files: MailmanFiles) -> None:
    """The first may be read before the second happens, so the second must be reported, too."""

    async def session() -> None:
        async with watching(files) as watch:
            longest = 0.0
            for _ in range(TRIES):
                before = await watch.rests()
                for number, name in enumerate(("postfix_lmtp", "postfix_vmap"), start=1):
                    began = time.monotonic()
                    files.put(name, HEADER)
                    longest = await watch.reaches(before + number) - began
                    if longest > QUIET:
                        break
                if longest < QUIET:
                    break
            assert longest < QUIET

    asyncio.run(session())


def test_changes_are_reported_during_a_stream_of_events(files: MailmanFiles) -> None:
    async def session() -> None:
        async with watching(files) as watch:
            before = await watch.rests()
            # Other files, too: watchfiles waits as long as it sees more of them.
            names = (f"{number}" if number % 4 else "postfix_lmtp" for number in itertools.count())
            with Changes(lambda: files.put(next(names), HEADER), pause=QUIET / 40):
                reported = time.monotonic()
                in_time = 0
                for number in range(before + 1, before + 1 + TRIES):
                    previous, reported = reported, await watch.reaches(number)
                    in_time += reported - previous < 1
                    if in_time == 2:
                        break
            assert in_time == 2

    asyncio.run(session())


def test_watch_ends_at_once_when_it_is_cancelled(files: MailmanFiles) -> None:
    async def session() -> float:
        async with watching(files) as watch:
            await watch.reaches(1)
            began = time.monotonic()
        return time.monotonic() - began

    assert any(asyncio.run(session()) < 1 for _ in range(TRIES))
