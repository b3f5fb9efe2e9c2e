"""The nine addresses of a list. Pure."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.model import Destination, Table
from postfix_sync.postfix.next_hop import parse_next_hops

SUBADDRESSES = (
    "bounces",
    "confirm",
    "join",
    "leave",
    "owner",
    "request",
    "subscribe",
    "unsubscribe",
)
"""The suffixes of a list's other eight addresses, from Mailman's mta/aliases.py."""

ADDRESSES_PER_LIST = 1 + len(SUBADDRESSES)


def addresses_of(name: str) -> Iterator[str]:
    """Yield the nine addresses of the list whose posting address is `name`."""
    local, _, domain = name.rpartition("@")
    yield name
    for subaddress in SUBADDRESSES:
        yield f"{local}-{subaddress}@{domain}"


def lists_of(addresses: Mapping[str, object] | AbstractSet[str]) -> frozenset[str]:
    """Return the posting addresses of all lists whose nine addresses are in `addresses`."""
    return frozenset(name for name in addresses if _is_list(name, addresses))


def _is_list(name: str, addresses: Mapping[str, object] | AbstractSet[str]) -> bool:
    """Return whether the other eight addresses are in `addresses`; fast for most names."""
    local, _, domain = name.rpartition("@")
    return all(f"{local}-{subaddress}@{domain}" in addresses for subaddress in SUBADDRESSES)


def destinations_of(routes: Table) -> dict[Destination, list[str]]:
    """Return the destinations of installed routes, each with its lists in alphabetical order."""
    found: dict[Destination, list[str]] = {}
    for name in sorted(lists_of(routes)):
        for destination in parse_next_hops(routes[name]):
            found.setdefault(destination, []).append(name)
    return found
