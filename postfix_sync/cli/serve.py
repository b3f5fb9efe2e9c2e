"""postfix-sync without a command: run the daemon in the foreground."""

import argparse
import faulthandler

from postfix_sync.cli.running import load, run_loop
from postfix_sync.config.schema import DEFAULT_PATH
from postfix_sync.daemon.daemon import Daemon
from postfix_sync.errors import Exit


def run(options: argparse.Namespace) -> Exit:
    """Run the daemon until SIGTERM or SIGINT."""
    configuration = load(options)
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: the log then shows where it hangs

    async def serve() -> None:
        await Daemon(options.config or DEFAULT_PATH, configuration).run()

    run_loop(serve())
    return Exit.OK
