"""postfix-sync status: what the last passes and probes found."""

import argparse
import json
import time

from postfix_sync import state
from postfix_sync.commands import load
from postfix_sync.errors import Exit


def run(options: argparse.Namespace) -> Exit:
    """Prints the status. Raises OutOfReach where no pass has been made."""
    status = state.StatusFile(load(options).state_directory).read()
    text = json.dumps(status, indent=2) if options.json else state.render(status, time.time())
    print(text)  # noqa: T201 - the command's answer
    return Exit.OK
