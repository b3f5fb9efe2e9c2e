"""A poll of a volume in which Mailman writes: additions count at once, all else when it rests."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from postfix_sync.model.source import Policy, Record
from postfix_sync.postfix.folding import fold_unicode
from postfix_sync.reconcile.fetch import Fetched, fetch_once
from postfix_sync.sources import local
from postfix_sync.sources.local import Volume
from postfix_sync.store.records import Records
from tests.parts.common import PATIENCE
from tests.parts.mailman_files import MailmanFiles, lmtp_text, nine

pytestmark = pytest.mark.slow

ANTS, BEES, CATS = (f"{name}@lists.example.net" for name in ("ants", "bees", "cats"))
HOP = "lmtp:[127.0.0.1]:8024"
ALIAS = "example.net"


class WatchedRecords(Records):
    """Records that note when they are read: the lists that were found then are judged."""

    def __init__(self, directory: Path) -> None:
        """Prepare, within the event loop."""
        super().__init__(directory)
        object.__setattr__(self, "was_read", asyncio.Event())
        object.__setattr__(self, "_loop", asyncio.get_running_loop())

    was_read: asyncio.Event
    _loop: asyncio.AbstractEventLoop

    def read_now(self, source: str) -> Record | None:
        """Read a record in a thread, and note it."""
        found = super().read_now(source)
        self._loop.call_soon_threadsafe(self.was_read.set)
        return found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MailmanFiles:
    """A source with one list, which counts once it is quiet, however long that takes."""
    monkeypatch.setattr(local, "SETTLE_AT_MOST", 3600.0)
    made = MailmanFiles(tmp_path / "data")
    made.write(ANTS)
    return made


def quiet(files: MailmanFiles) -> None:
    """Make the files look as if their last change was long ago."""
    for path in files.directory.iterdir():
        os.utime(path, (0, 0))


def changing(files: MailmanFiles) -> None:
    """Make the files look as if they were changed a moment ago, for an hour."""
    later = time.time() + 3600
    for path in files.directory.iterdir():
        os.utime(path, (later, later))


async def poll(files: MailmanFiles, records: Records) -> Fetched:
    """Poll the source once."""
    async with asyncio.timeout(PATIENCE):
        source = Volume(files.directory, 2**20)
        return await fetch_once(source, "data", records, fold_unicode, Policy())


async def polling_until_read(
    files: MailmanFiles, records: WatchedRecords
) -> "asyncio.Task[Fetched]":
    """Begin to poll the source, and wait until its lists are compared with the record."""
    polling = asyncio.create_task(poll(files, records))
    async with asyncio.timeout(PATIENCE):
        await records.was_read.wait()
    return polling


async def recorded(files: MailmanFiles) -> WatchedRecords:
    """Return the records, in which the lists that the source has are the last good ones."""
    records = WatchedRecords(files.directory.parent / "sources")
    quiet(files)
    answer = await poll(files, records)
    assert answer.tables
    await records.write("data", Record(answer.tables))
    return records


def test_added_list_counts_while_the_files_are_changing(files: MailmanFiles) -> None:
    async def session() -> Fetched:
        records = await recorded(files)
        files.write(ANTS, BEES)
        changing(files)
        return await poll(files, records)

    answer = asyncio.run(session())
    assert answer.tables
    assert answer.tables.routes.keys() == {*nine(ANTS), *nine(BEES)}


def test_list_of_a_new_domain_counts_when_both_files_have_it(files: MailmanFiles) -> None:
    async def session() -> Fetched:
        records = await recorded(files)
        files.put("postfix_lmtp", lmtp_text([ANTS, "dees@other.example"], HOP))
        changing(files)
        polling = asyncio.create_task(poll(files, records))
        await asyncio.sleep(0)
        files.write(ANTS, "dees@other.example")
        changing(files)
        return await polling

    answer = asyncio.run(session())
    assert answer.tables
    assert "dees@other.example" in answer.tables.routes


@pytest.mark.parametrize(
    "write",
    [
        lambda files: files.write(BEES),
        lambda files: files.write(ANTS, BEES, hop="lmtp:[127.0.0.1]:24"),
        lambda files: files.put("postfix_domains", f"lists.example.net {ALIAS}\n"),
    ],
    ids=["removed", "moved", "alias domain without aliases"],
)
def test_other_change_counts_only_once_the_files_are_quiet(
    files: MailmanFiles, write: Callable[[MailmanFiles], None]
) -> None:
    """The files that were read early are replaced before they are quiet, so they never count."""

    async def session() -> Fetched:
        records = await recorded(files)
        records.was_read.clear()
        write(files)
        changing(files)
        polling = await polling_until_read(files, records)
        files.write(ANTS, CATS)
        quiet(files)
        return await polling

    answer = asyncio.run(session())
    assert answer.tables
    assert answer.tables.routes == dict.fromkeys([*nine(ANTS), *nine(CATS)], HOP)


def test_list_of_an_alias_domain_counts_with_its_aliases(files: MailmanFiles) -> None:
    """Mailman renames postfix_vmap last."""
    target = {name.replace("lists.", ""): name for name in (ANTS, BEES)}
    files.write(aliases={"ants@example.net": ANTS})

    async def session() -> Fetched:
        records = await recorded(files)
        records.was_read.clear()
        files.put("postfix_lmtp", lmtp_text([ANTS, BEES], HOP))
        changing(files)
        polling = await polling_until_read(files, records)
        files.write(aliases=target)
        changing(files)
        return await polling

    answer = asyncio.run(session())
    assert answer.tables
    assert answer.tables.aliases.names() == {*target}


def test_source_without_a_record_counts_only_once_it_is_quiet(files: MailmanFiles) -> None:
    async def session() -> Fetched:
        records = WatchedRecords(files.directory.parent / "sources")
        changing(files)
        polling = await polling_until_read(files, records)
        files.write(ANTS, BEES)
        quiet(files)
        return await polling

    answer = asyncio.run(session())
    assert answer.tables
    assert answer.tables.routes.keys() == {*nine(ANTS), *nine(BEES)}
