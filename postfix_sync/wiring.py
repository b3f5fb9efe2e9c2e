"""Does main.cf use the maps? Pure: from what postconf(1) says to what is missing, and its remedy.

The maps do nothing until main.cf names each of them in the parameter for its role, and a hosts
entry does nothing while lmtp(8) asks only the DNS. main.cf belongs to the operator: what is missing
is said, with the command that mends it, and never changed from here.
"""

import re
import shlex
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import ConfigError
from postfix_sync.model import ALIASES, DOMAINS, INDEX_SUFFIX, RECIPIENTS, ROUTES, Notice

if TYPE_CHECKING:
    from postfix_sync.postfix import Postfix

ROLES = {
    "transport_maps": ROUTES,
    "relay_domains": DOMAINS,
    "relay_recipient_maps": RECIPIENTS,
    "local_recipient_maps": RECIPIENTS,
    "virtual_alias_maps": ALIASES,
}
"""The main.cf parameter that each map is for."""


@dataclass(frozen=True)
class Setting:
    """A parameter of main.cf that has to be another one for the maps to work."""

    parameter: str
    present: str
    """As it is written, $names and all."""
    wanted: str
    problem: str
    """What is wrong with it, beginning with the parameter."""


def _items(value: str) -> list[str]:
    return value.replace(",", " ").split()


def choose_map_type(postfix: "Postfix", map_directory: Path, configured: str) -> str:
    """The type that the maps are built as.

    `configured` is the configuration's postfix.map_type; "auto" takes what main.cf names for our
    maps, else lmdb where this Postfix has it, else its default_database_type.

    Raises ConfigError where this Postfix can't use that type, or where its index would take the
    place of one that main.cf reads as another type: hash and btree share a suffix.
    """
    named = [
        map_type
        for parameter, name in ROLES.items()
        for item in _items(postfix.parameters[parameter])
        if (map_type := _named_type(item, map_directory / name))
    ]
    usable = INDEX_SUFFIX.keys() & postfix.map_types
    if configured != "auto":
        choices = [configured]
    else:
        default = postfix.parameters["default_database_type"]
        choices = [*named, "lmdb", default]
    for choice in choices:
        if choice in usable:
            _check_suffix(postfix, map_directory, choice, named)
            return choice
    raise ConfigError(
        f"{postfix.config_directory}: this Postfix has no map type {' or '.join(choices)} that"
        f" could be built; it has: {' '.join(sorted(postfix.map_types))}",
        "install one (apt install postfix-lmdb), or set postfix.map_type",
    )


def _check_suffix(postfix: "Postfix", map_directory: Path, choice: str, named: list[str]) -> None:
    for other in named:
        if other != choice and INDEX_SUFFIX.get(other) == INDEX_SUFFIX[choice]:
            raise ConfigError(
                f"{postfix.config_directory}/main.cf: names maps in {map_directory} as {other}; as"
                f" {choice} their indexes would have the same names, which {other} can't read",
                f"name all of them as {choice} in main.cf, or set postfix.map_type: {other}",
            )


def _named_type(item: str, path: Path) -> str:
    """The type under which an item of main.cf names the map at `path`, else nothing."""
    map_type, colon, named = item.removeprefix("proxy:").partition(":")
    return map_type if colon and named == str(path) else ""


def notices(
    postfix: "Postfix",
    map_directory: Path,
    map_type: str,
    domains: AbstractSet[str],
    *,
    hosts_used: bool,
) -> list[Notice]:
    """What main.cf lacks, each with its remedy; see `settings`."""
    found = settings(postfix, map_directory, map_type, domains, hosts_used=hosts_used)
    return [Notice(f"main.cf: {one.problem}", remedy(postfix, one)) for one in found]


def settings(
    postfix: "Postfix",
    map_directory: Path,
    map_type: str,
    domains: AbstractSet[str],
    *,
    hosts_used: bool,
) -> list[Setting]:
    """What main.cf lacks for the maps to work. `domains` are the mail domains of all lists.

    `hosts_used`: the names of destinations are in the hosts file.
    """
    parameters = postfix.parameters
    local = domains & {item.lower() for item in _items(parameters["mydestination"])}
    relayed = domains - local
    names_recipients = any(
        _named_type(item, map_directory / RECIPIENTS)
        for item in _items(parameters["local_recipient_maps"])
    )
    # As long as there is no list, it can't be told whether its domain will be a local one.
    relaying = bool(relayed) or not (domains or names_recipients)
    needed = {"transport_maps": True, "virtual_alias_maps": True, "relay_recipient_maps": relaying}
    needed["relay_domains"] = relaying and not (
        relayed and relayed <= set(_items(parameters["relay_domains"]))
    )
    # An empty local_recipient_maps accepts every address, by Postfix's definition.
    needed["local_recipient_maps"] = bool(local) and bool(parameters["local_recipient_maps"])
    found = [
        setting
        for parameter, name in ROLES.items()
        if needed[parameter]
        for setting in _unnamed(postfix, parameter, map_directory / name, map_type)
    ]
    if hosts_used and "native" not in _items(parameters["lmtp_host_lookup"]):
        found.append(
            Setting(
                "lmtp_host_lookup",
                postfix.unexpanded["lmtp_host_lookup"],
                "native",
                f"lmtp_host_lookup = {parameters['lmtp_host_lookup']}: lmtp(8) does not read the"
                " hosts file, so it will not find the destination that was entered there",
            )
        )
    return found


def cluster_notices(postfix: "Postfix") -> Iterator[Notice]:
    """What main.cf lacks for a route with several next hops to be worth something."""
    timeout = postfix.parameters["lmtp_connect_timeout"]
    if re.fullmatch("0+[smhdw]?", timeout):
        problem = (
            f"lmtp_connect_timeout = {timeout}: while a member of a cluster drops packets, mail"
            " waits minutes before the next member is tried"
        )
        setting = Setting("lmtp_connect_timeout", timeout, "5s", problem)
        yield Notice(f"main.cf: {problem}", remedy(postfix, setting))


def _unnamed(postfix: "Postfix", parameter: str, path: Path, map_type: str) -> Iterator[Setting]:
    """A setting if `parameter` does not name the map at `path` with the type it is built as."""
    wanted = f"{map_type}:{path}"
    items = _items(postfix.parameters[parameter])
    types = [one for item in items if (one := _named_type(item, path))]
    if types and set(types) == {map_type}:
        return
    # As it is written, so that $names stay; but a default that comes to nothing is not kept.
    present = postfix.unexpanded[parameter] if postfix.parameters[parameter] else ""
    if types:
        named = f"{types[0]}:{path}"
        spelt = present if named in present else postfix.parameters[parameter]
        mended = spelt.replace(named, wanted)
        problem = f"names {types[0]}:{path}, but the map is built as {map_type}"
    else:
        mended = f"{present}, {wanted}" if present else wanted
        problem = f"does not name {wanted}, so Postfix does not use that map"
    yield Setting(parameter, postfix.unexpanded[parameter], mended, f"{parameter} {problem}")


def remedy(postfix: "Postfix", setting: Setting) -> str:
    """The command that makes a setting in this instance."""
    change = f"{setting.parameter} = {setting.wanted}"
    return (
        f"{command(postfix, 'postconf', '-e', change)} && {command(postfix, 'postfix', 'reload')}"
    )


def command(postfix: "Postfix", name: str, *arguments: str) -> str:
    """A Postfix command as an operator types it for this instance."""
    directory = str(postfix.config_directory)
    instance = [] if directory == "/etc/postfix" else ["-c", directory]
    return shlex.join([name, *instance, *arguments])
