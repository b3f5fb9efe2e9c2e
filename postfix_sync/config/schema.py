"""The sections of the configuration: a field for each key, with its type and its default. Pure."""

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from postfix_sync.config.values import (
    NAME_LENGTH,
    AbsolutePath,
    Address,
    Boolean,
    Choice,
    Domain,
    Host,
    InContainer,
    Jump,
    ListenAt,
    MapDirectory,
    Name,
    NextHop,
    OneOrMore,
    Percentage,
    Seconds,
    Size,
    User,
    WholeNumber,
)
from postfix_sync.model.source import Policy

DEFAULT_PATH = Path("/etc/postfix-sync/config.yaml")

NO_KEY = {"key": False}
"""Metadata of a field that is not a key of the file."""


@dataclass(frozen=True, kw_only=True)
class SshSection:
    """The SSH login for a source on another host. The host key is always checked."""

    host: Host
    port: Annotated[int, WholeNumber(1, 65535)] = 22
    user: User = "postfix-sync"
    identity: AbsolutePath = Path("/etc/postfix-sync/id_ed25519")
    known_hosts: AbsolutePath = Path("/etc/postfix-sync/known_hosts")
    connect_timeout: Seconds = 10.0
    jump: Jump | None = None


@dataclass(frozen=True, kw_only=True)
class SourceSection:
    """One source: the place of a Mailman's files, and what is accepted from it."""

    name: Name = ""
    path: AbsolutePath
    ssh: SshSection | None = None
    interval: Seconds = 0
    domains: list[Domain] = field(default_factory=list)
    address: Address | None = None
    destination: NextHop | None = None
    cluster: Name | None = None

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class PostfixSection:
    """The Postfix instance, and the place and type of its maps."""

    config_directory: AbsolutePath = Path("/etc/postfix")
    map_directory: MapDirectory = Path("/etc/postfix/mailman")
    map_type: Annotated[str, Choice(("auto", "lmdb", "hash", "btree", "cdb"))] = "auto"
    reload: Annotated[str, Choice(("auto", "always", "never"))] = "auto"


@dataclass(frozen=True, kw_only=True)
class HostsSection:
    """The hosts files that receive the names of destinations with a known address."""

    file: AbsolutePath = Path("/etc/hosts")
    chroot: Annotated[str, Choice(("auto", "never"))] = "auto"


@dataclass(frozen=True, kw_only=True)
class GuardSection:
    """The limits beyond which a well-formed snapshot is refused."""

    allow_empty: Boolean = False
    max_removed: Percentage = 0.5
    max_size: Size = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class ProbeSection:
    """The depth, the interval and the timeout of probes of destinations."""

    level: Annotated[str, Choice(("connect", "lhlo", "rcpt", "off"))] = "rcpt"
    interval: Seconds = 60.0
    timeout: Seconds = 10.0
    flush: Boolean = True


@dataclass(frozen=True, kw_only=True)
class MetricsSection:
    """The file that metrics are written to, and the address that serves them."""

    textfile: AbsolutePath | None = None
    listen: ListenAt | None = None

    @property
    def enabled(self) -> bool:
        """Return whether metrics are written or served at all."""
        return bool(self.textfile or self.listen)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration."""

    sources: Annotated[list[SourceSection], OneOrMore("source")]
    postfix: PostfixSection = PostfixSection()
    hosts: HostsSection = HostsSection()
    guard: GuardSection = GuardSection()
    probe: ProbeSection = ProbeSection()
    state_directory: AbsolutePath = Path("/var/lib/postfix-sync")
    generations: Annotated[int, WholeNumber(1, 1000)] = 10
    metrics: MetricsSection = MetricsSection()
    path: Path = field(default=DEFAULT_PATH, metadata=NO_KEY)
    """The file that the configuration was read from."""

    def __post_init__(self) -> None:
        """Give a name to each source without one."""
        given = {source.name for source in self.sources}
        short = Counter(source.short_name() for source in self.sources if not source.name)
        for number, source in enumerate(self.sources):
            if not source.name:
                name = source.short_name()
                alone = short[name] == 1 and name not in given
                named = replace(source, name=name if alone else source.long_name())
                self.sources[number] = named

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
        return replace(self, postfix=replace(self.postfix, map_type=map_type))

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
