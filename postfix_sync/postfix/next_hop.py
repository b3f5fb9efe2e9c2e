"""Next hops of a transport(5) table: parse, check and render them. Pure."""

import contextlib
import functools
import ipaddress
import re
from collections.abc import Iterable

from postfix_sync.errors import quote
from postfix_sync.model import Destination, Table

# Postfix's valid_hostname() takes the underscore too, which container names often have.
_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_NEXT_HOP = re.compile(r"lmtp:\[(?P<host>[^\[\]]*)\]:(?P<port>[0-9]{1,5})")

_ITSELF = {"localhost", "localhost.localdomain", "ip6-localhost", "127.0.0.1", "::1"}


@functools.lru_cache(maxsize=1024)
def parse_destination(text: str) -> Destination:
    """`lmtp:[HOST]:PORT` as Mailman writes it; raises ValueError, saying what is wrong."""
    found = _NEXT_HOP.fullmatch(text)
    if not found:
        raise ValueError(f"{quote(text)} is no next hop of the form lmtp:[HOST]:PORT")
    host, port = found["host"], int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} in {quote(text)} is not between 1 and 65535")
    return Destination(check_host(host), port)


@functools.lru_cache(maxsize=1024)
def parse_unjudged(text: str) -> Destination:
    """A next hop of a Mailman that is reached somewhere else than it may have written.

    The host is empty where it is none that could be meant: none or several, one to listen on, or
    the container itself. Raises ValueError where that is not all that is wrong.
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
    """The destinations of an installed route, in the order in which Postfix tries them.

    Empty where somebody else wrote the route by hand, in another form.
    """
    hops = value.removeprefix("lmtp:").split(", ")
    with contextlib.suppress(ValueError):
        return tuple(parse_destination(f"lmtp:{hop}") for hop in hops)
    return ()


def render_next_hops(destinations: Iterable[Destination]) -> str:
    """The inverse of `parse_next_hops`: `lmtp:[a]:8024, [b]:8024` (transport(5))."""
    hops = (destination.next_hop.removeprefix("lmtp:") for destination in destinations)
    return "lmtp:" + ", ".join(hops)


def check_host(host: str) -> str:
    """A host name or IP address, in lower case; raises ValueError, saying what is wrong."""
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
            raise ValueError(f"{quote(host)} is no address of one host")
        return str(address)
    numeric = host.rpartition(".")[2].isdecimal()
    if not _HOST_NAME.fullmatch(host) or numeric or len(host) > 255:
        raise ValueError(f"{quote(host)} is neither a host name nor an IP address")
    return host.lower()


def next_hops_of(routes: Table) -> set[Destination]:
    """The destinations of all routes, also of those that are only parts of lists."""
    return {hop for value in set(routes.values()) for hop in parse_next_hops(value)}


def host_names(routes: Table) -> set[str]:
    """The host names, not addresses, that routes lead to."""
    return {hop.host for hop in next_hops_of(routes) if hop.is_name}
