"""The values that flow through a pass. All frozen, none of them does I/O.

A `Snapshot` is what a source holds, as bytes. `MailmanTables` is what it says, a `Record` what is
remembered of it. `Maps` are the four tables that Postfix uses. A `Diff` is what separates two of
them.
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
"""The maps in map_directory, in the order in which mail meets a new list's entries."""

INDEX_SUFFIX = {"lmdb": ".lmdb", "hash": ".db", "btree": ".db", "cdb": ".cdb"}
"""The map types that can be built, and what postmap(1) adds to the text's name for its index."""


Families: TypeAlias = frozenset[int]
"""The versions of IP that may be used: 4, 6, or both."""

BOTH_FAMILIES: Families = frozenset({4, 6})


def family_of(address: str) -> int:
    """The version of IP of an address, which may end in %INTERFACE."""
    return ipaddress.ip_address(address.partition("%")[0]).version


@dataclass(frozen=True, order=True)
class Destination:
    """An LMTP next hop: a host name or an IP address, and a TCP port."""

    host: str
    port: int

    @property
    def endpoint(self) -> str:
        """HOST:PORT, with brackets around an IPv6 address: for messages and JSON."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host has to be looked up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def next_hop(self) -> str:
        """As a transport(5) entry: what Mailman's mta/postfix.py writes."""
        return f"lmtp:[{self.host}]:{self.port}"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: where it was read, for messages, and its bytes."""

    place: str
    content: bytes = field(repr=False)  # megabytes, and asyncio.run() does ask for a result's repr


@dataclass(frozen=True)
class Snapshot:
    """The files of one source at one moment. Mailman has no postfix_vmap without alias domains."""

    lmtp: SourceFile
    domains: SourceFile
    vmap: SourceFile | None


@dataclass(frozen=True)
class MailmanTables:
    """What one Mailman asks for: routes and aliases by address, and its mail domains."""

    routes: Table
    domains: Table
    aliases: Table

    def names(self, key: str) -> bool:
        """Whether there is an entry with this key."""
        return key in self.routes or key in self.aliases or key in self.domains


@dataclass(frozen=True)
class Peer:
    """Where this host reaches a Mailman whose address is not configured, but found out."""

    addresses: tuple[str, ...] = ()
    """Its IP addresses that this host can reach, the preferred one first."""
    published: Mapping[int, Destination] = field(default_factory=dict)
    """Its TCP ports, and what each is on this host: where it is reached without any address."""
    is_here: bool = False
    """It has no network of its own, but this host's."""
    how: str = field(default="", compare=False)
    """How that was found out, for messages."""
    networks: tuple[str, ...] = field(default=(), compare=False)
    """The networks of `addresses`, where it may have another address in them any time."""

    def usable(self, families: Families) -> "Peer":
        """The same without what is of a family that Postfix must not use.

        Where nothing else is left, it stays as it is: what can't be used is reported with its name.
        """
        kept = tuple(one for one in self.addresses if family_of(one) in families)
        published = {
            port: place
            for port, place in self.published.items()
            if family_of(place.host) in families
        }
        if kept == self.addresses or not (kept or published):
            return self
        others = ", ".join(one for one in self.addresses if one not in kept)
        how = self.how if kept else f"published ports: {_listed(published)}"
        return replace(
            self,
            addresses=kept,
            published=published,
            how=f"{how}; not at {others}, which inet_protocols keeps Postfix from using",
            networks=tuple(
                one for one in self.networks if ipaddress.ip_network(one).version in families
            ),
        )

    def reach(self, host: str, port: int) -> Destination | None:
        """Where what Mailman calls `host` and `port` is reached; None where it is not.

        An IP address that Mailman wrote is the one that it listens on: where that is one of its
        addresses, no other will do.
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
    """What is known of one source: the last lists of its that were let through."""

    tables: MailmanTables
    peer: Peer | None = None
    """Where it was reached last."""
    left_out: frozenset[str] = frozenset()
    """Its lists that are not served, because another source had an address of theirs first."""


@dataclass(frozen=True)
class Maps:
    """The four tables of map_directory, by name."""

    tables: Mapping[str, Table]

    def __getitem__(self, name: str) -> Table:
        return self.tables[name]

    @classmethod
    def of(cls, tables: MailmanTables) -> "Maps":
        """The maps that serve what a Mailman asks for.

        With an alias_domain, Mailman leaves the mail host out of postfix_domains, and aliases lead
        from there to the alias domain. Its addresses stay accepted: so the mail host is kept.
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
        """The routes of what is accepted; not those that are only kept for a while."""
        routes, recipients = self[ROUTES], self[RECIPIENTS]
        return {key: value for key, value in routes.items() if key in recipients}

    def beside(self, others: AbstractSet[str]) -> "Maps":
        """The same, where main.cf accepts other domains by itself: mail hosts of aliases may go."""
        lists = {key.rpartition("@")[2] for key in self[RECIPIENTS]}
        hosts = {key.rpartition("@")[2] for key in self[ALIASES]}
        spare = (hosts & others) - lists
        if not spare:
            return self
        kept = {key: value for key, value in self[DOMAINS].items() if key not in spare}
        return Maps({**self.tables, DOMAINS: kept})

    def served(self) -> MailmanTables:
        """The inverse: what is accepted and has a route.

        Routes of removed lists, which stay while mail waits for them, are not part of it.
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
    """What turns one table into another."""

    added: Table
    removed: Table
    changed: Mapping[str, Change]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @classmethod
    def between(cls, old: Table, new: Table) -> "Diff":
        """The entries to add, remove and change."""
        if old == new:  # as most often, and quickly told
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
    """How an installed map stands, apart from its entries."""

    SOUND = "sound"
    STALE = "stale"
    """The index may not hold what the text says: older, or left by a pass that was interrupted."""
    BROKEN = "broken"
    """There is no index that Postfix could read: it gets a new file, which needs a reload."""


@dataclass(frozen=True)
class InstalledMap:
    """One map as it is found in map_directory. `table` is None where the text can't be read."""

    table: Table | None
    condition: Condition


