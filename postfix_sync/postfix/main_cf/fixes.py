"""What main.cf lacks, and the commands that fix main.cf, as an operator types them. Pure."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postfix_sync.errors import NotPermitted
from postfix_sync.model import Verdict
from postfix_sync.postfix.main_cf.classes import ROLES

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


@dataclass(frozen=True)
class Setting:
    """A parameter of main.cf that has to be another one for the maps to work."""

    parameter: str
    present: str
    """As it is written, $names and all."""
    wanted: str
    problem: str
    """What is wrong with it, beginning with the parameter."""
    verdict: Verdict = Verdict.FAILURE
    """WARNING where mail of the lists flows all the same."""
    first: str = ""
    """A command for a shell that has to come before, as what the value names is not there yet."""
    is_decision: bool = False
    """It would refuse addresses that are accepted, which only the operator can decide: no command
    is printed for it."""


def remedy(postfix: "Postfix", setting: Setting) -> str:
    """The command that makes a setting in this instance."""
    return reloaded(postfix, " && ".join(filter(None, [setting.first, change(postfix, setting)])))


def change(postfix: "Postfix", setting: Setting) -> str:
    """The command that changes main.cf alone."""
    return command(postfix, "postconf", "-e", f"{setting.parameter} = {setting.wanted}")


def reloaded(postfix: "Postfix", changing: str) -> str:
    """A command, and one that has a Postfix that runs see what it did.

    `postfix reload` fails beside one that is stopped, which reads everything when it starts.
    """
    try:
        runs = postfix.master is not None
    except NotPermitted:
        runs = True  # most do; a dry run by somebody who can't know tells as much
    return f"{changing} && {command(postfix, 'postfix', 'reload')}" if runs else changing


def only_built(first: str, setting: Setting, remedy: str) -> str:
    """A remedy that is safe to paste, by the command that makes the maps where one isn't there.

    Postfix puts off all mail as long as main.cf names a map that has not been built.
    """
    return f"{first} && {remedy}" if first and setting.parameter in ROLES else remedy


def command(postfix: "Postfix", name: str, *arguments: str) -> str:
    """A Postfix command as an operator types it for this instance."""
    directory = str(postfix.config_directory)
    instance = [] if directory == "/etc/postfix" else ["-c", directory]
    return shlex.join([name, *instance, *arguments])
