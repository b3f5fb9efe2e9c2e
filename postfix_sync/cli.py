"""The command line: flags in, exit status out.

What is heavy is imported by the command that needs it: the daemon's watcher, the probe's client.
"""

import argparse
import asyncio
import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postfix_sync import __version__
from postfix_sync.errors import Busy, Exit, SyncError, worst
from postfix_sync.log import LOG, configure, tell
from postfix_sync.model import ROUTES, Destination, ProbeResult

if TYPE_CHECKING:
    from postfix_sync.config import Config
    from postfix_sync.lmtp import Target
    from postfix_sync.sync import Report

LMTP_PORT = 8024
"""Where Mailman listens by default, for a destination that is named without a port."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.dry_run or options.force) and not options.once:
        parser.error("--dry-run and --force go with --once")
    if options.once and options.command:
        parser.error(f"--once does not go with {options.command}")
    os.umask(0o022)  # Postfix's processes read what is installed, whoever they run as
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    configure(_level(options), options.log_format, timed=_is_daemon(options))
    try:
        return int(_COMMANDS[options.command or ("once" if options.once else "daemon")](options))
    except SyncError as error:
        tell(error)
        return int(error.status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on
        return int(Exit.APPLY_FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        LOG.error("interrupted")
        return int(Exit.OUT_OF_REACH)


def _common() -> argparse.ArgumentParser:
    """The options of every command. A parser of its own for each: argparse shares defaults."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="not /etc/postfix-sync/config.yaml"
    )
    loudness = common.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="say more")
    loudness.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    common.add_argument("--log-format", choices=("text", "json"), help="text if not given")
    return common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postfix-sync",
        description="Keeps this Postfix host in step with the transport maps that Mailman 3 writes."
        " Without a command: the daemon, in the foreground.",
        parents=[_common()],
    )
    parser.set_defaults(config=None, verbose=False, quiet=False, log_format="text", command=None)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--once", action="store_true", help="make one pass and end (for cron)")
    parser.add_argument(
        "--dry-run", action="store_true", help="with --once: say what would change, change nothing"
    )
    parser.add_argument(
        "--force", action="store_true", help="with --once: the guards let the change through"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    probing = commands.add_parser(
        "probe", parents=[_common()], help="ask Mailman's LMTP port whether it takes mail"
    )
    probing.add_argument("destinations", nargs="*", type=_endpoint, metavar="HOST[:PORT]")
    probing.add_argument(
        "--rcpt", type=_address, metavar="ADDRESS", help="the list address to ask for"
    )
    probing.add_argument("--level", choices=("connect", "lhlo", "rcpt"), help="how far to go")
    probing.add_argument("--json", action="store_true", help="print one JSON document")

    status = commands.add_parser(
        "status", parents=[_common()], help="show what the last passes and probes found"
    )
    status.add_argument("--json", action="store_true", help="print status.json as it is")
    return parser


def _endpoint(text: str) -> Destination:
    """HOST, HOST:PORT, [ADDRESS]:PORT, or an IPv6 address without a port."""
    from postfix_sync.tables import parse_destination  # noqa: PLC0415

    if text.startswith("[") and "]" in text:
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    try:
        return parse_destination(f"lmtp:[{host}]:{port or LMTP_PORT}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> str:
    """A full address."""
    from postfix_sync.tables import check_address  # noqa: PLC0415

    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _is_daemon(options: argparse.Namespace) -> bool:
    return not options.command and not options.once


def _level(options: argparse.Namespace) -> int:
    """The daemon tells of changes; a command only at a terminal: cron mails what is printed."""
    talkative = _is_daemon(options) or sys.stderr.isatty()
    if options.quiet:
        return logging.ERROR
    if options.verbose:
        return logging.DEBUG if talkative else logging.INFO
    return logging.INFO if talkative else logging.WARNING


def _load(options: argparse.Namespace) -> "Config":
    from postfix_sync.config import DEFAULT_PATH, load  # noqa: PLC0415 - pydantic is heavy

    return load(options.config or DEFAULT_PATH)


def _run(work: Awaitable[Any]) -> Any:
    """Runs `work` to its end; SIGTERM cancels it, as SIGINT does."""

    async def cancelled_by_sigterm() -> Any:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    return asyncio.run(cancelled_by_sigterm())


def _daemon(options: argparse.Namespace) -> Exit:
    from postfix_sync.config import DEFAULT_PATH  # noqa: PLC0415
    from postfix_sync.daemon import Daemon  # noqa: PLC0415 - watchfiles is heavy

    configuration = _load(options)

    async def serve() -> None:
        await Daemon(options.config or DEFAULT_PATH, configuration).run()

    asyncio.run(serve())
    return Exit.OK


def _once(options: argparse.Namespace) -> Exit:
    configuration = _load(options)
    status: Exit = _run(_pass_and_probe(configuration, options))
    return status


async def _pass_and_probe(configuration: "Config", options: argparse.Namespace) -> Exit:
    from postfix_sync import state, sync  # noqa: PLC0415

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


async def _record_and_probe(configuration: "Config", report: "Report") -> Exit:
    """Probes what the pass left installed, and notes in the status what both found."""
    from postfix_sync import lmtp, state  # noqa: PLC0415
    from postfix_sync.sync import interrupted  # noqa: PLC0415

    status_file = state.StatusFile(configuration.state_directory)
    changes = [
        partial(
            state.after_pass,
            sources=[one.name for one in configuration.sources],
            report=report,
            probing=configuration.probe.level != "off",
            now=time.time(),
        )
    ]
    results: list[ProbeResult] = []
    section = configuration.probe
    if report.installed and section.level != "off" and not interrupted():
        asked = lmtp.targets(report.installed[ROUTES], report.replicas)
        results = await lmtp.probe_all(asked, section.level, section.timeout, report.known_hosts)
        changes.append(partial(state.after_probes, results=results, now=time.time()))
    try:
        for change in changes:
            await status_file.update(change)
    except SyncError as error:
        if error.message not in {known.message for known in report.errors}:
            tell(error)
        return worst([report.status, error.status])
    return worst([report.status, _tell_down(results)])


def _tell_down(results: Sequence[ProbeResult]) -> Exit:
    """Logs the destinations that are down; the exit status that this makes."""
    from postfix_sync.lmtp import describe  # noqa: PLC0415

    for result in results:
        if not result.up:
            tell(describe(result))
    return Exit.OK if all(result.up for result in results) else Exit.PROBE_FAILED


def _probe(options: argparse.Namespace) -> Exit:
    from postfix_sync import lmtp  # noqa: PLC0415

    configuration = _load(options)
    results: list[ProbeResult] = _run(
        lmtp.probe_all(
            _targets(configuration, options),
            options.level or configuration.probe.level.replace("off", "rcpt"),
            configuration.probe.timeout,
            _known_hosts(configuration),
        )
    )
    if options.json:
        print(json.dumps([_as_json(result) for result in results], indent=2))  # noqa: T201
    for result in results:
        notice = lmtp.describe(result)
        if result.up and not options.json and not options.quiet:
            print(notice.message)  # noqa: T201
        elif not result.up:
            tell(notice)
    if not results:
        LOG.error(
            "%s: no destination is installed there",
            configuration.postfix.map_directory,
            extra={"hint": "name one: postfix-sync probe HOST:PORT; or: postfix-sync --once"},
        )
    return Exit.OK if results and all(one.up for one in results) else Exit.PROBE_FAILED


def _targets(configuration: "Config", options: argparse.Namespace) -> list["Target"]:
    """What to probe: the named destinations, or those of the installed maps."""
    from postfix_sync.lmtp import Target, targets  # noqa: PLC0415
    from postfix_sync.maps import installed_routes  # noqa: PLC0415

    installed = targets(installed_routes(configuration.postfix.map_directory), {})
    if options.destinations:
        lists = {one.destination: one.recipient for one in installed}
        asked = [Target(one, lists.get(one)) for one in options.destinations]
    elif installed:
        asked = installed
    else:
        asked = []
    return [replace(one, recipient=options.rcpt or one.recipient) for one in asked]


def _known_hosts(configuration: "Config") -> dict[str, str]:
    from postfix_sync.hosts_files import HostsFiles  # noqa: PLC0415

    try:
        return HostsFiles(configuration.hosts.file, None).read().lookup()
    except SyncError as error:  # the resolver knows its names as well
        tell(error, logging.WARNING)
        return {}


def _as_json(result: ProbeResult) -> dict[str, object]:
    return {
        "destination": result.destination.endpoint,
        "up": result.up,
        "phase": result.phase,
        "reply": result.reply,
        "seconds": result.seconds,
        "error": result.error,
    }


def _status(options: argparse.Namespace) -> Exit:
    from postfix_sync import state  # noqa: PLC0415

    status = state.StatusFile(_load(options).state_directory).read()
    text = json.dumps(status, indent=2) if options.json else state.render(status, time.time())
    print(text)  # noqa: T201
    return Exit.OK


_COMMANDS = {"daemon": _daemon, "once": _once, "probe": _probe, "status": _status}
