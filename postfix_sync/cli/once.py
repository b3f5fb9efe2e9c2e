"""postfix-sync --once: run one sync, probe the installed destinations, and exit."""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync.cli.running import complete, load
from postfix_sync.errors import Busy, ConfigError, Exit, SyncError, worst
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.destination import Destination
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.monitoring.deferred import count_deferred
from postfix_sync.monitoring.textfile import write_textfile
from postfix_sync.postfix.queue import DeferredMail
from postfix_sync.probe import flush
from postfix_sync.probe.lmtp import probe_all
from postfix_sync.probe.notice import describe
from postfix_sync.probe.targets import targets
from postfix_sync.reconcile.once import once
from postfix_sync.reconcile.report import Report, Request
from postfix_sync.reconcile.retire import retire
from postfix_sync.status import transitions
from postfix_sync.status.file import StatusFile
from postfix_sync.status.schema import Status
from postfix_sync.status.transitions import after_count, after_flush, after_probes, after_sync
from postfix_sync.system.tasks import interrupted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


CONFIRM_AFTER = 1.0
"""Seconds until a destination that was up before this command, and failed, is probed again."""


def run(options: argparse.Namespace) -> Exit:
    """Run one sync, and return its exit status."""
    return complete(_sync_and_probe(load(options), options))


async def _sync_and_probe(configuration: "Config", options: argparse.Namespace) -> Exit:
    rankings = transitions.rankings(StatusFile.of(configuration).read_or_new())
    request = Request(force=options.force, dry_run=options.dry_run)
    report = await once(configuration, rankings, request)
    for line in report.lines:
        LOG.info("%s", line)
    log_report(report)
    if options.dry_run:
        sys.stdout.writelines(f"{line}\n" for line in report.preview)
        return report.status
    status = await note(configuration, report, probing=True)
    return worst([status, await _retire(configuration)])


async def _retire(configuration: "Config") -> Exit:
    """Remove routes and host names whose time to retire has come; return the exit status."""
    if interrupted():
        return Exit.OK
    try:
        for line in await retire(configuration):
            LOG.info("%s", line)
    except Busy:
        pass  # the process that holds the lock, or the next one, removes them
    except SyncError as error:
        log_problem(error)
        return error.status
    return Exit.OK


def log_report(report: Report) -> None:
    """Log the notices and errors of a sync."""
    for notice in report.notices:
        log_problem(notice, logging.WARNING)
    for error in report.errors:
        log_problem(error)


async def note(configuration: "Config", report: Report, *, probing: bool) -> Exit:
    """Probe the installed destinations if `probing`; store the results of sync and probes.

    Writes status.json and the metrics file, and returns the exit status of all.
    """
    if any(isinstance(error, Busy) for error in report.errors):
        return report.status  # the process that held the lock has stored its own results
    status_file = StatusFile.of(configuration)
    changes = [partial(after_sync, config=configuration, report=report, now=time.time())]
    results: dict[Destination, ProbeResult] = {}
    probing = probing and configuration.probe.level != "off"
    if report.installed and probing and not interrupted():
        async for found in _probes(configuration, report, status_file.read_or_new()):
            results |= {result.destination: result for result in found}
            changes.append(partial(after_probes, results=found, now=time.time()))
    if configuration.metrics.enabled and not interrupted():
        deferred = await _count_deferred(configuration)
        changes.append(partial(after_count, deferred=deferred, now=time.time()))
    try:
        for change in changes:
            status = await status_file.update(change)
        if results and configuration.probe.flush:
            await _recover(configuration, report, status)
        await write_textfile(configuration)
    except SyncError as error:
        if error.message not in {known.message for known in report.errors}:
            log_problem(error)
        return worst([report.status, error.status])
    return worst([report.status, _log_down(list(results.values()))])


async def _probes(
    configuration: "Config", report: Report, status: Status
) -> AsyncIterator[list[ProbeResult]]:
    """Probe all destinations, and again those that were up and did not answer."""
    section = configuration.probe
    probed = targets(report.routes_in_use, report.replicas)
    while probed:
        found = await probe_all(probed, section.level, section.timeout, report.lmtp)
        yield found
        status = after_probes(status, found, time.time())
        doubted = transitions.doubted(status, still_up=True)
        probed = [target for target in probed if target.destination.endpoint in doubted]
        if probed:
            await asyncio.sleep(CONFIRM_AFTER)


async def _recover(configuration: "Config", report: Report, status: Status) -> None:
    """Have Postfix deliver the deferred mail of destinations that have recovered."""
    began = time.time()
    due = flush.due(status, began)
    if due:
        directory = configuration.postfix.config_directory
        done = await flush.recover(directory, report.routes, due, lambda _: True)
        if done:
            change = partial(after_flush, endpoints=done, began=began)
            await StatusFile.of(configuration).update(change)


async def _count_deferred(configuration: "Config") -> dict[Destination, DeferredMail] | None:
    """Return the deferred mail of each destination; None if Postfix's queue can't be read."""
    try:
        return await count_deferred(configuration)
    except ConfigError:  # the sync met the same error, and logged it
        return None
    except SyncError as error:
        log_problem(error, logging.WARNING)
        return None


def _log_down(results: Sequence[ProbeResult]) -> Exit:
    """Log the destinations that are down, and return the exit status of the probes."""
    for result in results:
        if not result.up:
            log_problem(describe(result))
    return Exit.OK if all(result.up for result in results) else Exit.PROBE_FAILED
