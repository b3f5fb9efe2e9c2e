"""Probe the destinations, log their changes, and flush the deferred mail of those that recover.

All are probed after each sync and at the interval; those that did not answer are probed sooner.
Deferred mail is flushed in a task of its own.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync.daemon.ledger import Ledger
from postfix_sync.daemon.tasks import set_within
from postfix_sync.errors import SyncError
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.probe_result import PHASES, ProbeResult
from postfix_sync.probe import flush
from postfix_sync.probe.lmtp import probe_all
from postfix_sync.probe.notice import describe
from postfix_sync.probe.targets import targets
from postfix_sync.reconcile.report import Report
from postfix_sync.status.transitions import after_flush, after_probes, doubted, due_early, rankings

if TYPE_CHECKING:
    from postfix_sync.model.destination import Destination
    from postfix_sync.reconcile.clusters import Ranking

DOUBTED = 5.0
"""Seconds until a destination that did not answer is probed again, to confirm that it is down and,
while nothing listens there, to notice its recovery."""

QUEUE_READING_SHARE = 20
"""The queue is read for mail that was deferred unnoticed for at most one part in so many of the
time: reading a queue of 100,000 messages takes seconds."""


class Destinations:
    """The destinations of the installed maps, from the daemon's start to its end."""

    def __init__(self, ledger: Ledger, news: asyncio.Event) -> None:
        self.ledger = ledger
        self.news = news
        """Set when a sync is needed because the order of a cluster's members has changed."""
        self.probe = asyncio.Event()
        self.probed = asyncio.Event()
        self.whole_round = False
        self.report = Report()
        """The report of the last sync."""
        self.rankings: Mapping[str, Ranking] = {}
        """The order of each cluster's members in the last sync."""
        self.up: dict[Destination, bool] = {}
        self.known: set[Destination] = set()

    def synced(self, report: Report) -> None:
        """Store the report of a sync, and have its destinations probed now."""
        self.report = report
        self.probe.set()

    async def keep_probing(self) -> None:
        """Probe all destinations after each sync and at the interval, doubtful ones sooner."""
        section = self.ledger.config.probe
        round_due = 0.0
        while True:
            left = max(round_due - time.monotonic(), 0) if round_due else section.interval
            await set_within(self.probe, min(left, DOUBTED) if self._probed_soon else left)
            everything = self.probe.is_set() or time.monotonic() >= round_due
            self.probe.clear()
            if everything:
                round_due = time.monotonic() + section.interval
                self.whole_round = True
            if self.report.installed:
                probed = [
                    replace(target, doubting=target.destination not in self.known)
                    for target in targets(self.report.routes_in_use, self.report.replicas)
                    if everything or target.destination.endpoint in self._probed_soon
                ]
                lmtp = self.report.lmtp
                results = await probe_all(probed, section.level, section.timeout, lmtp)
                await self._note(results)
                self._log_probes(results)

    @property
    def _probed_soon(self) -> AbstractSet[str]:
        """The destinations to probe before the next round, as HOST:PORT."""
        return due_early(self.ledger.status)

    async def _note(self, results: Iterable[ProbeResult]) -> None:
        """Store the results of probes; start a sync if they change the order of a cluster."""
        written = await self.ledger.update(partial(after_probes, results=results, now=time.time()))
        if written and rankings(self.ledger.status) != self.rankings:
            self.news.set()
        self.probed.set()

    def _log_probes(self, results: Iterable[ProbeResult]) -> None:
        """Log the destinations that went down or came up, and each new warning about one."""
        for result in results:
            LOG.debug("%s", describe(result).message)
            destination = result.destination
            if not result.up:
                self.known.discard(destination)
            elif result.phase == PHASES[-1]:
                self.known.add(destination)
            if result.warning:
                self.ledger.log_once(describe(result), f"{destination.endpoint} {result.warning}")
            status = self.ledger.status["destinations"].get(destination.endpoint)
            is_up, was_up = status["up"] if status else result.up, self.up.get(destination, True)
            self.up[destination] = is_up
            if was_up and not is_up:
                log_problem(describe(result), logging.WARNING)
            elif is_up and not was_up:
                LOG.info("%s", describe(result).message)

    async def recover(self) -> None:
        """Have Postfix deliver the deferred mail of each destination that has recovered."""
        read_due = 0.0
        while True:
            await set_within(self.probed, flush.due_in(self.ledger.status, time.time()))
            self.probed.clear()
            began, started = time.time(), time.monotonic()
            due = flush.due(
                self.ledger.status, began, unseen=self.whole_round and started >= read_due
            )
            self.whole_round = False
            if not due:
                continue
            directory = self.ledger.config.postfix.config_directory
            done: AbstractSet[str] = set()
            errors = []
            try:
                async with asyncio.timeout(flush.LONGEST):
                    done = await flush.recover(
                        directory,
                        self.report.routes,
                        due,
                        lambda endpoint: endpoint not in doubted(self.ledger.status),
                    )
            except TimeoutError:
                self.probed.set()  # it is due again, with the destinations that have become due
            except SyncError as error:
                errors.append(error)
            self.ledger.log_errors("recovery", "the deferred queue", errors)
            if done:
                await self.ledger.update(partial(after_flush, endpoints=done, began=began))
            else:
                read_due = started + QUEUE_READING_SHARE * (time.monotonic() - started)
            if errors:
                await asyncio.sleep(flush.AGAIN)
