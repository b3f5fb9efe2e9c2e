"""The frozen values that flow through a sync. Pure.

A `Snapshot` holds the files of one source as bytes, `MailmanTables` their content. A `Record` holds
the last good lists of one source. `Maps` are the four tables that Postfix uses. A `Diff` holds the
entries that differ between two tables.
"""

import ipaddress
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, TypeAlias

Table: TypeAlias = Mapping[str, str]
"""Entries of one map: folded key -> value."""

ROUTES = "postfix_lmtp"
RECIPIENTS = "postfix_recipients"
DOMAINS = "postfix_domains"
ALIASES = "postfix_vmap"

MAP_NAMES = (ROUTES, RECIPIENTS, DOMAINS, ALIASES)
"""The maps in map_directory: the routes first, then the maps that decide which mail is accepted."""

INDEX_SUFFIX = {"lmdb": ".lmdb", "hash": ".db", "btree": ".db", "cdb": ".cdb"}
"""By map type, the suffix that postmap(1) adds to a text's name for its index."""

Families: TypeAlias = frozenset[int]
"""The versions of IP that may be used: 4, 6, or both."""

BOTH_FAMILIES: Families = frozenset({4, 6})


def family_of(address: str) -> int:
    """Return the IP version, 4 or 6, of an address, which may end in %INTERFACE."""
    return ipaddress.ip_address(address.partition("%")[0]).version


@dataclass(frozen=True, order=True)
class Destination:
    """An LMTP next hop: a host name or an IP address, and a TCP port."""

    host: str
    port: int

    @property
    def endpoint(self) -> str:
        """Return HOST:PORT, with brackets around an IPv6 address, for messages and JSON."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Return whether the host is a name that must be resolved, not an IP address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def next_hop(self) -> str:
        """Return `lmtp:[HOST]:PORT` for transport(5), as Mailman's mta/postfix.py writes it."""
        return f"lmtp:[{self.host}]:{self.port}"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: its place, for messages, and its bytes."""

    place: str
    content: bytes = field(repr=False)  # megabytes, and asyncio.run() calls repr()


@dataclass(frozen=True)
class Snapshot:
    """The files of one source at one moment; `vmap` is None if Mailman has no alias domain."""

    lmtp: SourceFile
    domains: SourceFile
    vmap: SourceFile | None


@dataclass(frozen=True)
class MailmanTables:
    """The tables of one Mailman: routes and aliases by address, and its mail domains."""

    routes: Table
    domains: Table
    aliases: Table

    def names(self, key: str) -> bool:
        """Return whether one of the tables has this key."""
        return key in self.routes or key in self.aliases or key in self.domains


@dataclass(frozen=True)
class Peer:
    """The addresses at which this host reaches a Mailman, found by an SSH login or an engine."""

    addresses: tuple[str, ...] = ()
    """Mailman's IP addresses that this host can reach, the preferred one first."""
    published: Mapping[int, Destination] = field(default_factory=dict)
    """By TCP port of Mailman's container, the address and port on this host that lead to it."""
    is_here: bool = False
    """Whether Mailman's container uses the network of this host."""
    how: str = field(default="", compare=False)
    """The network or the ports by which it is reached, for messages."""
    networks: tuple[str, ...] = field(default=(), compare=False)
    """The networks of `addresses`, in which an engine may give the container another address."""

    def usable(self, families: Families) -> "Peer":
        """Return the peer without the addresses and ports that Postfix must not use.

        `families` are the IP versions that Postfix may use (inet_protocols). If nothing else is
        left, return it unchanged, so that a report can name the addresses that can't be used.
        """
        kept = tuple(address for address in self.addresses if family_of(address) in families)
        published = {
            port: place
            for port, place in self.published.items()
            if family_of(place.host) in families
        }
        if kept == self.addresses or not (kept or published):
            return self
        others = ", ".join(address for address in self.addresses if address not in kept)
        how = self.how if kept else f"published ports: {_listed(published)}"
        return replace(
            self,
            addresses=kept,
            published=published,
            how=f"{how}; not at {others}, which inet_protocols keeps Postfix from using",
            networks=tuple(
                net for net in self.networks if ipaddress.ip_network(net).version in families
            ),
        )

    def reach(self, host: str, port: int) -> Destination | None:
        """Return the destination that leads to Mailman's `host` and `port`; None if there is none.

        An IP address that Mailman wrote is the one that it listens on. If that is one of
        `addresses`, the destination has it, too.
        """
        if not self.addresses:
            return self.published.get(port)
        named = host and not Destination(host, port).is_name
        known = named and (self.is_here or host in self.addresses)
        return Destination(host if known else self.addresses[0], port)


