"""The sections of the configuration, as pydantic models."""

import ipaddress
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
)

from postfix_sync.config.values import (
    NAME_LENGTH,
    AbsolutePath,
    Seconds,
    _address,
    _name,
    _nameable,
    _next_hop,
    _off,
    _percent,
    _size,
    _user,
)
from postfix_sync.errors import quote
from postfix_sync.mailman.names import check_domain
from postfix_sync.model.destination import Destination
from postfix_sync.model.source import Policy
from postfix_sync.postfix.next_hop import check_host

DEFAULT_PATH = Path("/etc/postfix-sync/config.yaml")


class InContainer(NamedTuple):
    """A container of this host: the command of its engine, and the container's name."""

    engine: str
    name: str


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


def _jump(value: object) -> "JumpSection":
    found = re.fullmatch(
        r"(?:(?P<user>.*)@)?(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^@:\[\]]+))(?::(?P<port>\d{1,5}))?",
        str(value),
    )
    if not found or not 1 <= int(found["port"] or 22) <= 65535:
        raise ValueError(f"expected [user@]host[:port], not {quote(str(value))}")
    user = _user(found["user"]) if found["user"] is not None else None
    return JumpSection(check_host(found["v6"] or found["host"]), int(found["port"] or 22), user)


def _listen(value: object) -> "Listen":
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", str(value))
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ValueError(f"expected ADDRESS:PORT such as 127.0.0.1:9825, not {quote(str(value))}")
    try:
        address = ipaddress.ip_address(found[1] or found[2])
    except ValueError:
        raise ValueError(f"expected an IP address, not {quote(found[1] or found[2])}") from None
    return Listen(str(address), int(found[3]))


class Section(BaseModel):
    """A mapping of the configuration whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class SshSection(Section):
    """The SSH login for a source on another host. The host key is always checked."""

    host: Annotated[str, AfterValidator(check_host)]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: Annotated[str, AfterValidator(_user)] = "postfix-sync"
    identity: AbsolutePath = Path("/etc/postfix-sync/id_ed25519")
    known_hosts: AbsolutePath = Path("/etc/postfix-sync/known_hosts")
    connect_timeout: Seconds = 10.0
    jump: Annotated[JumpSection, PlainValidator(_jump)] | None = None


class SourceSection(Section):
    """One source: the place of a Mailman's files, and what is accepted from it."""

    name: Annotated[str, AfterValidator(_name)] = ""
    path: AbsolutePath
    ssh: SshSection | None = None
    interval: Seconds = 0
    domains: list[Annotated[str, AfterValidator(check_domain)]] = []
    address: Annotated[str | InContainer, PlainValidator(_where)] | None = None
    destination: Annotated[Destination, PlainValidator(_next_hop)] | None = None
    cluster: Annotated[str, AfterValidator(_name)] | None = None

    def model_post_init(self, _context: object) -> None:
        """Set the default interval: shorter over SSH, where a check reads only sizes and times."""
        if not self.interval:
            object.__setattr__(self, "interval", 10.0 if self.ssh else 60.0)

    @property
    def container(self) -> InContainer | None:
        """Return the container whose address is Mailman's; None if `address` names no container."""
        return self.address if isinstance(self.address, InContainer) else None

    @property
    def fixed_address(self) -> str | None:
        """Return the configured IP address; None if the address is determined at run time."""
        return self.address if isinstance(self.address, str) and self.address != "ssh" else None

    @property
    def place(self) -> str:
        """Return the place of the files for messages: PATH, or HOST:PATH."""
        return f"{self.ssh.host}:{self.path}" if self.ssh else str(self.path)

    def short_name(self) -> str:
        """Return a name after the host, or after the directory that holds Mailman's var/data."""
        parts = [part for part in self.path.parts[1:] if part not in {"var", "data"}]
        return _as_name(self.ssh.host if self.ssh else parts[-1] if parts else "")

    def long_name(self) -> str:
        """Return a name after host, port and path, which distinguish the source from others."""
        host = [self.ssh.host, str(self.ssh.port)] if self.ssh else []
        return _as_name("-".join([*host, *self.path.parts[1:]]))


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("._-")[-NAME_LENGTH:] or "mailman"


class PostfixSection(Section):
    """The Postfix instance, and the place and type of its maps."""

    config_directory: AbsolutePath = Path("/etc/postfix")
    map_directory: Annotated[Path, PlainValidator(_nameable)] = Path("/etc/postfix/mailman")
    map_type: Literal["auto", "lmdb", "hash", "btree", "cdb"] = "auto"
    reload: Literal["auto", "always", "never"] = "auto"


class HostsSection(Section):
    """The hosts files that receive the names of destinations with a known address."""

    file: AbsolutePath = Path("/etc/hosts")
    chroot: Literal["auto", "never"] = "auto"


class GuardSection(Section):
    """The limits beyond which a well-formed snapshot is refused."""

    allow_empty: bool = False
    max_removed: Annotated[float, PlainValidator(_percent)] = 0.5
    max_size: Annotated[int, PlainValidator(_size)] = 512 * 2**20


class ProbeSection(Section):
    """The depth, the interval and the timeout of probes of destinations."""

    level: Annotated[Literal["connect", "lhlo", "rcpt", "off"], BeforeValidator(_off)] = "rcpt"
    interval: Seconds = 60.0
    timeout: Seconds = 10.0
    flush: bool = True


class MetricsSection(Section):
    """The file that metrics are written to, and the address that serves them."""

    textfile: AbsolutePath | None = None
    listen: Annotated[Listen, PlainValidator(_listen)] | None = None

    @property
    def enabled(self) -> bool:
        """Return whether metrics are written or served at all."""
        return bool(self.textfile or self.listen)


class Config(Section):
    """The whole configuration."""

    sources: Annotated[list[SourceSection], Field(min_length=1)]
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
        """Return the file that the configuration was read from."""
        return self._path

    def model_post_init(self, context: object) -> None:
        """Give a name to each source without one."""
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
        """Return the shortest interval of a source, in seconds."""
        return min(source.interval for source in self.sources)

    def command(self, *arguments: str) -> str:
        """Return a postfix-sync command line with this configuration, valid in any directory.

        This function makes every postfix-sync command line that a message or a hint names.
        """
        path = self.path.absolute()
        chosen = [] if path == DEFAULT_PATH else ["-c", str(path)]
        return shlex.join(["postfix-sync", *chosen, *arguments])

    def with_map_type(self, map_type: str) -> "Config":
        """Return the same configuration with another postfix.map_type."""
        section = self.postfix.model_copy(update={"map_type": map_type})
        return self.model_copy(update={"postfix": section})

    def policy(self, source: SourceSection) -> Policy:
        """Return what is accepted from a source."""
        return Policy(
            domains=frozenset(source.domains),
            destination=source.destination,
            is_placed=source.container is not None,
            allow_empty=self.guard.allow_empty,
            max_removed=self.guard.max_removed,
            override=self.command("--once", "--force"),
        )
