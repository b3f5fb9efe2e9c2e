"""The nine addresses of a list. Pure."""

from collections.abc import Iterator

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


def domain_of(address: str) -> str:
    """Return the part of an address after the last @."""
    return address.rpartition("@")[2]