def _listed(published: Mapping[int, Destination]) -> str:
    return ", ".join(f"{port} is {to.endpoint}" for port, to in sorted(published.items()))


@dataclass(frozen=True)
class Record:
    """The last good lists of one source."""

    tables: MailmanTables
    peer: Peer | None = None
    """The addresses at which this host last reached the source."""
    left_out: frozenset[str] = frozenset()
    """The source's lists that are not served, because another source had one of their addresses
    first."""


@dataclass(frozen=True)
class Maps:
    """The four tables of map_directory, by name."""

    tables: Mapping[str, Table]

    def __getitem__(self, name: str) -> Table:
        return self.tables[name]

    @classmethod
    def of(cls, tables: MailmanTables) -> "Maps":
        """Return the maps for the tables of one or several Mailmans.

        If a mail host has an alias_domain, Mailman omits the mail host from postfix_domains and
        writes aliases from the mail host to the alias domain. The maps have the mail host, because
        its addresses are accepted.
        """
        hosts = {key.rpartition("@")[2] for key in tables.aliases}
        return cls(
            {
                ROUTES: tables.routes,
                RECIPIENTS: dict.fromkeys(tables.routes, "OK"),
                DOMAINS: {**{host: host for host in sorted(hosts)}, **tables.domains},
                ALIASES: tables.aliases,
            }
        )

    @property
    def routes_in_use(self) -> Table:
        """Return the routes of accepted addresses, without those of removed lists."""
        routes, recipients = self[ROUTES], self[RECIPIENTS]
        return {key: value for key, value in routes.items() if key in recipients}

    def beside(self, others: AbstractSet[str]) -> "Maps":
        """Return the maps without the mail hosts of aliases that main.cf accepts already.

        `others` are the domains that main.cf names apart from the maps.
        """
        lists = {key.rpartition("@")[2] for key in self[RECIPIENTS]}
        hosts = {key.rpartition("@")[2] for key in self[ALIASES]}
        spare = (hosts & others) - lists
        if not spare:
            return self
        kept = {key: value for key, value in self[DOMAINS].items() if key not in spare}
        return Maps({**self.tables, DOMAINS: kept})

    def served(self) -> MailmanTables:
        """Return the tables of the accepted addresses that have a route; the inverse of `of`.

        The routes of removed lists, kept while mail for them is queued, are not in the result.
        """
        routes, recipients, aliases = self[ROUTES], self[RECIPIENTS], self[ALIASES]
        if routes.keys() != recipients.keys():
            routes = {key: routes[key] for key in routes.keys() & recipients.keys()}
        if not routes.keys() >= set(aliases.values()):
            aliases = {key: value for key, value in aliases.items() if value in routes}
        return MailmanTables(routes, self[DOMAINS], aliases)


class Change(NamedTuple):
    """One key whose value changed."""

    old: str
    new: str


@dataclass(frozen=True)
class Diff:
    """The entries that turn one table into another."""

    added: Table
    removed: Table
    changed: Mapping[str, Change]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @classmethod
    def between(cls, old: Table, new: Table) -> "Diff":
        """Return the entries to add, remove and change to turn `old` into `new`."""
        if old == new:  # the most frequent case, and a fast comparison
            return cls({}, {}, {})
        return cls(
            added={key: new[key] for key in new.keys() - old.keys()},
            removed={key: old[key] for key in old.keys() - new.keys()},
            changed={
                key: Change(old[key], new[key])
                for key in old.keys() & new.keys()
                if old[key] != new[key]
            },
        )


class Condition(Enum):
    """The state of an installed map's index."""

    SOUND = "sound"
    STALE = "stale"
    """The index may differ from the text: it is older, or a sync was interrupted."""
    BROKEN = "broken"
    """Postfix can't read the index: the sync makes a new file, which needs a reload."""


