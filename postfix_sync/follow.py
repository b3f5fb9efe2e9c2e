"""One source in the daemon: when it is asked, and what it last answered.

Each source is followed by itself, so that one that hangs holds up none of the others. It is asked
at its interval, at once when something happened, and after a failure that may pass by itself: after
a second, then after twice as long each time. What needs somebody to act is asked about slowly.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from postfix_sync import postfix
from postfix_sync.errors import Missing, NotPermitted, Refused, SyncError
from postfix_sync.fetch import Fetched, ask, open_source
from postfix_sync.log import LOG, tell
from postfix_sync.model import Notice, Peer
from postfix_sync.records import Records
from postfix_sync.sources.contained import Contained
from postfix_sync.sources.volume import Volume

if TYPE_CHECKING:
    from postfix_sync.config import Config, Source
    from postfix_sync.sync import SourceReport

FIRST_RETRY = 1.0
"""Seconds until what failed is tried again, for the first time."""

SLOWLY = 300.0
"""Seconds between tries of another host that somebody has to do something about, and the longest
that such a host is left alone."""


def retry_delay(failures: int, longest: float, jitter: float) -> float:
    """Seconds until the next try after so many failures in a row; `jitter` from 0 to 1."""
    doubled = FIRST_RETRY * 2.0 ** min(failures - 1, 30)
    return float(min(longest, doubled) * (0.5 + jitter / 2))


class Follower:
    """One source, from the daemon's start to its end or to another configuration."""

    def __init__(
        self, settings: "Source", configuration: "Config", records: Records, news: asyncio.Event
    ) -> None:
        self.settings = settings
        self.configuration = configuration
        self.records = records
        self.news = news
        self.look = asyncio.Event()
        self.answer: Fetched | None = None
        self.source = open_source(settings, configuration.guard.max_size)

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """All that goes on for it at the same time; none of it ends by itself."""
        works = [self._follow()]
        if isinstance(self.source, Volume | Contained):
            works.append(self._watch(self.source))
        if isinstance(self.source, Contained):
            works.append(self._watch_container(self.source))
        return works

    async def _follow(self) -> None:
        """Asks the source again and again; sets `news` when a pass may find something to do."""
        failures = 0
        try:
            while True:
                asked_for = self.look.is_set() or self.answer is None
                self.look.clear()
                answer = await self._ask()
                failures = failures + 1 if _may_pass(answer.error) else 0
                said = answer.error.message if answer.error else "news" if answer.tables else "same"
                LOG.debug("%s: asked: %s", self.settings.name, said)
                if self._keep(answer) or asked_for:
                    self.news.set()
                await set_within(self.look, self._delay(answer.error, failures))
        finally:
            await self.source.close()

    async def _ask(self) -> Fetched:
        name = self.settings.name
        policy = self.configuration.policy(self.settings)
        try:
            fold = await postfix.fold_of(self.configuration.postfix.config_directory)
            return await ask(self.source, name, self.records, fold, policy)
        except SyncError as error:
            failed = error
        except Exception as bug:  # noqa: BLE001 - the daemon goes on, whatever a source does
            LOG.exception("%s: an error that should have been named; please report it", name)
            failed = SyncError(f"{name}: unexpected: {bug!r}")
        self.source.forget()  # an answer that is still kept gives way to this one
        return Fetched(None, time.time(), error=failed)

    def _keep(self, answer: Fetched) -> bool:
        """Keeps an answer until a pass has taken it; whether it is news."""
        old = self.answer
        if old and old.tables and not answer.tables and not answer.error:
            return False  # nothing has changed since that one
        if answer.peer and answer.peer.how and not (old and old.peer == answer.peer):
            self._tell_place(answer.peer)
        self.answer = answer
        return answer.tables is not None or answer.error is not None

    def _tell_place(self, peer: Peer) -> None:
        """Logs where its Mailman is reached, which is new."""
        where = peer.addresses[0] if peer.addresses else "this host"
        LOG.info("%s: Mailman is reached at %s (%s)", self.settings.name, where, peer.how)

    def taken(self, answer: Fetched | None, report: "SourceReport") -> None:
        """A pass has been made with this answer; it need not be kept where it is recorded now."""
        if report.outdated:
            self.source.forget()
            self.look.set()
        elif report.stamp and answer and answer is self.answer:
            self.answer = replace(answer, seen=report.stamp, tables=None)

    def _delay(self, error: SyncError | None, failures: int) -> float:
        """Seconds until the source is asked again."""
        interval, remote = self.settings.interval, self.settings.ssh is not None
        if remote and isinstance(error, NotPermitted):
            return max(SLOWLY, interval)
        if not _may_pass(error):
            return interval
        jitter = random.random()  # noqa: S311 - no secret
        return retry_delay(failures, SLOWLY if remote else interval, jitter)

    async def _watch(self, source: Volume | Contained) -> None:
        """Asks the source when its directory reports a change."""
        path, interval = self.settings.path, self.settings.interval
        told = ""
        while True:
            try:
                async for _ in source.changes():
                    told = ""
                    self.look.set()
            except Exception as error:  # noqa: BLE001 - a library's; without events there are intervals
                problem = f"{path}: can't be watched: {error}; it is looked at only"
                if problem != told:
                    told = problem
                    tell(Notice(f"{problem} every {interval:g} s"), logging.WARNING)
                await asyncio.sleep(interval)

    async def _watch_container(self, source: Contained) -> None:
        """Asks the source when its container has moved.

        The engine's events end when it is restarted, or is not there: then again, with back-off.
        """
        interval = self.settings.interval
        failures, told = 0, ""
        while True:
            try:
                async for _ in source.moves():
                    failures, told = 0, ""
                    self.look.set()
            except SyncError as error:
                failures += 1
                if failures > 1 and error.message != told:  # an engine may be restarted
                    told = error.message
                    at_least = f"; {self.settings.name} is looked at every {interval:g} s"
                    tell(Notice(f"{error.message}{at_least}", error.hint), logging.WARNING)
            await asyncio.sleep(retry_delay(failures, interval, random.random()))  # noqa: S311
            self.look.set()


def _may_pass(error: SyncError | None) -> bool:
    """Whether an error may be gone soon, with nobody changing the source's files."""
    return error is not None and not isinstance(error, Refused | Missing)


def answers_of(followers: Mapping[str, Follower]) -> dict[str, Fetched]:
    """What each source has answered last, for those that have."""
    return {name: one.answer for name, one in followers.items() if one.answer}


async def set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Waits for an event, `seconds` at most if given."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
