"""The SSH source fetches complete snapshots of Mailman's files, and only after a change."""

import asyncio
import os
import threading
import time
from typing import Any

import pytest

from postfix_sync.errors import OutOfReach, Refused, SyncError
from postfix_sync.sources import sftp
from postfix_sync.sources.mailman_files import QUIET, SETTLE_AT_MOST
from postfix_sync.sources.sftp import Ssh
from postfix_sync.sources.ssh_session import BLOCK, Session
from tests.parts.mailman_files import lmtp_text
from tests.parts.source_content import Contents, fetch
from tests.parts.ssh_source import ANTS, BEES, BIG, Far, closing, failed, fetched, run, until

pytestmark = pytest.mark.slow

HOP = "lmtp:[127.0.0.1]:8024"


def test_fetch_returns_all_three_files(far: Far) -> None:
    far.files.write(ANTS, aliases={"ants@alias.example.net": ANTS})
    snapshot = fetched(far.source())
    assert snapshot
    assert snapshot.vmap
    for found, name in (
        (snapshot.lmtp, "postfix_lmtp"),
        (snapshot.domains, "postfix_domains"),
        (snapshot.vmap, "postfix_vmap"),
    ):
        assert found.content == (far.files.directory / name).read_bytes()
        assert found.place == far.place(name)


def test_missing_vmap_is_not_an_error(far: Far) -> None:
    snapshot = fetched(far.source())
    assert snapshot
    assert snapshot.vmap is None


@pytest.mark.parametrize(
    "size",
    [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5_000_001],
)
def test_file_of_any_size_is_fetched_whole(far: Far, size: int) -> None:
    content = os.urandom(size)
    far.files.put("postfix_lmtp", content)
    snapshot = fetched(far.source())
    assert snapshot
    assert snapshot.lmtp.content == content


def test_unchanged_files_are_not_read_again(counted: Far) -> None:
    """A file that was young at its first read is read once more, and never after that."""

    async def session() -> None:
        async with closing(counted.source()) as source:
            assert await fetch(source)
            await asyncio.sleep(sftp.COARSE)  # until the file is old enough
            assert await fetch(source) is None
            opened = counted.sshd.requests("open")
            assert opened == 4
            looked = counted.sshd.requests("lstat")
            for _ in range(3):
                assert await fetch(source) is None
            assert counted.sshd.requests("open") == opened
            await until(
                lambda: counted.sshd.requests("lstat") == looked + 9, "three looks at three files"
            )
            source.forget()
            assert await fetch(source)
            assert counted.sshd.requests("open") == opened + 2

    run(session())


def test_changed_files_are_fetched_again(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await fetch(source)
            far.files.write(ANTS, BEES)
            again = await fetch(source)
            assert again
            assert BEES.encode() in again.lmtp.content
            far.files.write(ANTS, BEES, aliases={"ants@alias.example.net": ANTS})
            again = await fetch(source)
            assert again
            assert again.vmap

    run(session())


def test_rewrite_within_the_same_second_is_fetched(far: Far) -> None:
    """The size and the second are the same, so the attributes in SFTP have not changed."""
    name = "postfix_domains"
    path = far.files.directory / name

    async def session() -> None:
        async with closing(far.source()) as source:
            far.files.put(name, "a.example a.example\n")
            whole = int(time.time())
            os.utime(path, (whole, whole))
            assert await fetch(source)
            far.files.put(name, "b.example b.example\n")
            os.utime(path, (whole, whole))
            again = await fetch(source)
            assert again
            assert again.domains.content.startswith(b"b.")

    run(session())


def test_fetch_waits_until_files_just_written_are_complete(far: Far) -> None:
    far.files.put("postfix_lmtp", lmtp_text([ANTS, "cats@other.example"], HOP))
    far.files.put("postfix_domains", "early")

    async def session() -> Contents | None:
        async with closing(far.source()) as source:
            assert await refusal_or(source)  # so that the login is not part of the measured time
            far.files.put("postfix_lmtp", "changed")
            fetching = asyncio.create_task(fetch(source))
            await asyncio.sleep(QUIET * 0.7)
            far.files.put("postfix_domains", "late")
            return await fetching

    async def refusal_or(source: Ssh) -> bool:
        return await fetch(source) is not None

    snapshot = run(session())
    assert snapshot
    assert (snapshot.lmtp.content, snapshot.domains.content) == (b"changed", b"late")


def test_file_replaced_during_the_read_is_read_again(counted: Far) -> None:
    """Both files contain a number; a snapshot with two numbers would be inconsistent."""
    names = ("postfix_lmtp", "postfix_domains")

    def stage(number: int) -> None:
        for name in names:
            with (counted.files.directory / f"{name}.new").open("wb") as file:
                file.write(b"%d" % number)
                file.truncate(BIG)
                file.seek(-1, os.SEEK_END)
                file.write(b"%d" % number)
            os.utime(file.name, (number, number))  # two writes may fall into one second

    def publish() -> None:
        for name in names:
            (counted.files.directory / f"{name}.new").rename(counted.files.directory / name)

    async def session() -> Contents | None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(fetch(source))
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            assert not fetching.done()
            publish()
            return await fetching

    stage(1)
    publish()
    stage(2)
    snapshot = run(session())
    assert snapshot
    for file in (snapshot.lmtp, snapshot.domains):
        assert (len(file.content), file.content[:1], file.content[-1:]) == (BIG, b"2", b"2")


def test_files_that_change_constantly_are_refused_or_fetched_whole(far: Far) -> None:
    """Each version is longer than the previous one, so that its SFTP attributes differ."""
    ended = threading.Event()

    def text(turn: int) -> str:
        return f"{turn}\n" + "#" * turn

    def rewrite() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            far.files.put("postfix_lmtp", text(turn))

    thread = threading.Thread(target=rewrite)
    thread.start()

    async def session() -> Contents | SyncError | None:
        async with closing(far.source()) as source:
            try:
                return await fetch(source)
            except OutOfReach as error:
                return error

    began = time.monotonic()
    try:
        found = run(session())
    finally:
        ended.set()
        thread.join()
    assert time.monotonic() - began > SETTLE_AT_MOST
    if isinstance(found, SyncError):
        assert "change faster than they can be read" in found.message
        assert found.hint == f"see what writes there: fuser -v {far.files.directory}/postfix_lmtp"
    else:
        assert found
        content = found.lmtp.content.decode()
        assert content == text(int(content.split()[0]))


def test_files_that_change_during_each_read_are_read_three_times(
    counted: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "SETTLE_AT_MOST", 0.0)
    real = Session.read
    reads = 0

    async def read(self: Any, state: Any, files: Any) -> Any:
        nonlocal reads
        reads += 1
        found = await real(self, state, files)
        counted.files.put("postfix_lmtp", "x" * reads)
        return found

    monkeypatch.setattr(Session, "read", read)
    error = failed(counted.source())
    assert type(error) is OutOfReach
    assert "change faster than they can be read" in error.message
    assert reads == sftp.READS_AT_LEAST


def test_file_that_grows_during_each_read_is_refused(far: Far) -> None:
    """Each read ends at the size that the file had at its start."""
    path = far.grow(2**24)
    ended = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not ended.is_set() and file.tell() < 2**27:
                file.write(bytes(2**16))
                file.flush()
                time.sleep(0.001)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        error = failed(far.source(max_size=2**25))
    finally:
        ended.set()
        thread.join()
    assert type(error) is Refused
    assert "more than guard.max_size" in error.message
