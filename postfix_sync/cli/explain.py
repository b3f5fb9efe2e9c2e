"""postfix-sync explain: show what this Postfix does with mail to an address, step by step."""

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.cli.explanation_output import explanation
from postfix_sync.cli.running import complete, load
from postfix_sync.cli.terminal import Terminal
from postfix_sync.errors import Exit
from postfix_sync.explain import steps
from postfix_sync.explain.explain import explain
from postfix_sync.explain.origin import origin_of
from postfix_sync.explain.view import view_of
from postfix_sync.postfix.instance import inspect

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


def run(options: argparse.Namespace) -> Exit:
    """Explain one address. Return 75 if something that decides could not be asked."""
    configuration = load(options)
    found = complete(_explained(configuration, options.address))
    if options.json:
        text = json.dumps(steps.as_json(found), indent=2)
    else:
        text = explanation(found, Terminal.of(sys.stdout, os.environ))
    print(text)  # noqa: T201 - the command's answer
    return Exit.OUT_OF_REACH if found.verdict is steps.Verdict.UNKNOWN else Exit.OK


async def _explained(configuration: "Config", address: str) -> steps.Explanation:
    view = await view_of(configuration, await inspect(configuration.postfix.config_directory))
    if "@" not in address:
        address = f"{address}@{view.parameters['myorigin']}"
    [found] = await explain(view, [address])
    entry = view.list_entry(address)
    origin = await origin_of(configuration, entry[0] if entry else None)
    return replace(found, source=origin.source, since=origin.since, held=origin.held)
