"""Query and control one Postfix instance, by postconf(1), postmap(1), postfix(1), postqueue(1).

Every command names the instance with `-c`, so that any instance on a host with several can be used.
Nothing here changes main.cf.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from postfix_sync.errors import ConfigError
from postfix_sync.model.destination import Families
from postfix_sync.postfix.folding import Fold, fold_ascii, fold_unicode
from postfix_sync.postfix.index_type import SUCCESSORS, IndexType
from postfix_sync.postfix.lmtp_client import DEPRECATED, LmtpClient, lmtp_client
from postfix_sync.postfix.lmtp_client import PARAMETERS as OF_LMTP
from postfix_sync.postfix.mail_queue import MailQueue
from postfix_sync.postfix.master_cf import Service, service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.postconf import instance_command, postconf, settings_of
from postfix_sync.postfix.postmap import Postmap
from postfix_sync.postfix.processes import Processes
from postfix_sync.system.commands import find_command, run
from postfix_sync.system.files import read_file, replace_file, unwritable
from postfix_sync.system.tasks import together

PARAMETERS = (
    *OF_LMTP,
    "alias_database",
    "alias_maps",
    "canonical_maps",
    "default_database_type",
    "default_transport",
    "lmtp_connect_timeout",
    "local_recipient_maps",
    "local_transport",
    "message_size_limit",
    "mydestination",
    "owner_request_special",
    "parent_domain_matches_subdomains",
    "propagate_unmatched_extensions",
    "queue_minfree",
    "recipient_canonical_maps",
    "recipient_delimiter",
    "relay_domains",
    "relay_recipient_maps",
    "relay_transport",
    "relocated_maps",
    "sender_canonical_maps",
    "smtpd_recipient_restrictions",
    "smtpd_reject_unlisted_recipient",
    "smtpd_relay_restrictions",
    "smtputf8_enable",
    "soft_bounce",
    "transport_maps",
    "unknown_local_recipient_reject_code",
    "unknown_relay_recipient_reject_code",
    "unknown_virtual_mailbox_reject_code",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "virtual_transport",
)

TRANSPORTS = ("default_transport", "local_transport", "relay_transport", "virtual_transport")
"""The parameters whose transport delivers mail that no route is for."""


@dataclass(frozen=True)
class Postfix:
    """One Postfix instance: its configuration directory, and its configuration by postconf(1)."""

    config_directory: Path
    parameters: Mapping[str, str]
    """The values of PARAMETERS as they take effect, $names expanded."""
    unexpanded: Mapping[str, str]
    """The values of PARAMETERS as they are written."""
    map_types: frozenset[str]
    lmtp: LmtpClient = field(default_factory=LmtpClient)
    """What lmtp(8) may do: the service that all routes name."""
    master_cf: str = ""
    """The lines of master(5) as `postconf -M` prints them; empty if there is no such file."""
    version: str = ""
    habitual: frozenset[str] = frozenset()
    """The lines that postmap(1) prints for every query: warnings about main.cf, not about a map."""
    _index_types: dict[str, IndexType] = field(default_factory=dict, repr=False, compare=False)

    @property
    def queue_directory(self) -> Path:
        """The directory of the queue, which is also the root of chrooted services."""
        return Path(self.parameters["queue_directory"])

    @property
    def processes(self) -> Processes:
        """The processes of this instance."""
        return Processes(self.config_directory, self.queue_directory)

    @property
    def queue(self) -> MailQueue:
        """The mail queue of this instance."""
        delimiters = self.parameters["recipient_delimiter"]
        return MailQueue(self.config_directory, self.queue_directory, self.fold, delimiters)

    @property
    def postmap(self) -> Postmap:
        """The postmap(1) of this instance."""
        return Postmap(self.config_directory, self.queue_directory, self.habitual)

    @property
    def families(self) -> Families:
        """The versions of IP that lmtp(8) may use."""
        return self.lmtp.families

    @property
    def several_next_hops(self) -> bool:
        """Whether a transport(5) entry may name several next hops: Postfix 3.5 and later."""
        return self.at_least(3, 5)

    def at_least(self, major: int, minor: int) -> bool:
        """Return whether this is version `major`.`minor` of Postfix, or a later one."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return found is not None and (int(found[1]), int(found[2])) >= (major, minor)

    async def values(self, *names: str) -> dict[str, str]:
        """Read parameters of main.cf as they take effect, $names expanded. Raises ConfigError."""
        return settings_of(await postconf(self.config_directory, "-x", *names))

    async def written_as(self, name: str) -> str:
        """Read a parameter as it is written, with its $names. Raises ConfigError."""
        return settings_of(await postconf(self.config_directory, name))[name]

    async def services(self) -> tuple["Service", ...]:
        """Read the services of master.cf; none if there is no such file. Raises ConfigError."""
        if not self.master_cf:
            return ()
        overrides = settings_of(await postconf(self.config_directory, "-P", "-x"))
        level = self.parameters["compatibility_level"]
        return tuple(
            service(line, overrides, level) for line in self.master_cf.splitlines() if line
        )

    async def warnings(self) -> list[str]:
        """Return the warnings of postconf(1) about main.cf and master.cf."""
        return await self._warnings("-n")

    async def type_warnings(self) -> list[str]:
        """Return the warnings of postconf(1) about map types that it cannot load."""
        return await self._warnings("-m")

    async def _warnings(self, option: str) -> list[str]:
        done = await run(instance_command(self.config_directory, "postconf", option))
        warnings = [line.partition("warning: ")[2] for line in done.stderr.splitlines()]
        return [line for line in warnings if line]

    async def expanded(self, values: Mapping[str, str]) -> dict[str, str]:
        """Expand the $names in `values`, as if main.cf had these values. Raises ConfigError."""
        given = [word for name, value in values.items() for word in ("-o", f"{name}={value}")]
        return settings_of(await postconf(self.config_directory, "-x", *given, *values))

    async def written(self) -> dict[str, str]:
        """Read the parameters that main.cf sets, $names expanded. Raises ConfigError.

        The operator's own parameters are left out, because they may be only parts of other values:
        `hash:/etc/`, used as `${indexed}transport`, is not a table. Restriction classes are kept.
        """
        found = settings_of(await postconf(self.config_directory, "-x", "-n", "-C", "builtin"))
        if classes := items(found.get("smtpd_restriction_classes", "")):
            found |= settings_of(await postconf(self.config_directory, "-x", *classes))
        return found

    async def index_type(self, name: str) -> IndexType:
        """Find out which type this Postfix opens for a name: have it build and query a tiny map.

        The map is in a private directory, which is removed afterwards. If the map cannot be built
        there, for instance because the file system is full, the type counts as what its name says:
        the error then appears when a real map is built.
        """
        if not self.at_least(3, 11):
            return IndexType(name, name)  # redirection and its warnings exist since 3.11
        if name not in self._index_types:
            found = await self.postmap.try_out(name)
            if found is None:
                return IndexType(name, name)
            self._index_types[name] = found
        return self._index_types[name]

    async def successor(self, kind: IndexType) -> str | None:
        """Return the map type to use instead of one that Postfix warns of, if it has one."""
        for name in SUCCESSORS if kind.warnings else ():
            if name in self.map_types and not (await self.index_type(name)).warnings:
                return name
        return None

    @property
    def other_domains(self) -> frozenset[str]:
        """The domains that main.cf names outside of tables, in every class except relay."""
        parameters = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains")
        named = (item for name in parameters for item in items(self.parameters[name]))
        return frozenset(item.lower() for item in named if not re.search("[:/!]", item))

    @property
    def default_refuses(self) -> bool:
        """Whether the transport error(8) refuses some mail that no route is for."""
        return any(
            self.parameters[parameter].partition(":")[0] == "error" for parameter in TRANSPORTS
        )

    async def check(self) -> str:
        """Return what `postfix check` reports; empty if Postfix could start so configured.

        Without a terminal, it writes most of that to Postfix's log; only its exit status counts.
        On Debian 13 it also copies /etc/hosts into the chroot (configure-instance.sh), which may
        lack names that the copy there has: the previous copy is restored.

        Raises ApplyError or NotPermitted if the copy cannot be restored.
        """
        copy = self.queue_directory / "etc/hosts"
        before = read_file(copy) if copy.is_file() else None
        done = await run(instance_command(self.config_directory, "postfix", "check"))
        try:
            if before is not None and read_file(copy) != before:
                replace_file(copy, before)
        except OSError as error:
            raise unwritable(copy, error) from None
        return done.complaint if done.status else ""

    @property
    def fold(self) -> Fold:
        """The function that folds keys and addresses as this Postfix does."""
        return _fold(self.parameters)


