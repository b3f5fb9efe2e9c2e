"""postfix-sync --once: one pass, a probe of what it left installed, and an end."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync import lmtp, monitoring, state, sync
from postfix_sync.commands import complete, load
from postfix_sync.errors import Busy, ConfigError, Exit, SyncError, worst
from postfix_sync.log import LOG, tell
from postfix_sync.model import ROUTES, Destination, ProbeResult
from postfix_sync.queue import Waiting

if TYPE_CHECKING:
    from postfix_sync.config import Config


def run(options: argparse.Namespace) -> Exit:
    """Makes one pass."""
    return complete(_pass_and_probe(load(options), options))


async def _pass_and_probe(configuration: "Config", options: argparse.Namespace) -> Exit:
    status = state.StatusFile(configuration.state_directory).read_or_new()
    rankings = state.rankings(status)
    report = await sync.once(configuration, rankings, force=options.force, dry_run=options.dry_run)
    for line in report.lines:
        LOG.info("%s", line)
    for notice in report.notices:
        tell(notice, logging.WARNING)
    for error in report.errors:
        tell(error)
    if any(isinstance(error, Busy) for error in report.errors):
        return report.status
    if options.dry_run:
        sys.stdout.writelines(f"{line}\n" for line in report.preview)
        return report.status
    return await _record_and_probe(configuration, report)


async def _record_and_probe(configuration: "Config", report: sync.Report) -> Exit:
    """Probes what the pass left installed; notes for status and metrics what both found."""
    status_file = state.StatusFile(configuration.state_directory)
    changes = [partial(state.after_pass, config=configuration, report=report, now=time.time())]
    results: list[ProbeResult] = []
    section = configuration.probe
    if report.installed and section.level != "off" and not sync.interrupted():
        asked = lmtp.targets(report.installed[ROUTES], report.replicas)
        results = await lmtp.probe_all(asked, section.level, section.timeout, report.known_hosts)
        changes.append(partial(state.after_probes, results=results, now=time.time()))
    if configuration.metrics.wanted and not sync.interrupted():
        deferred = await _count_deferred(configuration)
        changes.append(partial(state.after_count, deferred=deferred, now=time.time()))
    try:
        for change in changes:
            await status_file.update(change)
        await monitoring.write_textfile(configuration)
    except SyncError as error:
        if error.message not in {known.message for known in report.errors}:
            tell(error)
        return worst([report.status, error.status])
    return worst([report.status, _tell_down(results)])


async def _count_deferred(configuration: "Config") -> dict[Destination, Waiting] | None:
    """What is deferred for which destination; None where Postfix can't say."""
    try:
        return await monitoring.count_deferred(configuration)
    except ConfigError:  # the pass met the same, and told it
        return None
    except SyncError as error:
        tell(error, logging.WARNING)
        return None


def _tell_down(results: Sequence[ProbeResult]) -> Exit:
    """Logs the destinations that are down; the exit status that this makes."""
    for result in results:
        if not result.up:
            tell(lmtp.describe(result))
    return Exit.OK if all(result.up for result in results) else Exit.PROBE_FAILED
