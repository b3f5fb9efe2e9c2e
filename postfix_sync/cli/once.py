"""postfix-sync --once: one pass, a probe of what it left installed, and an end."""

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
from postfix_sync.log import LOG, tell
from postfix_sync.model import Destination, ProbeResult
from postfix_sync.monitoring.deferred import count_deferred
from postfix_sync.monitoring.textfile import write_textfile
from postfix_sync.postfix.queue import Waiting
from postfix_sync.probe import flush
from postfix_sync.probe.lmtp import describe, probe_all
from postfix_sync.probe.targets import targets
from postfix_sync.reconcile.once import once
from postfix_sync.reconcile.report import Report, Request
from postfix_sync.reconcile.retire import retire
from postfix_sync.status import transitions
from postfix_sync.status.file import StatusFile
from postfix_sync.status.schema import Status
from postfix_sync.status.transitions import after_count, after_flush, after_pass, after_probes
from postfix_sync.system.tasks import interrupted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


CONFIRM_AFTER = 1.0
"""Seconds until a destination that was up, and failed, is asked once more."""


def run(options: argparse.Namespace) -> Exit:
    """Makes one pass."""
    return complete(_pass_and_probe(load(options), options))


async def _pass_and_probe(configuration: "Config", options: argparse.Namespace) -> Exit:
    rankings = transitions.rankings(StatusFile.of(configuration).read_or_new())
    request = Request(force=options.force, dry_run=options.dry_run)
    report = await once(configuration, rankings, request)
    for line in report.lines:
        LOG.info("%s", line)
    tell_problems(report)
    if options.dry_run:
        sys.stdout.writelines(f"{line}\n" for line in report.preview)
        return report.status
    status = await note(configuration, report, probing=True)
    return worst([status, await _retire(configuration)])


async def _retire(configuration: "Config") -> Exit:
    """Takes out what is not needed any more, if it is due; the exit status that this makes."""
    if interrupted():
        return Exit.OK
    try:
        for line in await retire(configuration):
            LOG.info("%s", line)
    except Busy:
        pass  # whoever is at work does it
    except SyncError as error:
        tell(error)
        return error.status
    return Exit.OK


def tell_problems(report: Report) -> None:
    """Logs what a pass found wrong."""
    for notice in report.notices:
        tell(notice, logging.WARNING)
    for error in report.errors:
        tell(error)


async def note(configuration: "Config", report: Report, *, probing: bool) -> Exit:
    """Probes what the pass left installed; notes for status and metrics what both found."""
    if any(isinstance(error, Busy) for error in report.errors):
        return report.status  # whoever was at work notes it
    status_file = StatusFile.of(configuration)
    changes = [partial(after_pass, config=configuration, report=report, now=time.time())]
    results: dict[Destination, ProbeResult] = {}
    probing = probing and configuration.probe.level != "off"
    if report.installed and probing and not interrupted():
        async for found in _probes(configuration, report, status_file.read_or_new()):
            results |= {one.destination: one for one in found}
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
            tell(error)
        return worst([report.status, error.status])
    return worst([report.status, _tell_down(list(results.values()))])


async def _probes(
    configuration: "Config", report: Report, status: Status
) -> AsyncIterator[list[ProbeResult]]:
    """Probes all destinations, and once more those that were up and did not answer."""
    section = configuration.probe
    asked = targets(report.routes_in_use, report.replicas, report.families)
    while asked:
        found = await probe_all(asked, section.level, section.timeout, report.known_hosts)
        yield found
        status = after_probes(status, found, time.time())
        doubted = transitions.doubted(status, still_up=True)
        asked = [one for one in asked if one.destination.endpoint in doubted]
        if asked:
            await asyncio.sleep(CONFIRM_AFTER)


async def _recover(configuration: "Config", report: Report, status: Status) -> None:
    """Has Postfix deliver what waited for destinations that are back."""
    began = time.time()
    wanted = flush.due(status, began)
    if wanted:
        directory = configuration.postfix.config_directory
        done = await flush.recover(directory, report.routes, wanted, lambda _: True)
        if done:
            change = partial(after_flush, endpoints=done, began=began)
            await StatusFile.of(configuration).update(change)


async def _count_deferred(configuration: "Config") -> dict[Destination, Waiting] | None:
    """What is deferred for which destination; None where Postfix can't say."""
    try:
        return await count_deferred(configuration)
    except ConfigError:  # the pass met the same, and told it
        return None
    except SyncError as error:
        tell(error, logging.WARNING)
        return None


def _tell_down(results: Sequence[ProbeResult]) -> Exit:
    """Logs the destinations that are down; the exit status that this makes."""
    for result in results:
        if not result.up:
            tell(describe(result))
    return Exit.OK if all(result.up for result in results) else Exit.PROBE_FAILED
