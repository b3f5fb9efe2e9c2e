"""Stage 1: what a sync starts from, all of it read under the lock.

That is what is installed, what each source said, and what was known of it before.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from postfix_sync.containers.routable_names import routable_names
from postfix_sync.errors import NotPermitted, SyncError
from postfix_sync.model.destination import Families, Peer
from postfix_sync.model.installed import Installed
from postfix_sync.model.notice import Notice
from postfix_sync.model.source import Record
from postfix_sync.reconcile.fetch import Fetched, usable
from postfix_sync.reconcile.source_input import DISCOVERED, SourceInput
from postfix_sync.store.known_texts import Known, Recorded
from postfix_sync.store.records import Records, Stamp
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.config.schema import SourceSection
    from postfix_sync.reconcile.clusters import Ranking
    from postfix_sync.reconcile.locked import Locked
    from postfix_sync.reconcile.report import Request

CHECK_EVERY = 3600.0
"""Seconds after which every key of the indexes is read back, as after any change from outside that
the sample of each sync did not meet."""

CHECK_ANYWAY = 2 * CHECK_EVERY
"""Seconds after which that is done although a list waits for the sync."""


@dataclass(frozen=True)
class Inputs:
    """Everything that decides what a sync does."""

    request: "Request"
    rankings: Mapping[str, "Ranking"]
    """By cluster, in which order its members are tried."""
    installed: Installed
    known: Known
    """What the state directory has of the installed maps."""
    checked_at: float
    """When each key of all indexes was read back last, in seconds since the epoch."""
    sources: tuple[SourceInput, ...]
    """In the order of the configuration."""
    answers: Mapping[str, Fetched]
    """By source, the answers that count."""
    outdated: frozenset[str]
    """The sources whose record is newer than their answer, which therefore does not count."""
    forgotten: Mapping[str, Record]
    """The last good lists of sources that are no longer configured."""
    routable: Callable[[str], bool]
    """Which host names routes may have; the others are replaced by their addresses."""
    notices: tuple[Notice, ...] = ()

    @property
    def recorded(self) -> dict[str, Record | None]:
        """The last good lists of each configured source, as they are on the disk."""
        return {source.name: source.recorded for source in self.sources}


async def gather(
    place: "Locked",
    answers: Mapping[str, Fetched],
    rankings: Mapping[str, "Ranking"],
    request: "Request",
) -> Inputs:
    """Read what is installed and what is known of each source.

    Raises SyncError if that is not possible.
    """
    found = [
        await _last_good(place.records, section.name, answers.get(section.name))
        for section in place.config.sources
    ]
    recorded = [
        Recorded(one.name, one.stamp, one.record.tables)
        for one in found
        if one.record and one.stamp and one.record.tables.origin  # else it may be damaged
    ]
    known = await run_in_daemon_thread(place.known_texts.read, recorded)
    now = time.time()
    whole = not request.dry_run and (
        request.check_indexes or _check_is_due(known.checked_at, now, answers, found)
    )
    installed = await place.directory.read(known.texts, whole=whole)
    families = place.directory.postfix.families
    answers = usable(answers, families)
    damage = place.generations.damage()
    notices = [damage] if damage else []
    sources = []
    outdated = set()
    for section, (_, stamp, record, notice) in zip(place.config.sources, found, strict=True):
        answer = answers.get(section.name)
        notices += [notice] if notice else []
        if answer and _is_outdated(answer, stamp, record):
            outdated.add(section.name)
            answer = None
        policy = place.config.policy(section)
        source = SourceInput(
            section.name,
            policy.unguarded() if request.force else policy,
            section.cluster,
            _address(section),
            record and _usable(record, families),
        )
        sources.append(_with_answer(source, section, answer))
    return Inputs(
        request=request,
        rankings=rankings,
        installed=installed,
        known=known,
        checked_at=now if whole else known.checked_at,
        sources=tuple(sources),
        answers={name: one for name, one in answers.items() if name not in outdated},
        outdated=frozenset(outdated),
        forgotten=await _forgotten(place),
        routable=routable_names(place.hosts),
        notices=tuple(notices),
    )


class _LastGood(NamedTuple):
    """A source's record and its version, and why it can't be read, if it is damaged."""

    name: str
    stamp: Stamp | None
    record: Record | None
    notice: Notice | None = None


async def _last_good(records: Records, name: str, answer: Fetched | None) -> _LastGood:
    """Read a source's last good lists, if they were not read with its answer.

    A damaged record is reported and counts as none.
    """
    stamp = records.stamp(name)
    if answer and answer.record and answer.seen == stamp:
        return _LastGood(name, stamp, answer.record)
    try:
        record = await records.read(name)
    except NotPermitted:
        raise
    except SyncError as error:
        return _LastGood(name, stamp, None, Notice(error.message, error.hint))
    return _LastGood(name, stamp, record)


def _check_is_due(
    checked_at: float, now: float, answers: Mapping[str, Fetched], found: Sequence[_LastGood]
) -> bool:
    """Return whether every key of the indexes is to be read back, which takes seconds."""
    age = now - checked_at
    if 0 <= age < CHECK_EVERY:
        return False
    is_overdue = not 0 <= age < CHECK_ANYWAY
    return is_overdue or not any(_is_news(answers.get(one.name), one.record) for one in found)


def _is_news(answer: Fetched | None, record: Record | None) -> bool:
    """Return whether an answer differs from the last good lists."""
    tables = record and record.tables
    return answer is not None and answer.tables is not None and answer.tables != tables


def _usable(record: Record, families: Families) -> Record:
    """Restrict a record's addresses to the IP versions that Postfix may use."""
    return replace(record, peer=record.peer.usable(families)) if record.peer else record


def _is_outdated(answer: Fetched, current: Stamp | None, record: Record | None) -> bool:
    """Check whether another process recorded a newer answer after this source was polled."""
    if answer.error:
        return False
    return answer.seen != current or (answer.tables is None and record is None)


def _address(section: "SourceSection") -> str | None:
    return section.fixed_address or (DISCOVERED if section.address else None)


def _with_answer(
    source: SourceInput, section: "SourceSection", answer: Fetched | None
) -> SourceInput:
    """Add a source's answer to what is known of it."""
    if section.fixed_address:
        # Recorded too: it is the last known address if it is discovered some day.
        source = replace(source, peer=Peer((section.fixed_address,)))
    if answer is None:
        return source
    return replace(
        source,
        tables=answer.tables,
        peer=answer.peer or source.peer,
        misplaced=answer.misplaced,
        error=answer.error,
        has_answered=answer.error is None,
    )


async def _forgotten(place: "Locked") -> dict[str, Record]:
    """Read the records of sources that are no longer configured."""
    found = {}
    for name in place.unconfigured():
        with suppress(SyncError):  # then no source is known to have its lists
            if record := await place.records.read(name):
                found[name] = record
    return found
