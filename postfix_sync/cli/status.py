"""postfix-sync status: print the results of the last syncs and probes."""

import argparse
import json
import os
import sys
import time

from postfix_sync.cli import output
from postfix_sync.cli.running import load
from postfix_sync.cli.terminal import Terminal
from postfix_sync.errors import Exit
from postfix_sync.status.file import StatusFile


def run(options: argparse.Namespace) -> Exit:
    """Print the status. Raises OutOfReach if there has been no sync yet."""
    status = StatusFile.of(load(options)).read()
    if options.json:
        text = json.dumps(status, indent=2)
    else:
        text = output.status(status, time.time(), Terminal.of(sys.stdout, os.environ))
    print(text)  # noqa: T201 - the command's answer
    return Exit.OK
