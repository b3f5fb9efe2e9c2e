"""The destinations in the daemon: probed, told of, and what waited for them delivered.

They are probed after each pass and at the interval, and sooner where one did not answer. What waits
for one that is back is delivered beside all else.
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
from postfix_sync.log import LOG, tell
from postfix_sync.model import PHASES, Destination, ProbeResult
from postfix_sync.probe import flush
from postfix_sync.probe.lmtp import describe, probe_all
from postfix_sync.probe.targets import targets
from postfix_sync.reconcile.report import Report
from postfix_sync.status.transitions import after_flush, after_probes, doubted, due_early, rankings

if TYPE_CHECKING:
    from postfix_sync.reconcile.clusters import Ranking

DOUBTED = 5.0
"""Seconds after which a destination that did not answer is asked again: whether it really is down,
and then, where nobody is there, whether somebody is back."""

LOOKING_SHARE = 20
"""At most this part of the time goes into looking at the queue for what nobody knows to be there:
with 100,000 messages in it, each look takes seconds."""


class Destinations:
    """All that mail may go to, from the daemon's start to its end."""

    def __init__(self, ledger: Ledger, news: asyncio.Event) -> None:
        self.ledger = ledger
        self.news = news
        """Set where a pass may find something to do: a cluster's members in another order."""
        self.probe = asyncio.Event()
        self.probed = asyncio.Event()
        self.whole_round = False
        self.report = Report()
        """Of the last pass."""
        self.rankings: Mapping[str, Ranking] = {}
        """The orders of the clusters that it went by."""
        self.up: dict[Destination, bool] = {}
        self.known: set[Destination] = set()

    def passed(self, report: Report) -> None:
        """A pass was made; has what it left installed probed."""
        self.report = report
        self.probe.set()

    async def ask(self) -> None:
        """Probes all destinations after each pass and at the interval, those in doubt sooner."""
        section = self.ledger.config.probe
        round_due = 0.0
        while True:
            left = max(round_due - time.monotonic(), 0) if round_due else section.interval
            await set_within(self.probe, min(left, DOUBTED) if self._asked_soon else left)
            everything = self.probe.is_set() or time.monotonic() >= round_due
            self.probe.clear()
            if everything:
                round_due = time.monotonic() + section.interval
                self.whole_round = True
            if self.report.installed:
                asked = [
                    replace(one, doubting=one.destination not in self.known)
                    for one in targets(
                        self.report.routes_in_use, self.report.replicas, self.report.families
                    )
                    if everything or one.destination.endpoint in self._asked_soon
                ]
                hosts = self.report.known_hosts
                results = await probe_all(asked, section.level, section.timeout, hosts)
                await self._note(results)
                self._tell_probes(results)

    @property
    def _asked_soon(self) -> AbstractSet[str]:
        """The destinations that are probed before the next round, as HOST:PORT."""
        return due_early(self.ledger.status)

    async def _note(self, results: Iterable[ProbeResult]) -> None:
        """Keeps what probes found; a cluster may want its members in another order then."""
        written = await self.ledger.update(partial(after_probes, results=results, now=time.time()))
        if written and rankings(self.ledger.status) != self.rankings:
            self.news.set()
        self.probed.set()

    def _tell_probes(self, results: Iterable[ProbeResult]) -> None:
        """Logs which destinations went down or came up, and what is odd about one."""
        for result in results:
            LOG.debug("%s", describe(result).message)
            one = result.destination
            if not result.up:
                self.known.discard(one)
            elif result.phase == PHASES[-1]:
                self.known.add(one)
            if result.warning:
                self.ledger.tell_once(describe(result), f"{one.endpoint} {result.warning}")
            status = self.ledger.status["destinations"].get(one.endpoint)
            is_up, was_up = status["up"] if status else result.up, self.up.get(one, True)
            self.up[one] = is_up
            if was_up and not is_up:
                tell(describe(result), logging.WARNING)
            elif is_up and not was_up:
                LOG.info("%s", describe(result).message)

    async def recover(self) -> None:
        """Has Postfix deliver what waited for destinations that are back, beside all else."""
        look_due = 0.0
        while True:
            await set_within(self.probed, flush.due_in(self.ledger.status, time.time()))
            self.probed.clear()
            began, looked = time.time(), time.monotonic()
            wanted = flush.due(
                self.ledger.status, began, unseen=self.whole_round and looked >= look_due
            )
            self.whole_round = False
            if not wanted:
                continue
            directory = self.ledger.config.postfix.config_directory
            done: AbstractSet[str] = set()
            errors = []
            try:
                done = await flush.recover(
                    directory,
                    self.report.routes,
                    wanted,
                    lambda one: one not in doubted(self.ledger.status),
                )
            except SyncError as error:
                errors.append(error)
            self.ledger.tell_errors("recovery", "the deferred queue", errors)
            if done:
                await self.ledger.update(partial(after_flush, endpoints=done, began=began))
            else:
                look_due = looked + LOOKING_SHARE * (time.monotonic() - looked)
            if errors:
                await asyncio.sleep(flush.AGAIN)
