"""Parse the command line, run the command, and return its exit status.

This module defines all options. Each command is in the module of its name in this package.
"""

import argparse
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
from postfix_sync.model.destination import Destination

LMTP_PORT = 8024
"""Mailman's default port, for a destination without a port (`port` in Mailman's [mta] section)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, log its errors, and return its exit status."""
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
    except OSError as error:  # of standard output: all other failures are a SyncError by now
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader has ended, as `head` does
            log_problem(ApplyError(f"standard output: {why(error)}"))
        return int(Exit.APPLY_FAILED)
    except KeyboardInterrupt:
        LOG.error("interrupted")
        return int(Exit.OUT_OF_REACH)


def _open_what_is_closed() -> None:
    """Open standard streams that the caller has closed, so that no map gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good


def _run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status. Raises SyncError, SystemExit on bad usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.force and not options.once:
        parser.error("--force requires --once")
    if options.dry_run and not (options.once or options.command == "setup"):
        parser.error("--dry-run requires --once or setup")
    if options.once and options.command:
        parser.error(f"--once can't be combined with {options.command}")
    os.umask(0o022)  # Postfix's processes read the installed files as other users than root
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    configure(_level(options), options.log_format, timed=_is_daemon(options))
    command = options.command or ("once" if options.once else "serve")
    return int(import_module(f"postfix_sync.cli.{command}").run(options))


def _common() -> argparse.ArgumentParser:
    """Return a new parser of the common options: argparse shares the defaults of a parser."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration (default: /etc/postfix-sync/config.yaml)",
    )
    loudness = common.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="log more")
    loudness.add_argument("-q", "--quiet", action="store_true", help="log errors only")
    common.add_argument("--log-format", choices=("text", "json"), help="log format (default: text)")
    return common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postfix-sync",
        description="Keep the maps of this Postfix host in step with the lists of Mailman 3."
        " Without a command, run the daemon in the foreground.",
        epilog="See also: man postfix-sync; for the configuration: man postfix-sync.yaml.",
        parents=[_common()],
    )
    parser.set_defaults(config=None, verbose=False, quiet=False, log_format="text", command=None)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--once", action="store_true", help="run one sync and exit (for cron)")
    parser.add_argument(
        "--dry-run", action="store_true", help="with --once: show the changes, change nothing"
    )
    parser.add_argument(
        "--force", action="store_true", help="with --once: skip the safety limits (guard.*)"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, does: str) -> argparse.ArgumentParser:
        description = f"{does[0].upper()}{does[1:]}."
        return commands.add_parser(name, parents=[_common()], help=does, description=description)

    probing = add("probe", "check whether Mailman's LMTP server accepts mail")
    probing.add_argument(
        "destinations",
        nargs="*",
        type=_endpoint,
        metavar="HOST[:PORT]",
        help="destination to probe (default: all installed destinations);"
        f" the default port is {LMTP_PORT}",
    )
    probing.add_argument(
        "--rcpt", type=_address, metavar="ADDRESS", help="list address to send in RCPT TO"
    )
    probing.add_argument(
        "--level", choices=("connect", "lhlo", "rcpt"), help="last phase of the probe"
    )
    shape = probing.add_mutually_exclusive_group()
    _add_json(shape)
    shape.add_argument(
        "--nagios", action="store_true", help="print the result as a monitoring plugin"
    )

    _add_json(add("doctor", "check this host's Postfix, and print commands that fix it"))

    explaining = add("explain", "show what this Postfix does with mail to an address, and why")
    explaining.add_argument(
        "address", type=_recipient, metavar="ADDRESS", help="any address; no mail is sent to it"
    )
    _add_json(explaining)

    setup = add("setup", "make Postfix use the maps, or undo that")
    manner = setup.add_mutually_exclusive_group()
    manner.add_argument("--yes", action="store_true", help="make the changes without confirmation")
    manner.add_argument(
        "--dry-run",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the changes, change nothing",
    )
    setup.add_argument("--undo", action="store_true", help="remove the changes that setup has made")

    _add_json(add("status", "show the results of the last syncs and probes"))

    rollback = add("rollback", "install an earlier generation of the maps, and hold it")
    rollback.add_argument(
        "generation",
        nargs="?",
        type=_number,
        metavar="GENERATION",
        help="number of the generation (default: list all generations)",
    )
    add("resume", "release the hold and sync now")
    return parser


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _endpoint(text: str) -> Destination:
    """Parse HOST, HOST:PORT, [ADDRESS]:PORT, or an IPv6 address without a port.

    Raises argparse.ArgumentTypeError.
    """
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
    """Check that an argument is a full address. Raises argparse.ArgumentTypeError."""
    from postfix_sync.mailman.names import check_address  # noqa: PLC0415

    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _recipient(text: str) -> str:
    """Check that an argument may be a recipient. Raises argparse.ArgumentTypeError."""
    if not text or not text.isprintable() or set(text) & set(' <>,"') or text.startswith("@"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address")
    return text


def _number(text: str) -> int:
    """Parse the number of a generation. Raises argparse.ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a generation is a number, not {text!r}")
    return int(text)


def _is_daemon(options: argparse.Namespace) -> bool:
    return not options.command and not options.once


def _level(options: argparse.Namespace) -> int:
    """Return the log level.

    The daemon logs changes, at level INFO. A command does so only if standard error is a terminal,
    because cron mails all output.
    """
    logs_changes = _is_daemon(options) or sys.stderr.isatty()
    if options.quiet:
        return logging.ERROR
    if options.verbose:
        return logging.DEBUG if logs_changes else logging.INFO
    return logging.INFO if logs_changes else logging.WARNING
