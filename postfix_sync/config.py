"""The configuration: YAML, read strictly.

Every problem is reported at once, each with file, line, the key's path, what was expected, and for
an unknown key the one that was probably meant. strict_yaml does the reading, pydantic the
validating.
"""

import difflib
import ipaddress
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationError,
)

from postfix_sync import strict_yaml
from postfix_sync.errors import ConfigError, NotPermitted, quote, why
from postfix_sync.model import Destination, Policy
from postfix_sync.strict_yaml import At, Document, NotYaml, dotted
from postfix_sync.system import denied_hint, open_file
from postfix_sync.tables import check_domain, check_host, parse_destination

DEFAULT_PATH = Path("/etc/postfix-sync/config.yaml")

SIZE_AT_MOST = 2**20
"""Bytes of a configuration: 20,000 domains, and what PyYAML reads in ten seconds."""

NAME_LENGTH = 100
"""Characters of a source's name at most: files are named after it."""

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
    share = _quantity(value, {"%": 0.01}, "a part such as 50%")
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


class InContainer(NamedTuple):
    """A container of this host, by the command of its engine and its own name."""

    engine: str
    name: str


def _where(value: object) -> str | InContainer:
    """An IP address, or how it is to be found out."""
    if value == "ssh":
        return "ssh"
    engine, colon, name = str(value).partition(":")
    if colon and engine in {"docker", "podman"}:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
            raise ValueError(f"expected {engine}:NAME of a container, not {quote(str(value))}")
        return InContainer(engine, name)
    return _address(value)


def _next_hop(value: object) -> Destination:
    if not re.fullmatch(r"lmtp:\[[^\[\]]*\]:\d+", str(value)):
        raise ValueError(f"expected a next hop lmtp:[HOST]:PORT, not {quote(str(value))}")
    return parse_destination(str(value))


def _user(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@$\\-]*", value):
        raise ValueError(f"expected a user name, not {quote(value)}")
    return value


def _jump(value: object) -> "Jump":
    found = re.fullmatch(
        r"(?:(?P<user>.*)@)?(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^@:\[\]]+))(?::(?P<port>\d{1,5}))?",
        str(value),
    )
    if not found or not 1 <= int(found["port"] or 22) <= 65535:
        raise ValueError(f"expected [user@]host[:port], not {quote(str(value))}")
    user = _user(found["user"]) if found["user"] is not None else None
    return Jump(check_host(found["v6"] or found["host"]), int(found["port"] or 22), user)


def _listen(value: object) -> "Listen":
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", str(value))
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ValueError(f"expected ADDRESS:PORT such as 127.0.0.1:9825, not {quote(str(value))}")
    try:
        address = ipaddress.ip_address(found[1] or found[2])
    except ValueError:
        raise ValueError(f"expected an IP address, not {quote(found[1] or found[2])}") from None
    return Listen(str(address), int(found[3]))


def _off(value: object) -> object:
    """YAML 1.1 reads an unquoted `off` as false."""
    return "off" if value is False else value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"expected letters, digits, dots, dashes, underscores, not {quote(value)}")
    if len(value) > NAME_LENGTH:
        raise ValueError(f"expected {NAME_LENGTH} characters at most, not {len(value)}")
    return value


