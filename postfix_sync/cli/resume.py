"""postfix-sync resume: release the hold of a rollback, and sync now."""

import argparse
from typing import TYPE_CHECKING

from postfix_sync.cli.once import log_report, note
from postfix_sync.cli.running import complete, load
from postfix_sync.errors import Exit
from postfix_sync.reconcile.once import once
from postfix_sync.reconcile.report import Request
from postfix_sync.status.file import StatusFile
from postfix_sync.status.transitions import rankings

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


def run(options: argparse.Namespace) -> Exit:
    """Release the hold, and sync; if no generation is held, just sync."""
    return complete(_resume(load(options), options))


async def _resume(configuration: "Config", options: argparse.Namespace) -> Exit:
    status = StatusFile.of(configuration).read_or_new()
    report = await once(configuration, rankings(status), Request(resume=True))
    log_report(report)
    if not options.quiet and not report.failed:
        print("\n".join(report.lines or ["nothing had to change"]))  # noqa: T201 - the command's answer
    return await note(configuration, report, probing=False)
