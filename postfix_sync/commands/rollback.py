"""postfix-sync rollback: the last states of the maps, and one of them put back and held."""

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync import changes, show, state, sync
from postfix_sync.commands import complete, load
from postfix_sync.commands.once import note, tell_problems
from postfix_sync.containers.relocate import by_address
from postfix_sync.errors import Exit, SyncError
from postfix_sync.hosts_files import HostsFiles
from postfix_sync.log import LOG, tell
from postfix_sync.maps import installed_maps
from postfix_sync.model import Maps
from postfix_sync.terminal import Terminal

if TYPE_CHECKING:
    from postfix_sync.config import Config


def run(options: argparse.Namespace) -> Exit:
    """Lists the generations, or puts one back. Raises NoSuchGeneration."""
    configuration = load(options)
    if options.generation is None:
        print(complete(_listing(configuration)))  # noqa: T201 - the command's answer
        return Exit.OK
    return complete(_put_back(configuration, options))


async def _put_back(configuration: "Config", options: argparse.Namespace) -> Exit:
    """Makes a pass that asks no source: it must do also while they are away."""
    number = options.generation
    await sync.generations_of(configuration).load(number)
    status = state.StatusFile.of(configuration).read_or_new()
    request = sync.Request(roll_back=number)
    rankings = state.rankings(status)
    report = await sync.completed(lambda: sync.make_pass(configuration, {}, rankings, request))
    tell_problems(report)
    if report.held and report.failed:
        LOG.warning("generation %s is held, and the next pass goes on putting it back", number)
    elif report.held and not options.quiet:
        go_on = f"no pass changes anything until: {configuration.command('resume')}"
        answer = [*report.lines, f"generation {number} is installed and held; {go_on}"]
        print("\n".join(answer))  # noqa: T201 - the command's answer
    return await note(configuration, report, probing=False)


async def _listing(configuration: "Config") -> str:
    kept = sync.generations_of(configuration)
    present = installed_maps(configuration.postfix.map_directory)
    by_name = HostsFiles(configuration.hosts.file, None).by_name()
    addresses: dict[str, str] = {}
    rows = []
    for number in kept.numbers():
        try:
            generation = await kept.load(number)
        except SyncError as error:
            tell(error)
            continue
        tables = generation.tables
        addresses = {**generation.hosts, **addresses}  # the latest generation comes first
        kept_out = {name: ip for name, ip in addresses.items() if not by_name(name)}
        maps = Maps.of(replace(tables, routes=by_address(tables.routes, kept_out)))
        rows.append(show.Kept(generation, changes.difference(present, maps)))
    return show.generations(
        rows, kept.held(), configuration.command, Terminal.of(sys.stdout, os.environ)
    )
