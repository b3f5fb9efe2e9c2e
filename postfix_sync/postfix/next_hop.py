"""Parse, check and render next hops of a transport(5) table. Pure."""

import contextlib
import functools
import ipaddress
import re
from collections.abc import Iterable

from postfix_sync.errors import quote
from postfix_sync.model.destination import Destination
from postfix_sync.model.selection import keys_by_value
from postfix_sync.model.table import Table

# Postfix's valid_hostname() also accepts the underscore, which container names often have.
_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_NEXT_HOP = re.compile(r"lmtp:\[(?P<host>[^\[\]]*)\]:(?P<port>[0-9]{1,5})")

_ITSELF = {"localhost", "localhost.localdomain", "ip6-localhost", "127.0.0.1", "::1"}


@functools.lru_cache(maxsize=1024)
def parse_destination(text: str) -> Destination:
    """Parse `lmtp:[HOST]:PORT` as Mailman writes it. Raises ValueError that says what is wrong."""
    found = _NEXT_HOP.fullmatch(text)
    if not found:
        raise ValueError(f"{quote(text)} is not a next hop of the form lmtp:[HOST]:PORT")
    host, port = found["host"], int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} in {quote(text)} is not between 1 and 65535")
    return Destination(check_host(host), port)


@functools.lru_cache(maxsize=1024)
def parse_unjudged(text: str) -> Destination:
    """Parse a next hop of a Mailman that is reached at another address than it may have written.

    The host of the result is empty if the written host cannot be a destination: no host or several,
    an address to listen on, or the container itself. Raises ValueError if anything else is wrong.
    """
    found = _NEXT_HOP.fullmatch(text)
    if not found or not 1 <= int(found["port"]) <= 65535:
        return parse_destination(text)
    try:
        host = check_host(found["host"])
    except ValueError:
        host = ""
    return Destination("" if host in _ITSELF else host, int(found["port"]))


@functools.lru_cache(maxsize=4096)
def parse_next_hops(value: str) -> tuple[Destination, ...]:
    """Parse an installed route: its destinations in the order in which Postfix tries them.

    The result is empty if the route was edited by hand and has another form.
    """
    hops = value.removeprefix("lmtp:").split(", ")
    with contextlib.suppress(ValueError):
        return tuple(parse_destination(f"lmtp:{hop}") for hop in hops)
    return ()


def render_next_hops(destinations: Iterable[Destination]) -> str:
    """Render a route, such as `lmtp:[a]:8024, [b]:8024` (transport(5)); see `parse_next_hops`."""
    hops = (destination.next_hop.removeprefix("lmtp:") for destination in destinations)
    return "lmtp:" + ", ".join(hops)


def check_host(host: str) -> str:
    """Return a host name or IP address in lower case. Raises ValueError that says what is wrong."""
    if not host:
        raise ValueError("the next hop names no host (lmtp:[]:PORT)")
    if any(blank in host for blank in " \t,"):
        raise ValueError(f"the next hop names more than one host in one bracket: {quote(host)}")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        mapped = address.ipv4_mapped if address.version == 6 else None
        if address.is_unspecified or (mapped and mapped.is_unspecified):
            raise ValueError(f"{host} is an address to listen on, not one to connect to")
        if address.is_multicast or "%" in host:
            raise ValueError(f"{quote(host)} is not an address of a single host")
        return str(address)
    numeric = host.rpartition(".")[2].isdecimal()
    if not _HOST_NAME.fullmatch(host) or numeric or len(host) > 255:
        raise ValueError(f"{quote(host)} is neither a host name nor an IP address")
    return host.lower()


def next_hops_of(routes: Table[str]) -> set[Destination]:
    """Return the destinations of all routes, including routes of single addresses of a list."""
    return {hop for value in routes.distinct_values() for hop in parse_next_hops(value)}


def host_names(routes: Table[str]) -> set[str]:
    """Return the host names in the next hops of routes, without IP addresses."""
    return {hop.host for hop in next_hops_of(routes) if hop.is_name}


def destinations_of(routes: Table[str]) -> dict[Destination, list[str]]:
    """Return the destinations of installed routes, each with its lists in alphabetical order."""
    found: dict[Destination, list[str]] = {}
    for value, names in lists_by_route(routes).items():
        for destination in parse_next_hops(value):
            found.setdefault(destination, []).extend(names)
    return {destination: sorted(names) for destination, names in found.items()}


def lists_by_route(routes: Table[str]) -> dict[str, list[str]]:
    """Return the lists of each value of routes, in alphabetical order.

    A list whose addresses have several values is with that of its name.
    """
    apart = {name: routes[name] for name in routes.names() - routes.lists.keys()}
    found = keys_by_value({**routes.lists, **apart} if apart else routes.lists)
    return {value: sorted(names) for value, names in found.items()}
