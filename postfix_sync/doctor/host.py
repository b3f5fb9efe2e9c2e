"""The host as the checks of doctor see it, examined once."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.containers.relocate import by_address, host_address, relocated
from postfix_sync.explain.list_mail import ListMail
from postfix_sync.model.destination import Destination, Peer
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.model.maps import Maps, table_of
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_type import IndexType
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.lmtp_resolver import Answer
from postfix_sync.postfix.main_cf import fixes
from postfix_sync.postfix.main_cf.classes import Classes
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.master_cf import Service, lmtp_service
from postfix_sync.postfix.next_hop import host_names, next_hops_of
from postfix_sync.reconcile.fetch import Fetched
from postfix_sync.reconcile.report import Report

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.status.schema import Status


@dataclass(frozen=True)
class Host:
    """What doctor checks: the configuration, the sources' answers, the maps, and Postfix."""

    config: "Config"
    postfix: Postfix
    kind: IndexType
    """The type of the maps."""
    installed: Mapping[str, Table[str] | None]
    """The entries of each map by its text, None if they cannot be known."""
    answers: Mapping[str, Fetched]
    """What was fetched from each source, by its name."""
    tables: Tables
    """The tables that main.cf names; the maps among them have the entries of `served`."""
    classes: Classes
    """The address classes of the list domains."""
    upcoming: Report
    """What a sync would find and change now."""
    list_mail: Callable[[], Awaitable[ListMail]]
    """Explain the mail of the lists; that is done once, when a check needs it. Raises SyncError."""
    by_name: Callable[[str], bool] = lambda _: True
    """Whether routes may lead to a host name; see routable_names.py."""
    probes: Sequence[ProbeResult] = ()
    """The result of a probe of each destination."""
    services: tuple[Service, ...] = ()
    """The services of master.cf."""
    written: Mapping[str, str] = field(default_factory=dict)
    """The parameters that main.cf has; see `Postfix.written`."""
    warnings: Sequence[str] = ()
    """Postfix's warnings about main.cf and master.cf."""
    lookups: Mapping[str, Answer] = field(default_factory=dict)
    """The results of these lookups for `host_names`."""
    status: "Status | None" = None
    """The content of status.json, None if it cannot be read."""
    without_status: str = ""
    """Why status.json cannot be read."""
    index_types: Mapping[str, IndexType] = field(default_factory=dict)
    """By name, the map types that Postfix can build, each with the index that it opens."""
    now: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def map_type(self) -> str:
        """The type of the maps, as main.cf names it."""
        return self.kind.name

    @property
    def directory(self) -> MapDirectory:
        """The map directory."""
        return MapDirectory(self.config.postfix.map_directory, self.kind, self.postfix)

    def table(self, name: str) -> Table[str]:
        """Return the entries of an installed map; none if they cannot be known."""
        return self.installed.get(name) or table_of(name, {})

    @property
    def domains(self) -> AbstractSet[str]:
        """The mail domains of all lists: those of installed lists, and those that sources name."""
        return self.classes.domains

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """All destinations of the installed routes."""
        return next_hops_of(self.routes_in_use)

    @property
    def routes_in_use(self) -> Table[str]:
        """The installed routes of accepted addresses; none if they cannot be known."""
        return Maps({name: self.table(name) for name in MAP_NAMES}).routes_in_use

    @property
    def named(self) -> Mapping[str, AbstractSet[Destination]]:
        """The destinations that each source names, by the source's name, as they are reached."""
        return {
            name: next_hops_of(self.reached(name) or Table({}, {}))
            for name, answer in self.answers.items()
            if answer.tables
        }

    def reached(self, source: str) -> Table[str] | None:
        """Compute the routes of a source that has answered, with its next hops as a sync would.

        None if it has named no routes, or if its container cannot be reached at a port of theirs.
        """
        answer = self.answers[source]
        if not answer.tables:
            return None
        routes: Table[str] | None = answer.tables.routes
        configured = next(section for section in self.config.sources if section.name == source)
        if configured.container:
            routes = relocated(answer.tables.routes, answer.peer or Peer())
        address = self._address_of(source)
        if routes is None or not address:
            return routes
        names = {name for name in host_names(routes) if not self.by_name(name)}
        return by_address(routes, dict.fromkeys(names, address))

    @property
    def host_names(self) -> AbstractSet[str]:
        """The host names that lmtp(8) has to look up, now or after the next sync."""
        everything = {*self.destinations, *(hop for hops in self.named.values() for hop in hops)}
        return {hop.host for hop in everything if hop.is_name}

    @property
    def addresses(self) -> Mapping[str, str]:
        """The host names whose IP address the configuration determines."""
        known = {}
        for source in self.config.sources:
            address = self._address_of(source.name)
            for hop in self.named.get(source.name, ()) if address else ():
                if hop.is_name and address:
                    known[hop.host] = address
        return known

    def _address_of(self, source: str) -> str | None:
        """Return the IP address configured for a source, or that of its peer or container."""
        configured = next(section for section in self.config.sources if section.name == source)
        if configured.fixed_address or not configured.address:
            return configured.fixed_address
        answer = self.answers.get(source)
        if not answer or not answer.peer or not answer.tables:
            return None
        return host_address(answer.tables.routes, answer.peer)

    @property
    def lmtp(self) -> Service | None:
        """The service of master.cf for the transport that all routes name, None if missing."""
        return lmtp_service(self.services)

    def set_lmtp(self, parameter: str, value: str) -> str:
        """Return the command that gives lmtp(8) another value, where its current value is set."""
        if self.lmtp and parameter in self.lmtp.overrides:
            return self.edit(f"lmtp/unix/{parameter} = {value}", "-P")
        return self.edit(f"{parameter} = {value}")

    def edit(self, change: str, option: str = "-e") -> str:
        """Return the command that makes a change with postconf(1); it reloads a running Postfix."""
        return self.reloaded(fixes.command(self.postfix, "postconf", option, change))

    def reloaded(self, command: str) -> str:
        """Return a command, followed by a reload if Postfix runs."""
        return fixes.reloaded(self.postfix, command)

    def service(self, verb: str) -> str:
        """Return the command that starts or restarts Postfix; `verb` is start or restart."""
        if SYSTEMD.is_dir() and str(self.postfix.config_directory) == "/etc/postfix":
            return f"systemctl {verb} postfix"
        verbs = ["stop", "start"] if verb == "restart" else [verb]
        return " && ".join(fixes.command(self.postfix, "postfix", verb) for verb in verbs)

    def command(self, *arguments: str) -> str:
        """Return a postfix-sync command with this configuration, as an operator types it."""
        return self.config.command(*arguments)


SYSTEMD = Path("/run/systemd/system")
"""A directory that exists if systemd runs (sd_booted(3))."""


def served(
    installed: Mapping[str, Table[str] | None], answers: Mapping[str, Fetched]
) -> Mapping[str, Table[str]]:
    """Return the entries that the maps have or will have: installed, or named by a source."""
    wanted = [Maps.of(answer.tables) for answer in answers.values() if answer.tables]
    tables = {name: table_of(name, {}) for name in MAP_NAMES}
    for maps in wanted:
        tables = {name: table | maps[name] for name, table in tables.items()}
    return {name: table | (installed.get(name) or table) for name, table in tables.items()}
