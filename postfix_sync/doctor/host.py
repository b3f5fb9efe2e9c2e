"""What the checks of doctor look at: one host, examined once."""

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.containers.relocate import by_address, host_address, relocated
from postfix_sync.model import MAP_NAMES, Destination, Maps, Peer, ProbeResult, Table
from postfix_sync.postfix.index_type import IndexType
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.lmtp_resolver import Answer, Resolver
from postfix_sync.postfix.main_cf import fixes
from postfix_sync.postfix.main_cf.classes import Classes
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.master_cf import LMTP, Service
from postfix_sync.postfix.next_hop import host_names, next_hops_of
from postfix_sync.reconcile.fetch import Fetched
from postfix_sync.reconcile.report import Report

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.status.schema import Status


@dataclass(frozen=True)
class Host:
    """What doctor looks at: the configuration, the sources' answers, the maps, and Postfix."""

    config: "Config"
    postfix: Postfix
    kind: IndexType
    """The type of the maps."""
    installed: Mapping[str, Table | None]
    """The entries of each map after its text, None where they can't be known."""
    answers: Mapping[str, Fetched]
    """What each source said just now, by name."""
    tables: Tables
    """The tables that main.cf names; the maps in them are as `served` says."""
    classes: Classes
    """The address classes of the domains that are served."""
    upcoming: Report
    """What a pass would find and change now."""
    by_name: Callable[[str], bool] = lambda _: True
    """Which host names routes may lead to; see routable_names.py."""
    probes: Sequence[ProbeResult] = ()
    """What each destination said just now."""
    services: tuple[Service, ...] = ()
    """Those of master.cf."""
    written: Mapping[str, str] = field(default_factory=dict)
    """The parameters that main.cf has; see `Postfix.written`."""
    warnings: Sequence[str] = ()
    """What Postfix finds odd about main.cf and master.cf."""
    resolver: Resolver | None = None
    """How lmtp(8) looks names up."""
    lookups: Mapping[str, Answer] = field(default_factory=dict)
    """What that comes to for the host names that mail goes to."""
    status: "Status | None" = None
    """status.json, if there is one that can be read."""
    without_status: str = ""
    """Why there is none."""
    index_types: Mapping[str, IndexType] = field(default_factory=dict)
    """By name, the map types that can be built, and which index Postfix opens for each."""
    now: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def map_type(self) -> str:
        """The type of the maps, as main.cf names it."""
        return self.kind.name

    @property
    def directory(self) -> MapDirectory:
        """Where the maps are."""
        return MapDirectory(self.config.postfix.map_directory, self.kind, self.postfix)

    def table(self, name: str) -> Table:
        """The entries of an installed map, none where they can't be known."""
        return self.installed.get(name) or {}

    @property
    def domains(self) -> AbstractSet[str]:
        """The mail domains of all lists: those that are installed, and those that sources name."""
        return self.classes.domains

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """All that mail is routed to at the moment."""
        return next_hops_of(self.routes_in_use)

    @property
    def routes_in_use(self) -> Table:
        """The installed routes of what is accepted, none where they can't be known."""
        return Maps({name: self.table(name) for name in MAP_NAMES}).routes_in_use

    @property
    def named(self) -> Mapping[str, AbstractSet[Destination]]:
        """The destinations that each source named just now, by its name, as they are reached."""
        return {
            name: next_hops_of(self.reached(name) or {})
            for name, answer in self.answers.items()
            if answer.tables
        }

    def reached(self, source: str) -> Table | None:
        """Compute the routes of a source that has answered, with its next hops as a sync would.

        None if it has named no routes, or its container is not reached at one of them.
        """
        answer = self.answers[source]
        if not answer.tables:
            return None
        routes: Table | None = answer.tables.routes
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
        """What has to be looked up for mail to be delivered, now or after the next pass."""
        everything = {*self.destinations, *(hop for hops in self.named.values() for hop in hops)}
        return {hop.host for hop in everything if hop.is_name}

    @property
    def addresses(self) -> Mapping[str, str]:
        """The host names that the configuration has an IP address for."""
        known = {}
        for source in self.config.sources:
            address = self._address_of(source.name)
            for hop in self.named.get(source.name, ()) if address else ():
                if hop.is_name and address:
                    known[hop.host] = address
        return known

    def _address_of(self, source: str) -> str | None:
        """The IP address that is configured for a source, or that of its peer or container."""
        configured = next(section for section in self.config.sources if section.name == source)
        if configured.fixed_address or not configured.address:
            return configured.fixed_address
        answer = self.answers.get(source)
        if not answer or not answer.peer or not answer.tables:
            return None
        return host_address(answer.tables.routes, answer.peer)

    @property
    def lmtp(self) -> Service | None:
        """The transport that all routes name."""
        return next(
            (service for service in self.services if (service.name, service.kind) == LMTP), None
        )

    def set_lmtp(self, parameter: str, value: str) -> str:
        """The command that gives lmtp(8) another value, where it has the present one from."""
        if self.lmtp and parameter in self.lmtp.overrides:
            return self.edit(f"lmtp/unix/{parameter} = {value}", "-P")
        return self.edit(f"{parameter} = {value}")

    def edit(self, change: str, option: str = "-e") -> str:
        """The command that makes a change with postconf(1), and has a Postfix that runs see it."""
        return self.reloaded(fixes.command(self.postfix, "postconf", option, change))

    def reloaded(self, command: str) -> str:
        """A command, and one that has a Postfix that runs see what it did."""
        return fixes.reloaded(self.postfix, command)

    def service(self, verb: str) -> str:
        """The command that starts or restarts Postfix."""
        if SYSTEMD.is_dir() and str(self.postfix.config_directory) == "/etc/postfix":
            return f"systemctl {verb} postfix"
        verbs = ["stop", "start"] if verb == "restart" else [verb]
        return " && ".join(fixes.command(self.postfix, "postfix", verb) for verb in verbs)

    def command(self, *arguments: str) -> str:
        """postfix-sync itself with this configuration, as an operator types it."""
        return self.config.command(*arguments)


SYSTEMD = Path("/run/systemd/system")
"""It is there where systemd runs (sd_booted(3))."""


def served(
    installed: Mapping[str, Table | None], answers: Mapping[str, Fetched]
) -> Mapping[str, Table]:
    """The entries that the maps have, or will have: installed ones, and those that sources name."""
    wanted = [Maps.of(answer.tables) for answer in answers.values() if answer.tables]
    return {
        name: {
            **{key: value for maps in wanted for key, value in maps[name].items()},
            **(installed.get(name) or {}),
        }
        for name in MAP_NAMES
    }
