"""postfix-sync probe: check whether Mailman's LMTP server answers and accepts mail."""

import argparse
import contextlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.cli import nagios
from postfix_sync.cli.running import complete, load
from postfix_sync.errors import ConfigError, Exit, OutOfReach, SyncError
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.log import log_problem
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.postfix.lmtp_client import LmtpClient, lmtp_client_of
from postfix_sync.postfix.map_directory import installed_maps
from postfix_sync.probe.lmtp import probe_all
from postfix_sync.probe.notice import describe
from postfix_sync.probe.targets import Target, targets

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


def run(options: argparse.Namespace) -> int:
    """Probe the destinations on the command line, or else all installed destinations."""
    configuration = load(options)
    results = complete(_probe(configuration, options))
    if options.nagios:
        return _as_plugin(configuration, results)
    if options.json:
        document = json.dumps([_as_json(result) for result in results], indent=2)
        print(document)  # noqa: T201 - the command's answer
    for result in results:
        notice = describe(result)
        if not result.up:
            log_problem(notice)
        elif result.warning:
            log_problem(notice, logging.WARNING)
        elif not options.json and not options.quiet:
            print(notice.message)  # noqa: T201 - the command's answer
    if not results:
        log_problem(_no_destination(configuration))
    return Exit.OK if results and all(result.up for result in results) else Exit.PROBE_FAILED


async def _probe(configuration: "Config", options: argparse.Namespace) -> list[ProbeResult]:
    lmtp = LmtpClient()
    with contextlib.suppress(ConfigError):  # a probe does not need a Postfix on this host
        lmtp = await lmtp_client_of(configuration.postfix.config_directory)
    return await probe_all(
        _targets(configuration, options),
        options.level or configuration.probe.level.replace("off", "rcpt"),
        configuration.probe.timeout,
        replace(lmtp, known=_known_hosts(configuration)),
        within=nagios.WITHIN if options.nagios else None,
    )


def _as_plugin(configuration: "Config", results: list[ProbeResult]) -> int:
    """Print the results as a monitoring plugin. Raises OutOfReach if there are none."""
    if not results:
        raise _no_destination(configuration)
    print(nagios.render(results))  # noqa: T201 - the command's answer
    return nagios.state_of(results)


def _no_destination(configuration: "Config") -> OutOfReach:
    return OutOfReach(
        f"{configuration.postfix.map_directory}: no destination is installed there",
        f"name one: {configuration.command('probe')} HOST:PORT;"
        f" or: {configuration.command('--once')}",
    )


def _targets(configuration: "Config", options: argparse.Namespace) -> list[Target]:
    """Return the destinations on the command line, or else those of the installed maps."""
    installed = targets(installed_maps(configuration.postfix.map_directory).routes_in_use, {})
    lists = {target.destination: target.recipient for target in installed}
    return [
        Target(destination, options.rcpt or lists.get(destination), doubting=True)
        for destination in options.destinations or lists
    ]


def _known_hosts(configuration: "Config") -> dict[str, str]:
    try:
        return HostsFiles(configuration.hosts.file, None).read().lookup()
    except SyncError as error:  # the system's resolver reads the file, too
        log_problem(error, logging.WARNING)
        return {}


def _as_json(result: ProbeResult) -> dict[str, object]:
    return {
        "destination": result.destination.endpoint,
        "up": result.up,
        "phase": result.phase,
        "reply": result.reply,
        "seconds": result.seconds,
        "error": result.error,
        "warning": result.warning,
    }
