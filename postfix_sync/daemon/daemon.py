"""When a pass is made: on news, intervals, signals; and what systemd wants to know.

The daemon promises to go on. Whatever a source, a pass or a probe meets is told once, for as long
as it stays the same, and tried again. No source waits for another (watcher.py); all of their answers
meet in a pass.
"""

import asyncio
import itertools
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync import __version__
from postfix_sync.config.reading import load
from postfix_sync.daemon import systemd
from postfix_sync.daemon.ledger import Ledger
from postfix_sync.daemon.probe_loop import Destinations
from postfix_sync.daemon.retry import FIRST_RETRY, retry_delay
from postfix_sync.daemon.tasks import every, report_end, set_within, until_one_ends
from postfix_sync.daemon.watcher import Follower, answers_of
from postfix_sync.errors import Busy, ConfigError, SyncError
from postfix_sync.log import LOG, tell
from postfix_sync.mailman.addresses import lists_of
from postfix_sync.model import RECIPIENTS
from postfix_sync.monitoring import http_server
from postfix_sync.monitoring import pages as pages_module
from postfix_sync.monitoring.deferred import count_deferred
from postfix_sync.monitoring.pages import cannot_listen
from postfix_sync.postfix.map_directory import files_of_maps
from postfix_sync.reconcile.reload_spacing import reload_age
from postfix_sync.reconcile.report import Report, Request
from postfix_sync.reconcile.retire import retire
from postfix_sync.reconcile.sync import make_pass
from postfix_sync.status.file import StatusFile
from postfix_sync.status.schema import touched
from postfix_sync.status.transitions import after_count, after_pass, rankings
from postfix_sync.store.state_directory import records_of
from postfix_sync.system.tasks import interrupted
from postfix_sync.text import counted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config, Listen
    from postfix_sync.store.generations import Hold

FIRST_PASS = 10.0
"""Seconds after which the first pass is made, with what was known, though no source answers."""

FULL_PASS = 60.0
"""Seconds after which a pass looks at what is installed, at the earliest, without any news."""

HEARTBEAT = 60.0
"""Seconds after which status.json is refreshed at the latest."""

RETIRE_EVERY = 60.0
"""Seconds between looks at what is not needed any more."""

RELOADS_KEPT = 10
"""How many are counted to see that a destination comes and goes."""

WATCH_EVERY = 1.0
"""Seconds between looks at whether the indexes are still there."""

LISTEN_AGAIN = 60.0
"""Seconds between tries to listen for monitoring where that failed, at most."""


