"""The daemon: start a sync on changes, intervals and signals, and notify systemd.

A failure of a source, a sync or a probe does not end the daemon: it is logged once as long as its
message does not change, and the operation is retried. Each source is polled by its own tasks
(watcher.py), so that no source delays another; a sync uses the latest answers of all sources.
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
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.map_names import RECIPIENTS
from postfix_sync.monitoring import http_server
from postfix_sync.monitoring import pages as pages_module
from postfix_sync.monitoring.deferred import count_deferred
from postfix_sync.monitoring.pages import cannot_listen
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.postfix.map_directory import files_of_maps
from postfix_sync.reconcile.reload_spacing import reload_age
from postfix_sync.reconcile.report import Report, Request
from postfix_sync.reconcile.retire import retire
from postfix_sync.reconcile.sync import sync
from postfix_sync.status.file import StatusFile
from postfix_sync.status.schema import touched
from postfix_sync.status.transitions import after_count, after_sync, rankings
from postfix_sync.store.state_directory import records_of
from postfix_sync.system.tasks import interrupted
from postfix_sync.text import counted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.config.values import Listen
    from postfix_sync.store.hold import Hold

FIRST_SYNC = 10.0
"""Seconds until the first sync, even if no source has answered; it uses the last good lists."""

FULL_SYNC = 60.0
"""Shortest time in seconds until a sync checks the installed maps although no source changed."""

HEARTBEAT = 60.0
"""Longest time in seconds between two writes of status.json."""

RETIRE_EVERY = 60.0
"""Seconds between two checks for routes and host names that can be removed."""

RELOADS_KEPT = 10
"""How many recent reloads are remembered, to reload less often while a destination flaps."""

WATCH_EVERY = 1.0
"""Seconds between two checks whether the files of the maps still exist."""

LISTEN_AGAIN = 60.0
"""Longest time in seconds between two attempts to listen at metrics.listen after a failure."""


class Daemon:
    """One daemon, from its start to its end, through changes of its configuration."""

    def __init__(self, config_path: Path, first: "Config") -> None:
        self.config_path = config_path
        self.ledger = Ledger(first)
        self.inspector = Inspector(first.postfix.config_directory)
        self.began = time.monotonic()
        self.news = asyncio.Event()
        self.followers: dict[str, Follower] = {}
        self.destinations = Destinations(self.ledger, self.news)
        self.rerouted = asyncio.Event()
        """Set when a sync has changed the destination of an installed list."""
        self.reloads: list[float] = []
        """The times of the last reloads for such changes (time.monotonic(), seconds)."""
        self.has_synced = False
        self.held: Hold | None = None
        self.watchdog = systemd.Watchdog()

    @property
    def config(self) -> "Config":
        """The current configuration."""
        return self.ledger.config

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; a sync that is publishing maps is completed first."""
        loop = asyncio.get_running_loop()
        stop, reload = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        loop.add_signal_handler(signal.SIGUSR1, self._poll_all)
        places = ", ".join(source.place for source in self.config.sources)
        LOG.info("version %s, source %s", __version__, places)
        alive = asyncio.create_task(self._notify_watchdog())
        while not stop.is_set():
            serving = asyncio.create_task(self._serve())
            await self._until_stop_or_reload(serving, stop, reload)
            if stop.is_set():
                systemd.notify("STOPPING=1")
            serving.cancel()
            await asyncio.wait([serving])
        alive.cancel()
        LOG.info("stopped; Postfix keeps using the installed maps")

    async def _until_stop_or_reload(
        self, serving: asyncio.Task[None], stop: asyncio.Event, reload: asyncio.Event
    ) -> None:
        """Wait until the daemon must stop, or must restart its tasks.

        It restarts them after the configuration has changed, or after one of them has ended.
        """
        while True:
            waits = [asyncio.create_task(event.wait()) for event in (stop, reload)]
            await asyncio.wait([serving, *waits], return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
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

    async def _notify_watchdog(self) -> None:
        """Notify systemd's watchdog, if the unit has one, as long as no sync is overdue."""
        while self.watchdog.interval:
            errors = []
            if not self.watchdog.sign():
                problem = f"a sync has not ended in {self.watchdog.longest:g} s"
                hint = "the traceback that follows shows where; a file system? findmnt, dmesg"
                errors.append(SyncError(f"{problem}: systemd will restart the daemon", hint))
            self.ledger.log_errors("watchdog", "syncs", errors)
            await asyncio.sleep(self.watchdog.interval)

    def _reconfigured(self) -> bool:
        """Read the configuration again; return whether it is valid and now in use."""
        systemd.reloading()
        try:
            self.ledger.config = load(self.config_path)
        except SyncError as error:
            log_problem(error)
            LOG.error("the previous configuration stays in use")
            systemd.notify("READY=1")
            return False
        LOG.info("%s was read again", self.config_path)
        return True

    async def _serve(self) -> None:
        """Run all tasks of the daemon under the current configuration, until it is cancelled.

        Raises RuntimeError if one of the tasks ends.
        """
        records = records_of(self.config)
        self.inspector = Inspector(self.config.postfix.config_directory)
        self.followers = {
            source.name: Follower(source, self.config, records, self.inspector, self.news)
            for source in self.config.sources
        }
        coroutines = [
            coroutine for follower in self.followers.values() for coroutine in follower.coroutines()
        ]
        coroutines += [self._sync_repeatedly(), every(HEARTBEAT, self._heartbeat)]
        if self.config.probe.level != "off":
            coroutines.append(self.destinations.keep_probing())
            if self.config.probe.flush:
                coroutines.append(self.destinations.recover())
        coroutines += [self._retire(), self._watch_maps()]
        if self.config.metrics.enabled:
            coroutines.append(every(self.config.probe.interval, self._count_deferred))
        if self.config.metrics.listen:
            coroutines.append(self._serve_monitoring(self.config.metrics.listen))
        await until_one_ends(coroutines)

    def _poll_all(self) -> None:
        """Have every source polled now, and a sync started with each answer."""
        for follower in self.followers.values():
            follower.poll_now.set()

    async def _sync_repeatedly(self) -> None:
        failures = 0
        delay = FIRST_SYNC
        while True:
            self.watchdog.expect(delay)
            await set_within(self.news, delay)
            self.news.clear()
            self.watchdog.expect()
            report = await self._sync()
            if interrupted():
                raise asyncio.CancelledError
            systemd.notify("READY=1", f"STATUS={_summary(report)}")
            self.destinations.synced(report)
            failures = failures + 1 if report.failed else 0
            delay = report.waits or self._quiet
            if failures:
                jitter = random.random()  # noqa: S311 - no secret
                delay = retry_delay(failures, self.config.interval, jitter)

    @property
    def _quiet(self) -> float:
        """The time in seconds until the next sync if no source changes."""
        return max(self.config.interval, FULL_SYNC)

    async def _sync(self) -> Report:
        answers = answers_of(self.followers)
        status = StatusFile.of(self.config).read_or_new()
        self.destinations.rankings = rankings(status)
        request = Request(
            check_indexes=not self.has_synced,
            reload_age=reload_age(self.reloads, time.monotonic()),
        )
        try:
            report = await sync(
                self.config, answers, self.destinations.rankings, request, self.inspector
            )
        except Exception as bug:  # noqa: BLE001 - no error in a sync may end the daemon
            LOG.exception("internal error during a sync; please report this")
            report = Report(failed=(SyncError(f"internal error: {bug!r}"),))
        self.has_synced = self.has_synced or report.found is not None
        if report.rerouted:
            self.rerouted.set()
            self.reloads += [time.monotonic()] * bool(report.reloads)
            del self.reloads[:-RELOADS_KEPT]
        for name, source in report.sources.items():
            self.followers[name].synced(answers.get(name), source)
        LOG.debug("sync completed: %s", _summary(report))
        self._log(report)
        await self.ledger.update(
            partial(after_sync, config=self.config, report=report, now=time.time())
        )
        return report

    def _log(self, report: Report) -> None:
        """Log the changes of a sync, its errors if they are new, and each notice once."""
        for line in report.lines:
            LOG.info("%s", line)
        if report.sources and report.held != self.held:
            LOG.info("%s", report.held or "the hold was released")
            self.held = report.held
        for notice in report.notices:
            self.ledger.log_once(notice)
        for name, source in report.sources.items():
            if source.errors or source.answered_at:
                self.ledger.log_errors(name, name, source.errors)
        self.ledger.log_errors("", ", ".join(self.followers), report.failed)

    async def _retire(self) -> None:
        """Remove unneeded routes and host names once a minute, and after a list has moved."""
        while True:
            await set_within(self.rerouted, RETIRE_EVERY)
            self.rerouted.clear()
            errors = []
            try:
                for line in await retire(self.config, self.inspector):
                    LOG.info("%s", line)
            except Busy:
                pass  # a sync holds the lock; the next check retries
            except SyncError as error:
                errors.append(error)
            self.ledger.log_errors("retire", "removal of old routes and host names", errors)

    async def _watch_maps(self) -> None:
        """Start a sync when a file of a map disappears: Postfix defers all mail until it exists."""
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
        """Count the deferred mail of each destination, and store the numbers in the status."""
        counted, errors = None, []
        try:
            counted = await count_deferred(self.config)
        except ConfigError:
            pass  # the sync meets the same error, and logs it
        except SyncError as error:
            errors.append(error)
        self.ledger.log_errors("queue", "the deferred queue", errors)
        await self.ledger.update(partial(after_count, deferred=counted, now=time.time()))

    async def _serve_monitoring(self, at: "Listen") -> None:
        """Serve the monitoring pages over HTTP; retry with back-off while it can't listen."""
        pages = pages_module.pages(self.config, self._quiet, self.began)
        for failures in itertools.count(1):
            try:
                listener = http_server.listen(*at)
            except OSError as error:
                problem = cannot_listen(at, error)
                self.ledger.log_errors("metrics.listen", "metrics.listen", [problem])
                jitter = random.random()  # noqa: S311 - no secret
                await asyncio.sleep(retry_delay(failures, LISTEN_AGAIN, jitter))
            else:
                break
        self.ledger.forget_errors("metrics.listen")
        LOG.info("metrics.listen: http://%s serves %s", at, ", ".join(pages))
        with listener:
            await http_server.serve(listener, pages)


def _summary(report: Report) -> str:
    """Return the result of a sync in one line, for `systemctl status`."""
    if report.errors:
        return report.errors[0].message
    lists = len(report.installed[RECIPIENTS].names()) if report.installed else 0
    return f"{report.held or 'in step'}, {counted(lists, 'list')}"
