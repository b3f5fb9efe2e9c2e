"""Print the commands that fix main.cf, as an operator types them. Pure."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postfix_sync.errors import NotPermitted
from postfix_sync.model.finding import Verdict
from postfix_sync.postfix.main_cf.classes import ROLES

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


@dataclass(frozen=True)
class Setting:
    """A parameter of main.cf, and the value that it needs for the maps to work."""

    parameter: str
    present: str
    """The current value as it is written, with its $names."""
    wanted: str
    """The value that it needs, as it is to be written."""
    problem: str
    """What is wrong with the current value; the text begins with the parameter."""
    verdict: Verdict = Verdict.FAILURE
    """WARNING if the lists get their mail nevertheless."""
    first: str = ""
    """A shell command to run before the change, which makes what the value names."""
    is_decision: bool = False
    """Whether only the operator can decide on the change, because Postfix would then refuse
    addresses that it accepts now: no command is printed for it."""
    is_unused: bool = False
    """Whether the only failure is that Postfix does not use the map as it is built: mail for lists
    is delivered nevertheless if other tables have what the map has."""


def remedy(postfix: "Postfix", setting: Setting) -> str:
    """Return the command that makes a setting in this instance, and has Postfix read it."""
    return reloaded(postfix, " && ".join(filter(None, [setting.first, change(postfix, setting)])))


def change(postfix: "Postfix", setting: Setting) -> str:
    """Return the command that changes main.cf, without a reload."""
    return command(postfix, "postconf", "-e", f"{setting.parameter} = {setting.wanted}")


def reloaded(postfix: "Postfix", changing: str) -> str:
    """Return a command that changes the configuration, followed by a reload if Postfix runs.

    `postfix reload` fails if Postfix is stopped; it then reads everything when it starts.
    """
    try:
        runs = postfix.processes.master is not None
    except NotPermitted:
        runs = True  # the user of a dry run may lack the permission to determine it; most run
    return f"{changing} && {command(postfix, 'postfix', 'reload')}" if runs else changing


def only_built(first: str, setting: Setting, remedy: str) -> str:
    """Return a remedy that is safe to paste: after `first`, if its parameter names a map.

    `first` is the command that builds the maps, empty if they are built: Postfix defers all mail as
    long as main.cf names a map that does not exist.
    """
    return f"{first} && {remedy}" if first and setting.parameter in ROLES else remedy


def command(postfix: "Postfix", name: str, *arguments: str) -> str:
    """Return a Postfix command as an operator types it for this instance."""
    directory = str(postfix.config_directory)
    instance = [] if directory == "/etc/postfix" else ["-c", directory]
    return shlex.join([name, *instance, *arguments])
