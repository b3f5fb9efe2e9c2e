"""Does main.cf use the maps, each in its role?"""

import shlex
from collections.abc import AsyncIterator

from postfix_sync import wiring
from postfix_sync.checks import Host, ok, warning
from postfix_sync.model import Finding


async def ends(host: Host) -> AsyncIterator[Finding]:
    """The last line ends: to one that doesn't, postconf(1) joins what it adds."""
    path = host.postfix.config_directory / "main.cf"
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        yield warning(
            "main_cf_end",
            f"{path}: its last line does not end in a newline",
            "what postconf -e adds would become part of that line; do this before anything else",
            f"echo >> {shlex.quote(str(path))}",
        )
    else:
        yield ok("main_cf_end", f"{path}: its last line ends in a newline")


async def maps_named(host: Host) -> AsyncIterator[Finding]:
    """Each parameter that the maps need names them, and none that they would do harm in does."""
    settings = {one.parameter: one for one in lacking(host)}
    settings.pop("lmtp_host_lookup", None)  # that is a matter of where names are looked up
    told = [*wiring.ROLES, "virtual_alias_domains", "recipient_delimiter"]
    for parameter in [*told, *(one for one in settings if one not in told)]:
        if one := settings.get(parameter):
            seen = f"{parameter} = {one.present}"
            fix = host.edit(f"{one.parameter} = {one.wanted}")
            yield Finding(parameter, one.verdict, seen, one.problem, fix)
        else:
            yield ok(parameter, f"{parameter} = {host.postfix.unexpanded[parameter]}")


def lacking(host: Host) -> list[wiring.Setting]:
    """What main.cf lacks for the maps to work: what setup makes."""
    return wiring.settings(host.postfix, host.tables.ours, host.classes)
