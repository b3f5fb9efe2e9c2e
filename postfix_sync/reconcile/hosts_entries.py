"""Stage 5: which of the desired host names are ours to enter into the hosts file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError
from postfix_sync.model.installed import Desired, Installed
from postfix_sync.model.map_names import ROUTES
from postfix_sync.model.notice import Notice
from postfix_sync.postfix.next_hop import host_names

if TYPE_CHECKING:
    from postfix_sync.reconcile.locked import Locked


@dataclass(frozen=True)
class Target:
    """What the plan leads to and starts from, hosts entries included."""

    desired: Desired
    installed: Installed
    notices: tuple[Notice, ...] = ()


def with_hosts_entries(place: "Locked", goal: Desired, installed: Installed) -> Target:
    """Compare the desired names with the hosts file, if it concerns this sync at all.

    It does if names are to be entered, or were entered once. Raises ApplyError or NotPermitted.
    """
    has_addresses = any(source.address for source in place.config.sources)
    concerned = bool(goal.hosts) or has_addresses
    try:
        found = place.hosts.read()
    except SyncError as error:
        if concerned:
            raise
        return Target(goal, installed, (Notice(error.message, error.hint),))
    foreign = found.foreign()
    names = {host: ip for host, ip in sorted(goal.hosts.items()) if host not in foreign}
    used = host_names(goal.maps[ROUTES]) & found.block.keys() - names.keys()
    dropped = used if not has_addresses else used & foreign.keys()
    copied = place.hosts.copy_is_current() if concerned or found.block else True
    return Target(
        replace(goal, hosts=names, dropped=frozenset(dropped)),
        replace(installed, hosts=found.block, hosts_copied=copied),
        _contradictions(place, goal.hosts, foreign),
    )


def _contradictions(
    place: "Locked", addresses: Mapping[str, str], foreign: Mapping[str, str]
) -> tuple[Notice, ...]:
    """Warn of names that another line of the hosts file gives another address."""
    return tuple(
        Notice(
            f"{place.hosts.path}: {host} has the address {foreign[host]} on a line that"
            f" is not postfix-sync's, {address} is configured; that line stays",
            f"remove {host} from that line, or make sources.address {foreign[host]}",
        )
        for host, address in sorted(addresses.items())
        if foreign.get(host, address) != address
    )
