"""The nine addresses of a list. Pure."""

from collections.abc import Collection, Container, Iterable, Iterator
from collections.abc import Set as AbstractSet

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

_SUFFIXES = frozenset(SUBADDRESSES)

ADDRESSES_PER_LIST = 1 + len(SUBADDRESSES)


def addresses_of(name: str) -> Iterator[str]:
    """Yield the nine addresses of the list whose posting address is `name`."""
    local, _, domain = name.rpartition("@")
    yield name
    for subaddress in SUBADDRESSES:
        yield f"{local}-{subaddress}@{domain}"


def list_with(address: str) -> str:
    """Return the list that has `address` as one of its other eight addresses; "" if none has."""
    local, _, domain = address.rpartition("@")
    name, _, subaddress = local.rpartition("-")
    return f"{name}@{domain}" if name and subaddress in _SUFFIXES else ""


def shared_names(lists: Collection[str]) -> AbstractSet[str]:
    """Return the names of lists that are an address of another one, too: ants-owner, of ants."""
    # Few sites have such a list, and one search through all names is fast.
    text = "\n".join(lists)
    if not any(f"-{subaddress}@" in text for subaddress in SUBADDRESSES):
        return frozenset()
    return {name for name in lists if list_with(name) in lists}


def is_of_list(lists: Container[str], address: str) -> bool:
    """Return whether an address is one of the nine of one of some lists."""
    return address in lists or list_with(address) in lists


def possible_lists(addresses: Iterable[str]) -> AbstractSet[str]:
    """Return the names of the lists that may have some addresses; a domain is of no list."""
    found = {address for address in addresses if address.find("@") > 0}
    return found | ({list_with(address) for address in found} - {""})


def domain_of(address: str) -> str:
    """Return the part of an address after the last @."""
    return address.rpartition("@")[2]
