"""The command line: flags in, exit status out.

All options are here; what a command does with them is in commands/, in the module of its name.
"""

import argparse
import asyncio
import io
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from postfix_sync import __version__
from postfix_sync.errors import ApplyError, Exit, SyncError, is_out_of_memory, out_of_memory, why
from postfix_sync.log import LOG, configure, log_problem
from postfix_sync.model import Destination

LMTP_PORT = 8024
"""Where Mailman listens by default, for a destination that is named without a port."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    _open_what_is_closed()
    given = sys.argv[1:] if arguments is None else arguments
    if "--nagios" in given:
        from postfix_sync.cli.nagios import plugin  # noqa: PLC0415

        return plugin(partial(_run, given))
    try:
        status = _run(given)
        sys.stdout.flush()
        return status  # noqa: TRY300 - a flush that fails is what is caught below
    except SyncError as error:
        log_problem(error)
        return int(error.status)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        log_problem(out_of_memory("postfix-sync"))
        return int(Exit.APPLY_FAILED)
    except OSError as error:  # of standard output: what else may fail is a SyncError by now
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # then nobody reads on
            log_problem(ApplyError(f"standard output: {why(error)}"))
        return int(Exit.APPLY_FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        LOG.error("interrupted")
        return int(Exit.OUT_OF_REACH)


def _open_what_is_closed() -> None:
    """Standard streams that the caller has closed lead nowhere: no map gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good


def _run(arguments: Sequence[str]) -> int:
    """Runs the command; raises what ends it early."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.force and not options.once:
        parser.error("--force goes with --once")
    if options.dry_run and not (options.once or options.command == "setup"):
        parser.error("--dry-run goes with --once and with setup")
    if options.once and options.command:
        parser.error(f"--once does not go with {options.command}")
    os.umask(0o022)  # Postfix's processes read what is installed, whoever they run as
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    configure(_level(options), options.log_format, timed=_is_daemon(options))
    command = options.command or ("once" if options.once else "serve")
    return int(import_module(f"postfix_sync.cli.{command}").run(options))


def _common() -> argparse.ArgumentParser:
    """The options of every command. A parser of its own for each: argparse shares defaults."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="default: /etc/postfix-sync/config.yaml",
    )
    loudness = common.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="say more")
    loudness.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    common.add_argument(
        "--log-format", choices=("text", "json"), help="of log and errors; default: text"
    )
    return common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postfix-sync",
        description="Keeps this Postfix host in step with the transport maps that Mailman 3 writes."
        " Without a command: the daemon, in the foreground.",
        epilog="More: man postfix-sync, and man postfix-sync.yaml about the configuration.",
        parents=[_common()],
    )
    parser.set_defaults(config=None, verbose=False, quiet=False, log_format="text", command=None)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--once", action="store_true", help="make one pass and end (for cron)")
    parser.add_argument(
        "--dry-run", action="store_true", help="with --once: show the changes, change nothing"
    )
    parser.add_argument(
        "--force", action="store_true", help="with --once: the guards let the change through"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, does: str) -> argparse.ArgumentParser:
        description = f"{does[0].upper()}{does[1:]}."
        return commands.add_parser(name, parents=[_common()], help=does, description=description)

    probing = add("probe", "ask Mailman's LMTP port whether it takes mail")
    probing.add_argument(
        "destinations",
        nargs="*",
        type=_endpoint,
        metavar="HOST[:PORT]",
        help=f"whom; without one, all that the maps lead to; the port is {LMTP_PORT} if not given",
    )
    probing.add_argument(
        "--rcpt", type=_address, metavar="ADDRESS", help="the list address to ask for"
    )
    probing.add_argument("--level", choices=("connect", "lhlo", "rcpt"), help="how far to go")
    shape = probing.add_mutually_exclusive_group()
    _add_json(shape)
    shape.add_argument("--nagios", action="store_true", help="answer as a monitoring plugin does")

    _add_json(add("doctor", "check this host's Postfix, and say what mends it"))

    setup = add("setup", "make Postfix use the maps, or take that back")
    manner = setup.add_mutually_exclusive_group()
    manner.add_argument("--yes", action="store_true", help="do not ask")
    manner.add_argument(
        "--dry-run",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the changes, change nothing",
    )
    setup.add_argument("--undo", action="store_true", help="take out what setup has added")

    _add_json(add("status", "show what the last passes and probes found"))

    rollback = add("rollback", "put an earlier state of the maps back, and hold it")
    rollback.add_argument(
        "generation",
        nargs="?",
        type=_number,
        metavar="GENERATION",
        help="which; without it, they are listed",
    )
    add("resume", "go on after a rollback")
    return parser


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _endpoint(text: str) -> Destination:
    """HOST, HOST:PORT, [ADDRESS]:PORT, or an IPv6 address without a port."""
    from postfix_sync.postfix.next_hop import parse_destination  # noqa: PLC0415

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
    from postfix_sync.mailman.names import check_address  # noqa: PLC0415

    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    """The number of a generation."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a generation is a number, not {text!r}")
    return int(text)


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
