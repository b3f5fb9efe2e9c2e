"""Poll one source in the daemon, and keep its last answer.

Each source has its own tasks, so that a source that hangs does not delay the others. It is polled
at its interval, immediately after an event, and again after a temporary failure: after one second,
then after twice as long each time, up to a minute. An error that needs an operator is retried every
minute. After any failure, the source is polled within a second of a sign that a retry may succeed:
another process got an answer, or the SSH key or known_hosts changed.
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
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.destination import Peer
from postfix_sync.model.notice import Notice
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.reconcile.fetch import Fetched, fetch_once, open_source
from postfix_sync.sources.container import Contained
from postfix_sync.sources.local import Volume
from postfix_sync.status.file import StatusFile
from postfix_sync.store.records import Records
from postfix_sync.system.files import version_of

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config, SourceSection
    from postfix_sync.reconcile.report import SourceReport

SIGNS_INTERVAL = 1.0
"""Seconds between two checks for a sign that a retry may succeed; each costs a few stat(2)."""

Signs: TypeAlias = tuple[object, ...]
"""The state that a retry may depend on; a failed source is polled again as soon as it changes."""


class Follower:
    """One source, from the daemon's start to its end or to a change of the configuration."""

    def __init__(
        self,
        settings: "SourceSection",
        configuration: "Config",
        records: Records,
        inspector: Inspector,
        news: asyncio.Event,
    ) -> None:
        self.settings = settings
        self.configuration = configuration
        self.records = records
        self.inspector = inspector
        self.news = news
        self.poll_now = asyncio.Event()
        self.is_polling = False
        self.changed_at = 0.0
        """When its files have changed last, as far as is known (time.monotonic())."""
        self.answer: Fetched | None = None
        self.source = open_source(settings, configuration.guard.max_size)
        self.status = StatusFile.of(configuration)
        self.status_version: tuple[int, int] | None = None
        self.last_success: str | None = None
        """The time of this source's last success in `status_version` of status.json."""

    def coroutines(self) -> list[Coroutine[Any, Any, None]]:
        """Return the coroutines that follow the source, to run until they are cancelled."""
        coroutines = [self._follow()]
        if isinstance(self.source, Volume | Contained):
            coroutines.append(self._watch(self.source))
        if isinstance(self.source, Contained):
            coroutines.append(self._watch_container(self.source))
        return coroutines

    async def _follow(self) -> None:
        """Poll the source repeatedly; set `news` when a sync may have something to change."""
        failures = 0
        try:
            while True:
                requested = self.poll_now.is_set() or self.answer is None
                self.poll_now.clear()
                before = self._signs()
                began = time.monotonic()
                self.is_polling = True
                answer = await self._ask()
                self.is_polling = False
                if self.changed_at >= max(began, answer.read_at):
                    self.poll_now.set()  # what was read may be older than the change
                failures = failures + 1 if _is_temporary(answer.error) else 0
                found = "new lists" if answer.tables else "unchanged"
                found = answer.error.message if answer.error else found
                LOG.debug("%s: polled: %s", self.settings.name, found)
                if self._keep(answer) or requested:
                    self.news.set()
                await self._wait(answer.error, failures, before)
        finally:
            await self.source.close()

    async def _wait(self, error: SyncError | None, failures: int, before: Signs) -> None:
        """Wait until the source must be polled again.

        `before` are the signs at the time of the last poll. Without an error, signs do not count.
        """
        delay = next_try(
            error,
            failures,
            interval=self.settings.interval,
            remote=self.settings.ssh is not None,
            jitter=random.random(),  # noqa: S311 - no secret
        )
        if not error:
            await set_within(self.poll_now, delay)
            return
        until = time.monotonic() + delay
        while not self.poll_now.is_set() and (left := until - time.monotonic()) > 0:
            await set_within(self.poll_now, min(left, SIGNS_INTERVAL))
            if self._signs() != before:
                LOG.debug("%s: polled again: a sign has changed", self.settings.name)
                return

    def _signs(self) -> Signs:
        """Read the signs that a retry may succeed.

        The record of the source and its last success in status.json change when another process
        gets an answer: the record at once, but only if the lists differ. The SSH key and the known
        hosts change when an operator fixes the login.
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
            fold = await self.inspector.fold()
            return await fetch_once(self.source, name, self.records, fold, policy)
        except SyncError as error:
            failed = error
        except MemoryError:
            failed = out_of_memory(name)
        except Exception as bug:  # noqa: BLE001 - no error of a source may end the daemon
            LOG.exception("%s: internal error while polling; please report this", name)
            failed = SyncError(f"{name}: internal error: {bug!r}")
        self.source.forget()  # this answer may replace unused lists: fetch them again
        return Fetched(None, time.time(), error=failed)

    def _keep(self, answer: Fetched) -> bool:
        """Keep an answer until a sync has used it; return whether it has new lists or an error."""
        old = self.answer
        if old and old.tables and not answer.tables and not answer.error:
            return False  # the source is unchanged since the answer that is kept
        if answer.peer and answer.peer.how and not (old and old.peer == answer.peer):
            self._log_address(answer.peer)
        self.answer = answer
        return answer.tables is not None or answer.error is not None

    def _log_address(self, peer: Peer) -> None:
        """Log the new address at which the source's Mailman is reached."""
        where = peer.addresses[0] if peer.addresses else "this host"
        LOG.info("%s: Mailman is reached at %s (%s)", self.settings.name, where, peer.how)

    def synced(self, answer: Fetched | None, report: "SourceReport") -> None:
        """Drop the lists of an answer that a sync has recorded on disk.

        If another process has recorded newer lists meanwhile, have the source polled again.
        """
        if report.outdated:
            self.source.forget()
            self.poll_now.set()
        elif report.stamp and answer and self.answer and self.answer.seen == answer.seen:
            # An answer that came meanwhile is not outdated by our own record of the earlier one.
            later = self.answer.tables
            tables = None if later == answer.tables else later
            self.answer = replace(self.answer, seen=report.stamp, tables=tables, record=None)

    async def _watch(self, source: Volume | Contained) -> None:
        """Have the source polled when its directory reports a change."""
        path, interval = self.settings.path, self.settings.interval
        logged = ""
        while True:
            is_new = True
            try:
                async for _ in source.changes():
                    logged = ""
                    self.changed_at = time.monotonic()
                    if is_new or not self.is_polling:  # else the poll may have read the change
                        self.poll_now.set()
                    is_new = False
            except Exception as error:  # noqa: BLE001 - a library's; the interval still applies
                problem = f"{path}: can't be watched: {error}; it is polled only"
                if problem != logged:
                    logged = problem
                    log_problem(Notice(f"{problem} every {interval:g} s"), logging.WARNING)
                await asyncio.sleep(interval)

    async def _watch_container(self, source: Contained) -> None:
        """Have the source polled when its container has another address.

        The stream of events ends when the engine stops; it is opened again with back-off.
        """
        interval = self.settings.interval
        failures, logged = 0, ""
        while True:
            try:
                async for _ in source.moves():
                    failures, logged = 0, ""
                    self.poll_now.set()
            except SyncError as error:
                failures += 1
                if failures > 1 and error.message != logged:  # an engine may be restarted
                    logged = error.message
                    polled = f"; {self.settings.name} is polled only every {interval:g} s"
                    log_problem(Notice(f"{error.message}{polled}", error.hint), logging.WARNING)
            await asyncio.sleep(retry_delay(failures, interval, random.random()))  # noqa: S311
            self.poll_now.set()


def _is_temporary(error: SyncError | None) -> bool:
    """Return whether an error may end although nobody changes the source's files."""
    return error is not None and not isinstance(error, Refused | Missing)


def answers_of(followers: Mapping[str, Follower]) -> dict[str, Fetched]:
    """Return the last answer of each source that has answered."""
    return {name: follower.answer for name, follower in followers.items() if follower.answer}
