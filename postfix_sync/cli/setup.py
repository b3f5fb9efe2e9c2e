"""postfix-sync setup: make Postfix use the maps, or undo that."""

import argparse
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from postfix_sync.cli import output
from postfix_sync.cli.running import complete, load
from postfix_sync.cli.terminal import Terminal
from postfix_sync.doctor import examination
from postfix_sync.errors import Exit
from postfix_sync.log import LOG
from postfix_sync.model.finding import Verdict
from postfix_sync.setup.carry_out import carry_out, undo
from postfix_sync.setup.main_cf_file import Outdated
from postfix_sync.setup.proposal import Proposal, propose, propose_undoing

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

TRIES = 3
"""How often setup reads main.cf again when another process changes it meanwhile."""


def run(options: argparse.Namespace) -> Exit:
    """Show the changes to main.cf, make them after confirmation, and run doctor's checks."""
    config = load(options)
    for left in range(TRIES, 0, -1):
        proposal = complete(_propose(config, options))
        _show(proposal, options)
        if proposal.blocked:
            return _refuse(proposal)
        if options.dry_run:
            return Exit.OK
        if proposal.is_empty:
            break
        if (answer := _confirm(proposal, options)) is not Exit.OK:
            return answer
        try:
            complete(_carry_out(proposal, options))
            break
        except Outdated as error:
            if left == 1:
                raise
            LOG.warning("%s", error.message)
    return Exit.OK if options.undo else complete(_report_remaining(config))


def _propose(config: "Config", options: argparse.Namespace) -> Coroutine[Any, Any, Proposal]:
    return propose_undoing(config) if options.undo else propose(config)


def _carry_out(proposal: Proposal, options: argparse.Namespace) -> Coroutine[Any, Any, None]:
    return (undo if options.undo else carry_out)(proposal)


def _show(proposal: Proposal, options: argparse.Namespace) -> None:
    path = proposal.main_cf.path
    for change in proposal.left:
        print(  # noqa: T201 - the command's answer
            f"{change.parameter}: was edited since setup set it to {change.after}; unchanged"
        )
    if proposal.changes:
        print(f"{path}:")  # noqa: T201
    for change in proposal.changes:
        print(f"  {change.shown}")  # noqa: T201
        if change.why and not options.undo:
            print(f"      {change.why}")  # noqa: T201
    for note in proposal.notes:
        print(f"  unchanged: {note}")  # noqa: T201
    if proposal.interrupted:
        print("an earlier run was interrupted; Postfix is reloaded to complete it")  # noqa: T201
    if proposal.is_empty and options.undo:
        print(f"{path}: contains no changes made by setup; nothing to do")  # noqa: T201
    elif proposal.is_empty:
        print(f"{path}: names all maps; nothing to do")  # noqa: T201


def _refuse(proposal: Proposal) -> Exit:
    """Report why main.cf must not be changed yet, with the commands that fix it."""
    for finding in proposal.blocked:
        LOG.error(
            "%s: %s: %s; until this is fixed, setup does not have Postfix accept mail to lists, and"
            " main.cf is unchanged",
            finding.name,
            finding.seen,
            finding.why,
            extra={"hint": finding.fix or "fix this, then run setup again"},
        )
    return Exit.APPLY_FAILED


def _confirm(proposal: Proposal, options: argparse.Namespace) -> Exit:
    if options.yes:
        return Exit.OK
    if not sys.stdin.isatty():
        LOG.error(
            "setup: standard input is not a terminal, so you can't confirm; nothing was changed",
            extra={"hint": "to make these changes: --yes; to see them: --dry-run"},
        )
        return Exit.USAGE
    try:
        answer = input(f"Change {proposal.main_cf.path}, and reload Postfix? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return Exit.OK
    LOG.error("setup: nothing was changed")
    return Exit.USAGE


async def _report_remaining(config: "Config") -> Exit:
    """Print doctor's remaining warnings and failures; return 78 if there is a failure."""
    found = [
        finding
        async for finding in examination.examine(config)
        if finding.verdict is not Verdict.OK
    ]
    if found:
        text = output.findings(found, Terminal.of(sys.stdout, os.environ), problems_only=True)
        print(f"\ndoctor still finds:\n\n{text}")  # noqa: T201
    failed = any(finding.verdict is Verdict.FAILURE for finding in found)
    return Exit.CONFIG if failed else Exit.OK
