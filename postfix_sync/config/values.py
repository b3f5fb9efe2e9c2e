"""The types of the configuration's values: durations, sizes, addresses, names. Pure.

`Annotated[TYPE, READER]` is a value that READER makes of what the document has. A reader raises
ValueError, which says what was expected.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

from postfix_sync.errors import quote
from postfix_sync.mailman.names import check_domain
from postfix_sync.model.destination import Destination
from postfix_sync.postfix.next_hop import check_host, parse_destination

NAME_LENGTH = 100
"""Characters of a source's name at most, because files are named after the source."""

NOT_TEXT = "expected a valid string"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class InContainer(NamedTuple):
    """A container of this host: the command of its engine, and the container's name."""

    engine: str
    name: str


class JumpSection(NamedTuple):
    """A bastion; if `user` is None, the user is the one of the host behind it."""

    host: str
    port: int
    user: str | None


class Listen(NamedTuple):
    """An IP address and a TCP port of this host to listen on."""

    address: str
    port: int

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


class Text(NamedTuple):
    """A reader of text, which `check` returns in its usual form."""

    check: Callable[[str], str]

    def __call__(self, value: object) -> str:
        """Return the text. Raises ValueError."""
        if not isinstance(value, str):
            raise ValueError(NOT_TEXT)  # noqa: TRY004 - a reader raises ValueError
        return self.check(value)


class WholeNumber(NamedTuple):
    """A reader of whole numbers between two bounds."""

    least: int
    most: int

    def __call__(self, value: object) -> int:
        """Return the number. Raises ValueError."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("expected a valid integer")  # noqa: TRY004 - as above
        if value < self.least:
            raise ValueError(f"expected greater than or equal to {self.least}")
        if value > self.most:
            raise ValueError(f"expected less than or equal to {self.most}")
        return value


class Choice(NamedTuple):
    """A reader of one of some words."""

    words: tuple[str, ...]

    def __call__(self, value: object) -> str:
        """Return the word. Raises ValueError."""
        if value is False and "off" in self.words:
            return "off"  # which YAML 1.1 reads as false
        if value not in self.words:
            *first, last = (f"'{word}'" for word in self.words)
            raise ValueError(f"expected {', '.join(first)} or {last}")
        return str(value)


class OneOrMore(NamedTuple):
    """A rule for a list: it has at least one item, whose name is for messages."""

    item: str


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected a valid boolean")  # noqa: TRY004 - as above
    return value


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


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"expected letters, digits, dots, dashes, underscores, not {quote(value)}")
    if len(value) > NAME_LENGTH:
        raise ValueError(f"expected {NAME_LENGTH} characters at most, not {len(value)}")
    return value


def _where(value: object) -> str | InContainer:
    """Return an IP address, `ssh`, or the container to inspect. Raises ValueError."""
    if value == "ssh":
        return "ssh"
    engine, colon, name = str(value).partition(":")
    if colon and engine in {"docker", "podman"}:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
            raise ValueError(f"expected {engine}:NAME of a container, not {quote(str(value))}")
        return InContainer(engine, name)
    return _address(value)


def _jump(value: object) -> JumpSection:
    found = re.fullmatch(
        r"(?:(?P<user>.*)@)?(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^@:\[\]]+))(?::(?P<port>\d{1,5}))?",
        str(value),
    )
    if not found or not 1 <= int(found["port"] or 22) <= 65535:
        raise ValueError(f"expected [user@]host[:port], not {quote(str(value))}")
    user = _user(found["user"]) if found["user"] is not None else None
    return JumpSection(check_host(found["v6"] or found["host"]), int(found["port"] or 22), user)


def _listen(value: object) -> Listen:
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", str(value))
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ValueError(f"expected ADDRESS:PORT such as 127.0.0.1:9825, not {quote(str(value))}")
    try:
        address = ipaddress.ip_address(found[1] or found[2])
    except ValueError:
        raise ValueError(f"expected an IP address, not {quote(found[1] or found[2])}") from None
    return Listen(str(address), int(found[3]))


Boolean = Annotated[bool, _boolean]
Seconds = Annotated[float, _duration]
Size = Annotated[int, _size]
Percentage = Annotated[float, _percent]
AbsolutePath = Annotated[Path, _absolute]
MapDirectory = Annotated[Path, _nameable]
Name = Annotated[str, Text(_name)]
User = Annotated[str, Text(_user)]
Host = Annotated[str, Text(check_host)]
Domain = Annotated[str, Text(check_domain)]
Address = Annotated[str | InContainer, _where]
NextHop = Annotated[Destination, _next_hop]
Jump = Annotated[JumpSection, _jump]
ListenAt = Annotated[Listen, _listen]
