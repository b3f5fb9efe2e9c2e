"""The types of the configuration's values: durations, sizes, addresses, names. Pure."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import PlainValidator

from postfix_sync.errors import quote
from postfix_sync.model.destination import Destination
from postfix_sync.postfix.next_hop import parse_destination

NAME_LENGTH = 100
"""Characters of a source's name at most, because files are named after the source."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _quantity(value: object, units: dict[str, float], expected: str) -> float:
    found = re.fullmatch(rf"(\d{{1,12}}(?:\.\d{{1,12}})?) ?({'|'.join(units)})", str(value))
    if not found or (not float(found[1]) and "%" not in units):
        raise ValueError(f"expected {expected}, not {quote(str(value))}")
    return float(found[1]) * units[found[2]]


def _duration(value: object) -> float:
    return _quantity(value, _SECONDS, "a duration such as 500ms, 30s, 5m or 1h")


def _size(value: object) -> int:
    return int(_quantity(value, {**_BYTES}, "a size such as 512MiB"))


def _percent(value: object) -> float:
    share = _quantity(value, {"%": 0.01}, "a percentage such as 50%")
    if share > 1:
        raise ValueError(f"expected 100% at most, not {value}")
    return share


def _absolute(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise ValueError(f"expected an absolute path, not {quote(str(value))}")
    return Path(value)


def _nameable(value: object) -> Path:
    if re.search(r"[\s,${}]", str(value)):
        raise ValueError(f"main.cf could not name maps in {quote(str(value))}: no blank, , $ {{ }}")
    return _absolute(value)


def _address(value: object) -> str:
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        raise ValueError(f"expected an IP address, not {quote(str(value))}") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"expected an address that can be connected to, not {address}")
    return str(address)


def _next_hop(value: object) -> Destination:
    if not re.fullmatch(r"lmtp:\[[^\[\]]*\]:\d+", str(value)):
        raise ValueError(f"expected a next hop lmtp:[HOST]:PORT, not {quote(str(value))}")
    return parse_destination(str(value))


def _user(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@$\\-]*", value):
        raise ValueError(f"expected a user name, not {quote(value)}")
    return value


def _off(value: object) -> object:
    """Return `off` for false, which is what YAML 1.1 reads for an unquoted `off`."""
    return "off" if value is False else value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"expected letters, digits, dots, dashes, underscores, not {quote(value)}")
    if len(value) > NAME_LENGTH:
        raise ValueError(f"expected {NAME_LENGTH} characters at most, not {len(value)}")
    return value


Seconds = Annotated[float, PlainValidator(_duration)]
AbsolutePath = Annotated[Path, PlainValidator(_absolute)]
