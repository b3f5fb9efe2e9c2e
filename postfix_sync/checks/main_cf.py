"""Does main.cf use the maps, each in its role?"""

from collections.abc import AsyncIterator

from postfix_sync import wiring
from postfix_sync.checks import Host, failure, ok
from postfix_sync.model import Finding


async def maps_named(host: Host) -> AsyncIterator[Finding]:
    """Each parameter that the maps need names them, and lmtp(8) finds what it should."""
    wanted = {
        one.parameter: one
        for one in wiring.settings(
            host.postfix,
            host.config.postfix.map_directory,
            host.map_type,
            host.domains,
            hosts_used=any(one.address for one in host.config.sources),
        )
    }
    for parameter in wiring.ROLES:
        if one := wanted.get(parameter):
            fix = wiring.remedy(host.postfix, one)
            yield failure(parameter, f"{parameter} = {one.present}", one.problem, fix)
        else:
            yield ok(parameter, f"{parameter} = {host.postfix.unexpanded[parameter]}")