EVERY_DOMAIN = "*"
"""Stands for all mail domains, where it is said which are not to get new addresses yet."""

MOVED_LISTS = "@"
"""Stands in the same place for lists whose mail goes elsewhere; no domain has this name."""


@dataclass(frozen=True)
class Installed:
    """What a pass finds in map_directory."""

    maps: Mapping[str, InstalledMap]
    interrupted: bool = False
    """An earlier pass did not come to its end, and left what it was working on."""
    reload_owed: bool = False
    """An earlier sync published what Postfix has not been reloaded for yet."""
    unseen: frozenset[str] = frozenset()
    """What has to wait for that: new addresses in these domains, EVERY_DOMAIN, MOVED_LISTS."""
    left: frozenset[Destination] = frozenset()
    """Where hosts of routes were before they got another IP address, as far as that is owed."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Our block of the hosts file: host names with their IP addresses."""
    hosts_copied: bool = True
    """Whether the chroot's copy, where there has to be one, is the same as the hosts file."""

    def table(self, name: str) -> Table:
        """The entries of a map, none where they can't be known."""
        return self.maps[name].table or {}

    @property
    def readable(self) -> Maps | None:
        """All four tables, or None where one can't be known."""
        if any(one.table is None for one in self.maps.values()):
            return None
        return Maps({name: self.table(name) for name in MAP_NAMES})

    def without(self, entries: Maps) -> "Installed":
        """The same without some entries."""
        return replace(
            self,
            maps={
                name: replace(one, table={k: v for k, v in one.table.items() if k not in gone})
                if one.table and (gone := entries[name])
                else one
                for name, one in self.maps.items()
            },
        )


@dataclass(frozen=True)
class Desired:
    """What a sync is to bring about: the maps, and the host names that need an IP address."""

    maps: Maps
    hosts: Mapping[str, str]
    """For our block of the hosts file; empty where no source has an `address:`."""
    dropped: frozenset[str] = frozenset()
    """Names that routes go on to lead to, and that are no longer ours to give an address."""


@dataclass(frozen=True)
class Policy:
    """What the configuration says of a source's content and of the guards."""

    domains: frozenset[str] = frozenset()
    destination: Destination | None = None
    is_placed: bool = False
    """Where it is reached is found out by itself, so the host that Mailman wrote is not judged."""
    allow_empty: bool = False
    max_removed: float = 0.5
    override: str = "postfix-sync --once --force"
    """The command that makes a pass without the guards, as an operator types it."""

    def unguarded(self) -> "Policy":
        """The same without its guards."""
        return replace(self, allow_empty=True, max_removed=1.0)


PHASES = ("resolve", "connect", "greeting", "lhlo", "mail", "rcpt")
"""What a probe goes through, in this order."""


@dataclass(frozen=True)
class Notice:
    """Something the operator should know, once."""

    message: str
    hint: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe of one destination found; `phase` is the last one that it came to."""

    destination: Destination
    up: bool
    phase: str
    reply: str
    seconds: float
    error: str = ""
    warning: str = ""
    """What is odd about a destination that is up, and worth a look."""
    barred: bool = False
    """It has only addresses of a family that Postfix must not use: Postfix returns its mail."""


class Verdict(Enum):
    """What a check of doctor comes to."""

    OK = "ok"
    WARNING = "warning"
    """Worth a look: it works, but not in every case, or not for long."""
    FAILURE = "failure"
    """Mail of the lists is lost, refused or held up by it."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    `name` stays the same from version to version, and is found once in a report: where a check
    looks at several things of one kind, it is followed by a colon and which of them.
    """

    name: str
    verdict: Verdict
    seen: str
    why: str = ""
    """What it means for the mail, and what to do where no single command mends it."""
    fix: str | None = None
    """A command that mends it, as a shell on this host takes it."""


def domain_of(address: str) -> str:
    """What stands behind the @."""
    return address.rpartition("@")[2]
