"""postfix-sync doctor: what is wrong with this host, and which command mends it."""

import argparse
import json

from postfix_sync import doctor
from postfix_sync.commands import complete, load
from postfix_sync.errors import Exit
from postfix_sync.model import Finding


def run(options: argparse.Namespace) -> Exit:
    """Makes every check; 78 if one of them failed."""
    findings = complete(_examine(options))
    document = doctor.as_json(findings)
    text = json.dumps(document, indent=2) if options.json else doctor.render(findings)
    print(text)  # noqa: T201 - the command's answer
    return Exit.OK if document["ok"] else Exit.CONFIG


async def _examine(options: argparse.Namespace) -> list[Finding]:
    return [one async for one in doctor.examine(load(options))]