Seconds = Annotated[float, PlainValidator(_duration)]
AbsolutePath = Annotated[Path, PlainValidator(_absolute)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Jump(NamedTuple):
    """A bastion; without a user, the one that logs in behind it."""

    host: str
    port: int
    user: str | None


class Listen(NamedTuple):
    """An IP address of this host, and a TCP port of it."""

    address: str
    port: int

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


class SshSection(_Section):
    """How a source on another host is reached. Its host key is always checked."""

    host: Annotated[str, AfterValidator(check_host)]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: Annotated[str, AfterValidator(_user)] = "postfix-sync"
    identity: AbsolutePath = Path("/etc/postfix-sync/id_ed25519")
    known_hosts: AbsolutePath = Path("/etc/postfix-sync/known_hosts")
    connect_timeout: Seconds = 10.0
    jump: Annotated[Jump, PlainValidator(_jump)] | None = None


class Source(_Section):
    """One Mailman, and how its maps are read."""

    name: Annotated[str, AfterValidator(_name)] = ""
    path: AbsolutePath
    ssh: SshSection | None = None
    interval: Seconds = 0
    domains: list[Annotated[str, AfterValidator(check_domain)]] = []
    address: Annotated[str | InContainer, PlainValidator(_where)] | None = None
    destination: Annotated[Destination, PlainValidator(_next_hop)] | None = None
    cluster: Annotated[str, AfterValidator(_name)] | None = None

    def model_post_init(self, _context: object) -> None:
        """What is looked at over SSH is looked at with a glance, so more often."""
        if not self.interval:
            object.__setattr__(self, "interval", 10.0 if self.ssh else 60.0)

    @property
    def container(self) -> InContainer | None:
        """The container in which its Mailman runs, where that is to tell the address."""
        return self.address if isinstance(self.address, InContainer) else None

    @property
    def fixed_address(self) -> str | None:
        """Its address, where that is not found out."""
        return self.address if isinstance(self.address, str) and self.address != "ssh" else None

    @property
    def place(self) -> str:
        """Where it is, for messages: PATH, or HOST:PATH."""
        return f"{self.ssh.host}:{self.path}" if self.ssh else str(self.path)

    def short_name(self) -> str:
        """A name after its host, or after the directory that holds Mailman's var/data."""
        parts = [part for part in self.path.parts[1:] if part not in {"var", "data"}]
        return _as_name(self.ssh.host if self.ssh else parts[-1] if parts else "")

    def long_name(self) -> str:
        """A name after all that tells it from other sources."""
        host = [self.ssh.host, str(self.ssh.port)] if self.ssh else []
        return _as_name("-".join([*host, *self.path.parts[1:]]))


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("._-")[-NAME_LENGTH:] or "mailman"


class PostfixSection(_Section):
    """The Postfix instance, and where it finds the maps."""

    config_directory: AbsolutePath = Path("/etc/postfix")
    map_directory: Annotated[Path, PlainValidator(_nameable)] = Path("/etc/postfix/mailman")
    map_type: Literal["auto", "lmdb", "hash", "btree", "cdb"] = "auto"
    reload: Literal["auto", "always", "never"] = "auto"


class HostsSection(_Section):
    """Where the names of destinations with a known address go."""

    file: AbsolutePath = Path("/etc/hosts")
    chroot: Literal["auto", "never"] = "auto"


class GuardSection(_Section):
    """What is refused although it is well-formed."""

    allow_empty: bool = False
    max_removed: Annotated[float, PlainValidator(_percent)] = 0.5
    max_size: Annotated[int, PlainValidator(_size)] = 512 * 2**20


class ProbeSection(_Section):
    """How far, how often and how patiently destinations are asked whether they are up."""

    level: Annotated[Literal["connect", "lhlo", "rcpt", "off"], BeforeValidator(_off)] = "rcpt"
    interval: Seconds = 60.0
    timeout: Seconds = 10.0
    flush: bool = True


class MetricsSection(_Section):
    """Where metrics are written to, and served."""

    textfile: AbsolutePath | None = None
    listen: Annotated[Listen, PlainValidator(_listen)] | None = None

    @property
    def wanted(self) -> bool:
        """Whether there are to be metrics at all."""
        return bool(self.textfile or self.listen)


class Config(_Section):
    """All of it."""

    sources: Annotated[list[Source], Field(min_length=1)]
    postfix: PostfixSection = PostfixSection()
    hosts: HostsSection = HostsSection()
    guard: GuardSection = GuardSection()
    probe: ProbeSection = ProbeSection()
    state_directory: AbsolutePath = Path("/var/lib/postfix-sync")
    generations: Annotated[int, Field(ge=1, le=1000)] = 10
    metrics: MetricsSection = MetricsSection()
    _path: Path = PrivateAttr(DEFAULT_PATH)

    @property
    def path(self) -> Path:
        """The file that it was read from."""
        return self._path

    def model_post_init(self, context: object) -> None:
        """Names the sources that have no name."""
        super().model_post_init(context)
        given = {source.name for source in self.sources}
        short = Counter(source.short_name() for source in self.sources if not source.name)
        for source in self.sources:
            if not source.name:
                name = source.short_name()
                alone = short[name] == 1 and name not in given
                object.__setattr__(source, "name", name if alone else source.long_name())

    @property
    def interval(self) -> float:
        """Seconds after which some source is asked at the latest."""
        return min(source.interval for source in self.sources)

    def command(self, *arguments: str) -> str:
        """postfix-sync itself with this configuration, as an operator types it, wherever that is.

        Every command line of postfix-sync that a message or a hint names is made here.
        """
        path = self.path.absolute()
        chosen = [] if path == DEFAULT_PATH else ["-c", str(path)]
        return shlex.join(["postfix-sync", *chosen, *arguments])

    def with_map_type(self, map_type: str) -> "Config":
        """Return the same configuration with another postfix.map_type."""
        section = self.postfix.model_copy(update={"map_type": map_type})
        return self.model_copy(update={"postfix": section})

    def policy(self, source: Source) -> Policy:
        """What is accepted from a source."""
        return Policy(
            domains=frozenset(source.domains),
            destination=source.destination,
            is_placed=source.container is not None,
            allow_empty=self.guard.allow_empty,
            max_removed=self.guard.max_removed,
            override=self.command("--once", "--force"),
        )


_SECTIONS: dict[tuple[str, ...], type[_Section]] = {
    (): Config,
    ("sources",): Source,
    ("sources", "ssh"): SshSection,
    ("postfix",): PostfixSection,
    ("hosts",): HostsSection,
    ("guard",): GuardSection,
    ("probe",): ProbeSection,
    ("metrics",): MetricsSection,
}


def load(path: Path) -> Config:
    """Reads and validates the configuration.

    Raises ConfigError with every problem on a line of its own, or NotPermitted.
    """
    content = _read(path)
    try:
        document = strict_yaml.load(content)
    except NotYaml as error:
        raise ConfigError(f"{path}:{error.line}: not valid YAML: {error.problem}") from None
    problems = set(document.problems)
    try:
        config = Config.model_validate({} if document.value is None else document.value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems |= {_problem(one, document) for one in errors if not _is_told(one, document)}
    else:
        problems |= {
            (_line(at, document), f"{dotted(at)}: {text}") for at, text in _contradictions(config)
        }
    if problems:
        raise ConfigError(
            "\n".join(f"{path}:{line}: {problem}" for line, problem in sorted(problems)),
            "every key with its default: man postfix-sync.yaml, or config.example.yaml",
        )
    config._path = path
    return config


def _contradictions(config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with keys that are each right by themselves: the path of one, and why."""
    names: dict[str, int] = {}
    for number, source in enumerate(config.sources):
        first = names.setdefault(source.name, number)
        if first != number:
            yield (
                ("sources", number, "name"),
                f"sources[{first}] is called {source.name}, too; give each a name of its own",
            )
        if source.address == "ssh" and (source.ssh is None or source.ssh.jump):
            unseen = "a bastion is in between" if source.ssh else "there is no ssh section"
            yield ("sources", number, "address"), f"expected an IP address, not ssh: {unseen}"
        if source.container:
            yield from _contradictions_in_container(number, source)


def _contradictions_in_container(
    number: int, source: Source
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if source.ssh:
        elsewhere = "the container would be one of this host, and ssh is another"
        text = f"expected an IP address or ssh: {elsewhere}"
        yield ("sources", number, "address"), text
    if source.destination and not source.destination.is_name:
        text = "expected a host name, as its address is that of a container"
        yield ("sources", number, "destination"), text


def _read(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            content = file.read(SIZE_AT_MOST + 1)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {why(error)}", denied_hint(path, error)) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: {why(error)}: there is no configuration to work with",
            "one key is enough: sources: [{path: /srv/mailman_var/data}];"
            " another file is named with -c FILE",
        ) from None
    if len(content) > SIZE_AT_MOST:
        raise ConfigError(f"{path}: has more than {SIZE_AT_MOST} bytes, too many to be read")
    return content


def _is_told(found: Any, document: Document) -> bool:
    """Whether one of pydantic's findings is about a value that has its problem already."""
    at: At = found["loc"]
    return any(at[:length] in document.refused for length in range(len(at) + 1))


def _problem(found: Any, document: Document) -> tuple[int, str]:
    """One of pydantic's findings (a dict), as line and text."""
    at: At = found["loc"]
    text = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    match found["type"]:
        case "missing":
            text = "missing; it is required"
        case "extra_forbidden":
            text = "unknown key" + _did_you_mean(at)
        case "model_type":
            text = "expected a mapping of keys"
        case "too_short":
            text = "expected one source"
    note = document.notes.get(at)
    if note and (found["type"] == "string_type" or not note.is_number):
        text += f"; {note.text}"
    return _line(at, document), f"{dotted(at) or 'the file'}: {text}"


def _line(at: At, document: Document) -> int:
    """Where a key stands, or the closest one around it that does."""
    while at not in document.lines:
        at = at[:-1]
    return document.lines[at]


def _did_you_mean(at: At) -> str:
    section = _SECTIONS.get(tuple(part for part in at[:-1] if isinstance(part, str)))
    keys = list(section.model_fields) if section else []
    close = difflib.get_close_matches(str(at[-1])[:80], keys, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known here: {', '.join(keys)}"
