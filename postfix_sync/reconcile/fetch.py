"""Poll one source: read its files, again for a while if they contradict each other.

The result is an answer or an error, never an exception: one source's failure does not affect the
others.
"""

import asyncio
import contextlib
import gc
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from postfix_sync.containers.engine import Engine
from postfix_sync.errors import HalfWritten, SyncError, is_out_of_memory, out_of_memory
from postfix_sync.mailman.files import read_tables
from postfix_sync.model.destination import Families, Peer
from postfix_sync.model.source import MailmanTables, Policy, Record, Snapshot
from postfix_sync.postfix.folding import Fold
from postfix_sync.reconcile.additions import only_adds
from postfix_sync.sources.container import Contained
from postfix_sync.sources.local import Volume
from postfix_sync.sources.mailman_files import SETTLE_AT_MOST
from postfix_sync.store.records import Records, Stamp
from postfix_sync.store.state_directory import records_of
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config, SourceSection


T = TypeVar("T")

HALF_WRITTEN_POLL = 0.2
"""Seconds between two reads of files that contradict each other."""


class Source(Protocol):
    """Where one Mailman's files are."""

    @property
    def peer(self) -> Peer | None:
        """Where its Mailman was reached last, if that is discovered."""

    @property
    def misplaced(self) -> SyncError | None:
        """Why its address could not be discovered, though its files may be readable."""

    async def read(
        self, parse: Callable[[Snapshot], T], is_safe: Callable[[T], Awaitable[bool]]
    ) -> T | None:
        """Return what `parse` makes of the files; None if none of them changed since the last time.

        `parse` is called in a thread, with open files, possibly several times: its outcome counts
        only if no file was replaced meanwhile, and the files have not changed for a while. A source
        may return a result that `is_safe` without that wait. Raises SyncError if the files can't be
        read, and what `parse` raises.
        """

    def forget(self) -> None:
        """Make the next read parse the files in any case."""

    async def close(self) -> None:
        """Close the connection, if there is one."""


@dataclass(frozen=True)
class Fetched:
    """A source's answer: its tables, or None if they have not changed, or an error."""

    seen: Stamp | None
    """The version of the source's record before the fetch: a newer one may have a newer answer."""
    at: float
    """When the fetch began, in seconds since the epoch."""
    tables: MailmanTables | None = None
    peer: Peer | None = None
    misplaced: SyncError | None = None
    """Why its Mailman's address could not be discovered; the files are not affected."""
    error: SyncError | None = None
    record: Record | None = field(default=None, compare=False, repr=False)
    """The source's record, if it was read: of the version `seen`, or of a newer one."""
    read_at: float = field(default=0.0, compare=False)
    """When the reading of its files began (time.monotonic()); 0 if they were not read."""


class _Parsed(NamedTuple):
    """What was parsed of a source, and the record that it was compared with."""

    record: Record | None
    tables: MailmanTables | None
    read_at: float = 0.0


def usable(answers: Mapping[str, Fetched], families: Families) -> dict[str, Fetched]:
    """Restrict the answers' addresses to the IP versions that Postfix may use, if any are left."""
    return {
        name: replace(one, peer=one.peer.usable(families)) if one.peer else one
        for name, one in answers.items()
    }


def open_source(settings: "SourceSection", max_size: int) -> Source:
    """Return the source that a section of the configuration describes; nothing is connected yet."""
    ssh = settings.ssh
    if ssh is None:
        volume = Volume(settings.path, max_size)
        if found := settings.container:
            return Contained(volume, Engine(found.engine), found.name)
        return volume
    from postfix_sync.sources.sftp import Ssh  # noqa: PLC0415 - most hosts have no source over SSH
    from postfix_sync.sources.ssh_login import Jump, Login  # noqa: PLC0415 - as above

    jump = Jump(ssh.jump.host, ssh.jump.port, ssh.jump.user or ssh.user) if ssh.jump else None
    login = Login(
        host=ssh.host,
        port=ssh.port,
        user=ssh.user,
        identity=ssh.identity,
        known_hosts=ssh.known_hosts,
        connect_timeout=ssh.connect_timeout,
        jump=jump,
    )
    return Ssh(login, PurePosixPath(settings.path), max_size)


def _release(error: BaseException) -> None:
    """Free the memory that the frames of an error hold: what comes next needs some."""
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    gc.collect()


async def fetch_once(
    source: Source, name: str, records: Records, fold: Fold, policy: Policy
) -> Fetched:
    """Poll a source once; `fold` and `policy` say how, and within which limits, files are read."""
    seen = records.stamp(name)
    give_up = None

    def parse(snapshot: Snapshot) -> _Parsed:
        read_at = time.monotonic()
        record = None
        with contextlib.suppress(SyncError):  # a damaged record is reported by the sync
            record = records.read_now(name)
        known = record.tables if record else None
        tables = read_tables(snapshot, fold, policy, known, time.time())
        return _Parsed(record, tables, read_at)

    async def is_safe(parsed: _Parsed) -> bool:
        """Return whether nothing is lost if the files are about to change again."""
        if parsed.record is None or parsed.tables is None:
            return False
        return await run_in_daemon_thread(only_adds, parsed.record.tables, parsed.tables)

    while True:
        at = time.time()
        try:
            found = await source.read(parse, is_safe) or _Parsed(None, None)
            return Fetched(
                seen,
                at,
                found.tables,
                source.peer,
                source.misplaced,
                record=found.record,
                read_at=found.read_at,
            )
        except (SyncError, MemoryError, RuntimeError) as raised:
            if not isinstance(raised, SyncError) and not is_out_of_memory(raised):
                raise
            error = raised if isinstance(raised, SyncError) else out_of_memory(name)
            if error is not raised:
                _release(raised)
            source.forget()  # so that the next read parses the files again
            give_up = give_up or time.monotonic() + SETTLE_AT_MOST
            if not isinstance(error, HalfWritten) or time.monotonic() > give_up:
                return Fetched(seen, at, None, source.peer, source.misplaced, error)
        await asyncio.sleep(HALF_WRITTEN_POLL)


@contextlib.asynccontextmanager
async def open_sources(config: "Config") -> AsyncIterator[dict[str, Source]]:
    """Yield all sources by name, and close them in the end."""
    sources = {one.name: open_source(one, config.guard.max_size) for one in config.sources}
    try:
        yield sources
    finally:
        await asyncio.gather(*(source.close() for source in sources.values()))


async def fetch_all(
    config: "Config", sources: Mapping[str, Source], fold: Fold
) -> dict[str, Fetched]:
    """Poll all sources at the same time; `fold` is how keys are folded. Returns answers by name."""
    records = records_of(config)
    fetches = (
        fetch_once(sources[one.name], one.name, records, fold, config.policy(one))
        for one in config.sources
    )
    return dict(zip(sources, await asyncio.gather(*fetches), strict=True))