@dataclass(frozen=True)
class InstalledMap:
    """One map in map_directory; `table` is None if its text can't be read."""

    table: Table | None
    condition: Condition


EVERY_DOMAIN = "*"
"""All mail domains, as a member of `Installed.unseen`."""

MOVED_LISTS = "@"
"""Lists whose next hop has changed, as a member of `Installed.unseen`; not a valid domain."""


@dataclass(frozen=True)
class Installed:
    """The installed state: the maps, the hosts file, and the work that earlier syncs left."""

    maps: Mapping[str, InstalledMap]
    interrupted: bool = False
    """Whether an earlier sync was interrupted and left staged files."""
    reload_owed: bool = False
    """Whether an earlier sync published changes for which Postfix has not been reloaded yet."""
    unseen: frozenset[str] = frozenset()
    """The changes that must wait for the reload: new addresses in these domains, EVERY_DOMAIN,
    MOVED_LISTS."""
    left: frozenset[Destination] = frozenset()
    """The previous destinations of hosts that got another IP address, until Postfix is reloaded."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Our block of the hosts file: host names with their IP addresses."""
    hosts_copied: bool = True
    """Whether the chroot's copy equals the hosts file, or none is needed."""

    def table(self, name: str) -> Table:
        """Return the entries of a map; none if its text can't be read."""
        return self.maps[name].table or {}

    @property
    def readable(self) -> Maps | None:
        """Return all four tables; None if the text of one can't be read."""
        if any(installed.table is None for installed in self.maps.values()):
            return None
        return Maps({name: self.table(name) for name in MAP_NAMES})

    def without(self, entries: Maps) -> "Installed":
        """Return the installed state without the keys of `entries`."""
        return replace(
            self,
            maps={
                name: replace(old, table={k: v for k, v in old.table.items() if k not in gone})
                if old.table and (gone := entries[name])
                else old
                for name, old in self.maps.items()
            },
        )


@dataclass(frozen=True)
class Desired:
    """The desired state: the maps, and the host names that need an IP address."""

    maps: Maps
    hosts: Mapping[str, str]
    """Names with their IP addresses for our block of the hosts file; empty if no source has an
    `address:`."""
    dropped: frozenset[str] = frozenset()
    """Names that routes still have, but that must leave our block of the hosts file."""


@dataclass(frozen=True)
class Policy:
    """The limits that the configuration sets for a source's content, and its guards."""

    domains: frozenset[str] = frozenset()
    destination: Destination | None = None
    is_placed: bool = False
    """Whether an engine gives the address, so that the host that Mailman wrote is not checked."""
    allow_empty: bool = False
    max_removed: float = 0.5
    override: str = "postfix-sync --once --force"
    """The command that makes a sync without the guards, as an operator types it."""

    def unguarded(self) -> "Policy":
        """Return the policy without its guards."""
        return replace(self, allow_empty=True, max_removed=1.0)


PHASES = ("resolve", "connect", "greeting", "lhlo", "mail", "rcpt")
"""The phases of a probe, in order."""


@dataclass(frozen=True)
class Notice:
    """A message for the operator that is reported once."""

    message: str
    hint: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe of one destination; `phase` is the last phase that it reached.

    `seconds` is the duration of the probe.
    """

    destination: Destination
    up: bool
    phase: str
    reply: str
    seconds: float
    error: str = ""
    warning: str = ""
    """What should be checked about a destination that is up."""
    barred: bool = False
    """Whether all its addresses have an IP version that Postfix must not use, so that Postfix
    returns its mail."""


class Verdict(Enum):
    """The verdict of a check of doctor."""

    OK = "ok"
    WARNING = "warning"
    """It should be checked: it works, but not in every case, or not for long."""
    FAILURE = "failure"
    """It makes mail of the lists lost, refused or deferred."""


@dataclass(frozen=True)
class Finding:
    """The result of one check of doctor.

    `name` is the same in every version and unique in a report. If a check examines several things
    of one kind, each name ends with a colon and the thing.
    """

    name: str
    verdict: Verdict
    seen: str
    why: str = ""
    """The consequence for mail, and what to do if no single command fixes it."""
    fix: str | None = None
    """A command for a shell on this host that fixes what the check found."""


def domain_of(address: str) -> str:
    """Return the part of an address after the last @."""
    return address.rpartition("@")[2]
