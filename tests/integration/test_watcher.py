"""The task that polls one source: no change is missed, and none is read twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from postfix_sync.config.reading import load
from postfix_sync.daemon.watcher import Follower
from postfix_sync.model.source import MailmanTables, Snapshot
from postfix_sync.postfix.folding import Fold, fold_ascii
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.sources.local import Volume
from postfix_sync.store.state_directory import records_of
from tests.parts.common import PATIENCE
from tests.parts.site import Site

T = TypeVar("T")

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"


class HeldInspector(Inspector):
    """An inspection of Postfix, which each poll begins with, that takes until it is let go on."""

    def __init__(self, config_directory: Path) -> None:
        """Begin with no polls."""
        super().__init__(config_directory)
        self.free = asyncio.Event()
        self.polls = 0

    async def fold(self) -> Fold:
        """Wait, and say how keys are folded."""
        self.polls += 1
        await self.free.wait()
        return fold_ascii


@dataclass(frozen=True)
class HeldVolume(Volume):
    """A volume whose reading ends when it is let go on."""

    free: asyncio.Event = field(default_factory=asyncio.Event)
    was_read: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(
        self, parse: Callable[[Snapshot], T], is_safe: Callable[[T], Awaitable[bool]]
    ) -> T:
        """Read the files, and wait."""
        found = await super().read(parse, is_safe)
        self.was_read.set()
        await self.free.wait()
        return found


def tables_of(follower: Follower) -> MailmanTables:
    """Return the tables of the last answer."""
    assert follower.answer
    assert follower.answer.tables
    return follower.answer.tables


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing sets an event for it
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def following(site: Site) -> AsyncIterator[tuple[Follower, HeldInspector]]:
    """Follow the site's source, and wait for its first poll and the one that the watch causes."""
    configuration = load(site.config)
    inspector = HeldInspector(configuration.postfix.config_directory)
    inspector.free.set()
    (source,) = configuration.sources
    records = records_of(configuration)
    follower = Follower(source, configuration, records, inspector, asyncio.Event())
    tasks = [asyncio.create_task(work) for work in follower.coroutines()]
    try:
        await until(lambda: inspector.polls >= 2 and not follower.is_polling)
        yield follower, inspector
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site whose source is read only after an event."""
    site = make_site("lmdb", source={"interval": "1h"})
    site.files.write(ANTS)
    site.configure()
    return site


def test_change_that_a_poll_has_read_causes_no_other_poll(site: Site) -> None:
    async def session() -> None:
        async with following(site) as (follower, inspector):
            inspector.free.clear()
            follower.poll_now.set()
            await until(lambda: follower.is_polling)
            before = follower.changed_at
            await asyncio.to_thread(site.files.write, ANTS, BEES)
            await until(lambda: follower.changed_at > before)
            inspector.free.set()
            await until(lambda: not follower.is_polling)
            assert BEES in tables_of(follower).routes
            assert not follower.poll_now.is_set()
            assert inspector.polls == 3

    asyncio.run(session())


def test_change_after_a_poll_has_read_the_files_causes_another(site: Site) -> None:
    async def session() -> None:
        async with following(site) as (follower, _):
            source = HeldVolume(site.files.directory, 10**6)
            follower.source = source
            follower.poll_now.set()
            await source.was_read.wait()
            before = follower.changed_at
            await asyncio.to_thread(site.files.write, ANTS, BEES)
            await until(lambda: follower.changed_at > before)
            source.free.set()
            await until(lambda: follower.answer and BEES in tables_of(follower).routes)

    asyncio.run(session())