def list_file(path: str) -> str:
    """Read a file that a list in main.cf names; an unreadable file is empty, as for Postfix."""
    try:
        return read_file(Path(path)).decode("utf-8", "replace")
    except OSError:
        return ""


async def inspect(config_directory: Path) -> Postfix:
    """Read an instance's configuration. Raises ConfigError if it has none, or no postmap(1)."""
    parameters = settings_of(await postconf(config_directory, "-x", *PARAMETERS))
    written, version, services, types = await together(
        postconf(config_directory, *PARAMETERS),
        # The built-in value, because main.cf may set mail_version to anything.
        postconf(config_directory, "-d", "-h", "mail_version"),
        _services(config_directory),
        postconf(config_directory, "-m"),
    )
    unexpanded = settings_of(written)
    nothing = await run(
        [find_command("postmap"), "-c", str(config_directory), "-q", "x", "static:x"]
    )
    if nothing.status:
        raise ConfigError(
            f"{config_directory}: postmap can't be used with this configuration, so no map can be"
            f" built: {nothing.complaint}",
            f"fix that; then this prints x: postmap -c {config_directory} -q x static:x",
        )
    if missing := [name for name in PARAMETERS if name not in {*parameters, *DEPRECATED}]:
        raise ConfigError(
            f"{config_directory}: this Postfix does not know {', '.join(missing)}",
            "postfix-sync needs Postfix 3.0 or later",
        )
    return Postfix(
        config_directory=config_directory,
        parameters=parameters,
        unexpanded=unexpanded,
        map_types=frozenset(types.split()),
        lmtp=await lmtp_client(config_directory, parameters, services),
        master_cf=services,
        version=version.strip(),
        habitual=frozenset(nothing.stderr.splitlines()),
    )


async def _services(config_directory: Path) -> str:
    """Read the lines of master.cf; none if an instance that is not set up yet has no such file."""
    if not (config_directory / "master.cf").exists():
        return ""
    return await postconf(config_directory, "-M")


async def mail_queue_of(config_directory: Path) -> MailQueue:
    """Return the mail queue of an instance. Raises ConfigError if there is no Postfix."""
    names = ("queue_directory", "recipient_delimiter", "smtputf8_enable")
    parameters = settings_of(await postconf(config_directory, "-x", *names))
    return MailQueue(
        config_directory,
        Path(parameters["queue_directory"]),
        _fold(parameters),
        parameters["recipient_delimiter"],
    )


async def fold_of(config_directory: Path) -> Fold:
    """Return how an instance folds keys. Raises ConfigError if there is no Postfix."""
    return _fold(settings_of(await postconf(config_directory, "-x", "smtputf8_enable")))


def _fold(parameters: Mapping[str, str]) -> Fold:
    """Return how postmap(1) and the lookups of a Postfix fold keys (SMTPUTF8_README)."""
    if parameters.get("smtputf8_enable") == "yes":
        return fold_unicode
    return fold_ascii
