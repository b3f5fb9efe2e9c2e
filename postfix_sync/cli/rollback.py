"""postfix-sync rollback: list the generations of the maps, or install one and hold it."""

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.cli import output
from postfix_sync.cli.once import log_report, note
from postfix_sync.cli.running import complete, load
from postfix_sync.cli.terminal import Terminal
from postfix_sync.containers.relocate import by_address
from postfix_sync.containers.routable_names import routable_names
from postfix_sync.errors import Exit, SyncError
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.maps import Maps
from postfix_sync.postfix.map_directory import installed_maps
from postfix_sync.reconcile.changes import difference
from postfix_sync.reconcile.once import completed
from postfix_sync.reconcile.report import Request
from postfix_sync.reconcile.sync import sync
from postfix_sync.status import transitions
from postfix_sync.status.file import StatusFile
from postfix_sync.store.state_directory import generations_of, hold_file_of

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


def run(options: argparse.Namespace) -> Exit:
    """List the generations, or install one. Raises NoSuchGeneration."""
    configuration = load(options)
    if options.generation is None:
        print(complete(_listing(configuration)))  # noqa: T201 - the command's answer
        return Exit.OK
    return complete(_install(configuration, options))


async def _install(configuration: "Config", options: argparse.Namespace) -> Exit:
    """Install and hold a generation, in a sync that polls no source: all may be out of reach."""
    number = options.generation
    await generations_of(configuration).load(number)
    status = StatusFile.of(configuration).read_or_new()
    request = Request(roll_back=number)
    rankings = transitions.rankings(status)
    report = await completed(lambda: sync(configuration, {}, rankings, request))
    log_report(report)
    if report.held and report.failed:
        LOG.warning("generation %s is held; the next sync continues to install it", number)
    elif report.held and not options.quiet:
        until = f"no sync changes anything until: {configuration.command('resume')}"
        answer = [*report.lines, f"generation {number} is installed and held; {until}"]
        print("\n".join(answer))  # noqa: T201 - the command's answer
    return await note(configuration, report, probing=False)


async def _listing(configuration: "Config") -> str:
    kept = generations_of(configuration)
    present = installed_maps(configuration.postfix.map_directory)
    by_name = routable_names(HostsFiles(configuration.hosts.file, None))
    addresses: dict[str, str] = {}
    rows = []
    for number in kept.numbers():
        try:
            generation = await kept.load(number)
        except SyncError as error:
            log_problem(error)
            continue
        tables = generation.tables
        addresses = {**generation.hosts, **addresses}  # those of the latest generation win
        kept_out = {name: ip for name, ip in addresses.items() if not by_name(name)}
        maps = Maps.of(replace(tables, routes=by_address(tables.routes, kept_out)))
        rows.append(output.Kept(generation, difference(present, maps)))
    return output.generations(
        rows,
        hold_file_of(configuration).read(),
        configuration.command,
        Terminal.of(sys.stdout, os.environ),
    )
