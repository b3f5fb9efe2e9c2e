"""One source in the daemon: when it is asked, and what it last answered.

Each source is followed by itself, so that one that hangs holds up none of the others. It is asked
at its interval, at once when something happened, and after a failure that may pass by itself: after
a second, then after twice as long each time, up to a minute. What needs an operator is retried
every minute. Whatever the failure, the source is asked again within a second when there is a sign
that another try may succeed: another process got an answer, or a file that the login depends on
changed.
"""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from postfix_sync.daemon.retry import next_try, retry_delay
from postfix_sync.daemon.tasks import set_within
from postfix_sync.errors import Missing, Refused, SyncError, out_of_memory
from postfix_sync.log import LOG, tell
from postfix_sync.model import Notice, Peer
from postfix_sync.postfix.instance import fold_of
from postfix_sync.reconcile.fetch import Fetched, fetch_once, open_source
from postfix_sync.sources.container import Contained
from postfix_sync.sources.local import Volume
from postfix_sync.status.file import StatusFile
from postfix_sync.store.records import Records
from postfix_sync.system.files import version_of

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config, SourceSection
    from postfix_sync.reconcile.report import SourceReport

SIGNS_POLL = 1.0
"""Seconds between checks for a sign that what failed may succeed now; each is a few stat(2)."""

Signs: TypeAlias = tuple[object, ...]
"""What another try may depend on; a failed source is asked again as soon as this is another."""


class Follower:
    """One source, from the daemon's start to its end or to another configuration."""

    def __init__(
        self,
        settings: "SourceSection",
        configuration: "Config",
        records: Records,
        news: asyncio.Event,
    ) -> None:
        self.settings = settings
        self.configuration = configuration
        self.records = records
        self.news = news
        self.look = asyncio.Event()
        self.answer: Fetched | None = None
        self.source = open_source(settings, configuration.guard.max_size)
        self.status = StatusFile.of(configuration)
        self.status_version: tuple[int, int] | None = None
        self.last_success: str | None = None
        """What status.json says of this source, as of that version of the file."""

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
                before = self._signs()
                answer = await self._ask()
                failures = failures + 1 if _may_pass(answer.error) else 0
                said = answer.error.message if answer.error else "news" if answer.tables else "same"
                LOG.debug("%s: asked: %s", self.settings.name, said)
                if self._keep(answer) or asked_for:
                    self.news.set()
                await self._wait(answer.error, failures, before)
        finally:
            await self.source.close()

    async def _wait(self, error: SyncError | None, failures: int, before: Signs) -> None:
        """Returns when the source is to be asked again; `before` are the signs of the last try."""
        delay = next_try(
            error,
            failures,
            interval=self.settings.interval,
            remote=self.settings.ssh is not None,
            jitter=random.random(),  # noqa: S311 - no secret
        )
        if not error:
            await set_within(self.look, delay)
            return
        until = time.monotonic() + delay
        while not self.look.is_set() and (left := until - time.monotonic()) > 0:
            await set_within(self.look, min(left, SIGNS_POLL))
            if self._signs() != before:
                LOG.debug("%s: asked again: there is a sign that it may answer", self.settings.name)
                return

    def _signs(self) -> Signs:
        """What another try may depend on.

        The record and the last success in status.json tell of another process's answer: the record
        at once, but only if the lists are others; the key and the known hosts, of an operator's
        work.
        """
        name, ssh = self.settings.name, self.settings.ssh
        if (version := version_of(self.status.path)) != self.status_version:
            self.status_version = version
            known = self.status.read_or_new()["sources"].get(name)
            self.last_success = known["last_success"] if known else None
        files = (ssh.identity, ssh.known_hosts) if ssh else ()
        return (self.records.stamp(name), self.last_success, *map(version_of, files))

    async def _ask(self) -> Fetched:
        name = self.settings.name
        policy = self.configuration.policy(self.settings)
        try:
            fold = await fold_of(self.configuration.postfix.config_directory)
            return await fetch_once(self.source, name, self.records, fold, policy)
        except SyncError as error:
            failed = error
        except MemoryError:
            failed = out_of_memory(name)
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
