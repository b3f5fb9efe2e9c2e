"""postfix-sync doctor: what is wrong with this host, and which command mends it."""

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
from postfix_sync.model import Finding

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


def run(options: argparse.Namespace) -> Exit:
    """Makes every check; 78 if one of them failed. Quiet, only what is not well is told."""
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
    """All findings; a terminal shows meanwhile how far it is, as a probe may take seconds."""
    found = []
    with ProgressLine(sys.stderr, os.environ, wanted=not options.quiet) as line:
        line.show("asking Postfix and the sources ...")
        async for finding in examination.examine(configuration):
            found.append(finding)
            line.show(f"checked: {len(found)}, last {finding.name} ...")
    return found
