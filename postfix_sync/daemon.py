"""When a pass is made: events, intervals, back-off, signals, and what systemd wants to know.

The daemon promises to go on. Whatever a pass or a probe meets is told once, for as long as it stays
the same, and tried again: after a second, then after twice as long each time, up to the source's
interval. Refused content is tried again when it changes, or at the interval.
"""

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

from postfix_sync import __version__, config, state, systemd
from postfix_sync.errors import Refused, SyncError
from postfix_sync.lmtp import describe, probe_all, targets
from postfix_sync.log import LOG, tell
from postfix_sync.model import RECIPIENTS, ROUTES, Destination, Notice, ProbeResult
from postfix_sync.sources.volume import Volume
from postfix_sync.sync import Report, interrupted, make_pass
from postfix_sync.tables import lists_of

FIRST_RETRY = 1.0
"""Seconds until a pass that failed is made again, for the first time."""

HEARTBEAT = 60.0
"""Seconds after which status.json is refreshed at the latest."""


def retry_delay(failures: int, interval: float, jitter: float) -> float:
    """Seconds until the next try after so many failures in a row; `jitter` from 0 to 1."""
    doubled = FIRST_RETRY * 2.0 ** min(failures - 1, 30)
    return float(min(interval, doubled) * (0.5 + jitter / 2))


class Daemon:
    """One daemon, from its start to its end, through changes of its configuration."""

    def __init__(self, config_path: Path, first: config.Config) -> None:
        self.config_path = config_path
        self.config = first
        self.look = asyncio.Event()
        self.probe = asyncio.Event()
        self.last = Report()
        self.told: set[str] = set()
        self.told_error = ""
        self.up: dict[Destination, bool] = {}

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a pass that is publishing maps ends first."""
        loop = asyncio.get_running_loop()
        stop, reload = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        loop.add_signal_handler(signal.SIGUSR1, self.look.set)
        LOG.info("version %s, source %s", __version__, self.config.source.path)
        alive = asyncio.create_task(_tell_watchdog())
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
                LOG.error("an unforeseen error; please report it", exc_info=serving.exception())
                await asyncio.sleep(FIRST_RETRY)
                return
            reload.clear()
            if self._reconfigured():
                return

    def _reconfigured(self) -> bool:
        """Reads the configuration again; whether it could be used."""
        systemd.reloading()
        try:
            self.config = config.load(self.config_path)
        except SyncError as error:
            tell(error)
            LOG.error("the configuration from before stays in use")
            systemd.notify("READY=1")
            return False
        LOG.info("%s was read again", self.config_path)
        return True

    async def _serve(self) -> None:
        """All that goes on at the same time under one configuration; never ends by itself."""
        self.look.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._passes())
            group.create_task(_every(HEARTBEAT, self._heartbeat))
            if self.config.probe.level != "off":
                group.create_task(self._probes())

    async def _watch(self) -> None:
        source = self.config.source
        while True:
            try:
                async for _ in Volume(source.path, self.config.guard.max_size).changes():
                    self.look.set()
            except Exception as error:  # noqa: BLE001 - a library's; without events there are intervals
                problem = f"{source.path}: can't be watched: {error}; it is looked at only"
                self._tell_once(Notice(f"{problem} every {source.interval:g} s"))
                await asyncio.sleep(source.interval)

    async def _passes(self) -> None:
        failures = 0
        interval = self.config.source.interval
        while True:
            self.look.clear()
            report = await self._pass()
            if interrupted():
                raise asyncio.CancelledError
            systemd.notify("READY=1", f"STATUS={_summary(report)}")
            self.probe.set()
            retry = [error for error in report.errors if not isinstance(error, Refused)]
            failures = failures + 1 if retry else 0
            jitter = random.random()  # noqa: S311 - no secret
            delay = retry_delay(failures, interval, jitter) if retry else interval
            await _set_within(self.look, delay)

    async def _pass(self) -> Report:
        try:
            report = await make_pass(self.config)
        except Exception as bug:  # noqa: BLE001 - the daemon goes on, whatever a pass meets
            LOG.exception("a pass ended in an error that it should have named; please report it")
            report = Report(errors=(SyncError(f"unexpected: {bug!r}"),))
        self.last = report
        LOG.debug("a pass was made: %s", _summary(report))
        self._tell(report)
        name = self.config.source.name
        await self._update(
            partial(
                state.after_pass,
                source=name,
                report=report,
                probing=self.config.probe.level != "off",
                now=time.time(),
            )
        )
        return report

    def _tell(self, report: Report) -> None:
        """Logs what is new: changes, errors that were not there before, each notice once."""
        for line in report.lines:
            LOG.info("%s", line)
        for notice in report.notices:
            self._tell_once(notice)
        errors = "\n".join(error.message for error in report.errors)
        if errors != self.told_error:
            for error in report.errors:
                tell(error)
            if not errors:
                LOG.info("%s: in step again", self.config.source.name)
            self.told_error = errors

    def _tell_once(self, notice: Notice) -> None:
        if notice.message not in self.told:
            self.told.add(notice.message)
            tell(notice, logging.WARNING)

    async def _probes(self) -> None:
        section = self.config.probe
        while True:
            await _set_within(self.probe, section.interval)
            self.probe.clear()
            if self.last.installed:
                asked = targets(self.last.installed[ROUTES])
                hosts = self.last.known_hosts
                results = await probe_all(asked, section.level, section.timeout, hosts)
                self._tell_probes(results)
                await self._update(partial(state.after_probes, results=results, now=time.time()))

    def _tell_probes(self, results: Iterable[ProbeResult]) -> None:
        """Logs which destinations went down or came up."""
        for result in results:
            LOG.debug("%s", describe(result).message)
            was_up = self.up.get(result.destination, True)
            self.up[result.destination] = result.up
            if was_up and not result.up:
                tell(describe(result), logging.WARNING)
            elif result.up and not was_up:
                LOG.info("%s", describe(result).message)

    async def _heartbeat(self) -> None:
        await self._update(partial(state.touched, now=time.time()))

    async def _update(self, change: Callable[[state.Status], state.Status]) -> None:
        try:
            await state.StatusFile(self.config.state_directory).update(change)
        except SyncError as error:
            self._tell_once(Notice(error.message, error.hint))


def _summary(report: Report) -> str:
    """How things stand, on the line that `systemctl status` shows."""
    if report.errors:
        return report.errors[0].message
    return (
        f"in step, {len(lists_of(report.installed[RECIPIENTS])) if report.installed else 0} lists"
    )


async def _tell_watchdog() -> None:
    """Shows that the event loop goes round, for as long as systemd wants to know."""
    interval = systemd.watchdog_interval()
    while interval:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await act()
        await asyncio.sleep(seconds)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Waits for an event, `seconds` at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