class Daemon:
    """One daemon, from its start to its end, through changes of its configuration."""

    def __init__(self, config_path: Path, first: "Config") -> None:
        self.config_path = config_path
        self.ledger = Ledger(first)
        self.began = time.monotonic()
        self.news = asyncio.Event()
        self.followers: dict[str, Follower] = {}
        self.destinations = Destinations(self.ledger, self.news)
        self.rerouted = asyncio.Event()
        """Set where mail of lists that were installed before goes elsewhere now."""
        self.reloads: list[float] = []
        """When Postfix was last reloaded for that (time.monotonic())."""
        self.held: Hold | None = None
        self.watchdog = systemd.Watchdog()

    @property
    def config(self) -> "Config":
        """The configuration that is in use."""
        return self.ledger.config

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a pass that is publishing maps ends first."""
        loop = asyncio.get_running_loop()
        stop, reload = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        loop.add_signal_handler(signal.SIGUSR1, self._look)
        places = ", ".join(source.place for source in self.config.sources)
        LOG.info("version %s, source %s", __version__, places)
        alive = asyncio.create_task(self._signs_of_life())
        while not stop.is_set():
            serving = asyncio.create_task(self._serve())
            await self._until_told(serving, stop, reload)
            if stop.is_set():
                systemd.notify("STOPPING=1")
            serving.cancel()
            await asyncio.wait([serving])
        alive.cancel()
        LOG.info("ended; Postfix goes on with the maps as they are")

    async def _until_told(
        self, serving: asyncio.Task[None], stop: asyncio.Event, reload: asyncio.Event
    ) -> None:
        """Returns when the daemon is to stop, or is to serve anew."""
        while True:
            told = [asyncio.create_task(event.wait()) for event in (stop, reload)]
            await asyncio.wait([serving, *told], return_when=asyncio.FIRST_COMPLETED)
            for task in told:
                task.cancel()
            if stop.is_set():
                return
            if serving.done():
                report_end(serving.exception())
                await asyncio.sleep(FIRST_RETRY)
                return
            reload.clear()
            if self._reconfigured():
                return

    async def _signs_of_life(self) -> None:
        """Shows systemd, if it wants to know, that passes are made."""
        while self.watchdog.interval:
            errors = []
            if not self.watchdog.sign():
                problem = f"a pass has not ended in {self.watchdog.longest:g} s"
                hint = "what hangs is in the log that follows; a file system? findmnt, dmesg"
                errors.append(SyncError(f"{problem}: systemd is left to restart the daemon", hint))
            self.ledger.tell_errors("watchdog", "passes", errors)
            await asyncio.sleep(self.watchdog.interval)

    def _reconfigured(self) -> bool:
        """Reads the configuration again; whether it could be used."""
        systemd.reloading()
        try:
            self.ledger.config = load(self.config_path)
        except SyncError as error:
            tell(error)
            LOG.error("the configuration from before stays in use")
            systemd.notify("READY=1")
            return False
        LOG.info("%s was read again", self.config_path)
        return True

    async def _serve(self) -> None:
        """All that goes on at the same time under one configuration; never ends by itself."""
        records = records_of(self.config)
        self.followers = {
            one.name: Follower(one, self.config, records, self.news) for one in self.config.sources
        }
        works = [one for follower in self.followers.values() for one in follower.works()]
        works += [self._passes(), every(HEARTBEAT, self._heartbeat)]
        if self.config.probe.level != "off":
            works.append(self.destinations.ask())
            if self.config.probe.flush:
                works.append(self.destinations.recover())
        works += [self._retire(), self._watch_maps()]
        if self.config.metrics.enabled:
            works.append(every(self.config.probe.interval, self._count_deferred))
        if self.config.metrics.listen:
            works.append(self._answer(self.config.metrics.listen))
        await until_one_ends(works)

    def _look(self) -> None:
        """Has every source asked now, and a pass made with each answer."""
        for follower in self.followers.values():
            follower.look.set()

    async def _passes(self) -> None:
        failures = 0
        delay = FIRST_PASS
        while True:
            self.watchdog.expect(delay)
            await set_within(self.news, delay)
            self.news.clear()
            self.watchdog.expect()
            report = await self._pass()
            if interrupted():
                raise asyncio.CancelledError
            systemd.notify("READY=1", f"STATUS={_summary(report)}")
            self.destinations.passed(report)
            failures = failures + 1 if report.failed else 0
            delay = report.waits or self._quiet
            if failures:
                jitter = random.random()  # noqa: S311 - no secret
                delay = retry_delay(failures, self.config.interval, jitter)

    @property
    def _quiet(self) -> float:
        """Seconds after which a pass is made without news."""
        return max(self.config.interval, FULL_PASS)

    async def _pass(self) -> Report:
        answers = answers_of(self.followers)
        status = StatusFile.of(self.config).read_or_new()
        self.destinations.rankings = rankings(status)
        request = Request(reload_age=reload_age(self.reloads, time.monotonic()))
        try:
            report = await make_pass(self.config, answers, self.destinations.rankings, request)
        except Exception as bug:  # noqa: BLE001 - the daemon goes on, whatever a pass meets
            LOG.exception("a pass ended in an error that it should have named; please report it")
            report = Report(failed=(SyncError(f"unexpected: {bug!r}"),))
        if report.rerouted:
            self.rerouted.set()
            self.reloads += [time.monotonic()] * report.reloads
            del self.reloads[:-RELOADS_KEPT]
        for name, one in report.sources.items():
            self.followers[name].taken(answers.get(name), one)
        LOG.debug("a pass was made: %s", _summary(report))
        self._tell(report)
        await self.ledger.update(
            partial(after_pass, config=self.config, report=report, now=time.time())
        )
        return report

    def _tell(self, report: Report) -> None:
        """Logs what is new: changes, errors that were not there before, each notice once."""
        for line in report.lines:
            LOG.info("%s", line)
        if report.sources and report.held != self.held:
            LOG.info("%s", report.held or "nothing is held any more")
            self.held = report.held
        for notice in report.notices:
            self.ledger.tell_once(notice)
        for name, source in report.sources.items():
            if source.errors or source.answered_at:
                self.ledger.tell_errors(name, name, source.errors)
        self.ledger.tell_errors("", ", ".join(self.followers), report.failed)

    async def _retire(self) -> None:
        """Takes out what is not needed any more, once a minute; see to mail of moved lists."""
        while True:
            await set_within(self.rerouted, RETIRE_EVERY)
            self.rerouted.clear()
            errors = []
            try:
                for line in await retire(self.config):
                    LOG.info("%s", line)
            except Busy:
                pass  # a sync is at work; later
            except SyncError as error:
                errors.append(error)
            self.ledger.tell_errors("retire", "what is not needed any more", errors)

    async def _watch_maps(self) -> None:
        """Has a sync made when a file of a map is gone: until it is back, all mail is put off."""
        before = frozenset[str]()
        while True:
            await asyncio.sleep(WATCH_EVERY)
            found = await asyncio.to_thread(files_of_maps, self.config.postfix.map_directory)
            if before - found:
                self.news.set()
            before = found

    async def _heartbeat(self) -> None:
        await self.ledger.update(partial(touched, now=time.time()))

    async def _count_deferred(self) -> None:
        """Keeps how much mail is deferred for which destination."""
        counted, errors = None, []
        try:
            counted = await count_deferred(self.config)
        except ConfigError:
            pass  # a pass meets the same, and tells it
        except SyncError as error:
            errors.append(error)
        self.ledger.tell_errors("queue", "the deferred queue", errors)
        await self.ledger.update(partial(after_count, deferred=counted, now=time.time()))

    async def _answer(self, at: "Listen") -> None:
        """Serves monitoring over HTTP; tries again for as long as it can't listen there."""
        pages = pages_module.pages(self.config, self._quiet, self.began)
        for failures in itertools.count(1):
            try:
                listener = http_server.listen(*at)
            except OSError as error:
                problem = cannot_listen(at, error)
                self.ledger.tell_errors("metrics.listen", "metrics.listen", [problem])
                jitter = random.random()  # noqa: S311 - no secret
                await asyncio.sleep(retry_delay(failures, LISTEN_AGAIN, jitter))
            else:
                break
        self.ledger.forget_errors("metrics.listen")
        LOG.info("metrics.listen: http://%s serves %s", at, ", ".join(pages))
        with listener:
            await http_server.serve(listener, pages)


def _summary(report: Report) -> str:
    """How things stand, on the line that `systemctl status` shows."""
    if report.errors:
        return report.errors[0].message
    lists = len(lists_of(report.installed[RECIPIENTS])) if report.installed else 0
    return f"{report.held or 'in step'}, {counted(lists, 'list')}"
