"""postfix-sync doctor: check this host, and print the commands that fix its problems."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from postfix_sync.cli import output
from postfix_sync.cli.running import complete, load
from postfix_sync.cli.terminal import ProgressLine, Terminal
from postfix_sync.doctor import examination
from postfix_sync.errors import Exit
from postfix_sync.model.finding import Finding

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


def run(options: argparse.Namespace) -> Exit:
    """Run and print all checks, with -q only warnings and failures. Return 78 if a check failed."""
    configuration = load(options)
    found = complete(_examine(configuration, options))
    document = examination.as_json(found)
    if options.json:
        text = json.dumps(document, indent=2)
    else:
        to = Terminal.of(sys.stdout, os.environ)
        setup = configuration.command("setup")
        text = output.findings(found, to, problems_only=options.quiet, setup=setup)
    if text:
        print(text)  # noqa: T201 - the command's answer
    return Exit.OK if document["ok"] else Exit.CONFIG


async def _examine(configuration: "Config", options: argparse.Namespace) -> list[Finding]:
    """Return all findings; show the progress on a terminal, since a probe may take seconds."""
    found = []
    with ProgressLine(sys.stderr, os.environ, enabled=not options.quiet) as line:
        line.show("querying Postfix and the sources ...")
        async for finding in examination.examine(configuration):
            found.append(finding)
            line.show(f"checked: {len(found)}, last {finding.name} ...")
    return found
