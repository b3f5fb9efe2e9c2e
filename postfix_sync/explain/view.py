"""What explain needs to know of this host before it asks about an address."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError
from postfix_sync.explain import paths, rewriting
from postfix_sync.explain.rewriting import Cleanup
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.model.map_names import ALIASES
from postfix_sync.model.maps import Maps
from postfix_sync.model.table import Table
from postfix_sync.postfix.instance import Postfix, list_file
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.main_cf.parameter import Installation
from postfix_sync.postfix.map_directory import installed_maps
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.mynetworks import matches
from postfix_sync.postfix.queue import without_extensions
from postfix_sync.postfix.restrictions import restrictions
from postfix_sync.postfix.smtp_listeners import LOOPBACK, Listener, smtp_listeners
from postfix_sync.system.interfaces import is_own, toward

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

NOWHERE = Path("/nonexistent")

DOCUMENTATION = ip_address("192.0.2.1")
"""An address that is on no network (RFC 5737): its route is the default route."""


@dataclass(frozen=True)
class View:
    """One Postfix as explain sees it."""

    config: "Config"
    postfix: Postfix
    services: Sequence[Service]
    listeners: Sequence[Listener]
    parameters: Mapping[str, str]
    """The parameters of main.cf that decide here, $names expanded."""
    installed: Maps
    """The installed maps, by their texts."""
    routes: Table[str]
    """The installed routes of accepted addresses."""
    tables: Tables
    """The tables that main.cf names, all of them queried with postmap(1), ours too."""
    lines: Mapping[str, int]
    """The parameters that main.cf sets, each with the number of its last line, which counts."""

    def list_entry(self, address: str) -> tuple[str, str] | None:
        """Return the installed address without extension and its route; None if it is not a list's.

        Addresses of aliases count with the route of the address that they lead to.
        """
        delimiters = self.postfix.parameters["recipient_delimiter"]
        aliases = self.installed[ALIASES]
        for key in without_extensions(self.postfix.fold(address), delimiters):
            target = aliases.get(key, key)
            if target in self.routes:
                return key, self.routes[target]
        return None

    def cleanup(self, passage: paths.Passage) -> Cleanup:
        """Return the cleanup(8) of a passage."""
        parameters = {**self.parameters, **passage.overrides}
        names = [*items(self.postfix.parameters["mydestination"].lower())]
        local = {parameters["myorigin"].lower(), *(name for name in names if ":" not in name)}

        def place(name: str) -> str:
            overridden = f"{name} (-o at {passage.cleanup} in master.cf)"
            return overridden if name in passage.overrides else self.place(name)

        return Cleanup(passage.cleanup, parameters, self.tables, place, frozenset(local))

    async def stranger(self, listener: Listener) -> tuple[Listener, str] | None:
        """Return how to ask a listener as a stranger: where, and from which address of this host.

        None if all addresses of this host are trusted, or the listener is postscreen(8), which
        makes strangers wait.
        """
        own = paths.effective(listener, self.services, self.parameters)
        restrictions = f"{own['smtpd_relay_restrictions']} {own['smtpd_recipient_restrictions']}"
        waits = listener.service.command == "postscreen" or listener.other_protocol
        if waits or "permit_inet_interfaces" in restrictions:
            return None
        places = [(listener, "127.0.0.2" if listener.host == LOOPBACK[0] else listener.host)]
        everywhere = ":" not in listener.service.name and listener.host in LOOPBACK
        if everywhere and (outside := toward(DOCUMENTATION)):
            places.append((replace(listener, host=outside), outside))
        for place, address in places:
            usable = address != "::1" and is_own(address)
            if usable and not await matches(self.postfix, ip_address(address), own["mynetworks"]):
                return place, address
        return None

    def place(self, parameter: str) -> str:
        """Return a parameter with its line in main.cf, for messages."""
        line = self.lines.get(parameter)
        return f"{parameter} (main.cf:{line})" if line else f"{parameter} (default)"

    @property
    def rewrite_socket(self) -> Path:
        """Return the socket of the trivial-rewrite(8) that qmgr(8) asks."""
        qmgr = next((one for one in self.services if one.command in {"qmgr", "oqmgr"}), None)
        overrides = qmgr.overrides if qmgr else {}
        name = overrides.get("rewrite_service_name", self.parameters["rewrite_service_name"])
        return self.postfix.queue_directory / "private" / name

    @property
    def rewrite_overrides(self) -> Mapping[str, str]:
        """Return the parameters of main.cf that this trivial-rewrite(8) overrides."""
        name = self.rewrite_socket.name
        found = (one for one in self.services if one.command == "trivial-rewrite")
        return next((one.overrides for one in found if one.name == name), {})


def samples_of(table: Table[str]) -> list[str]:
    """Return the first list of each domain, by name."""
    found: dict[str, str] = {}
    for name in sorted(table.names()):
        found.setdefault(domain_of(name), name)
    return list(found.values())


async def view_of(
    config: "Config", postfix: Postfix, unreadable: Mapping[str, SyncError] | None = None
) -> View:
    """Gather what explain needs of an instance. Raises SyncError.

    `unreadable` are tables that are known not to answer, each with the error: they are not queried.
    """
    installed = installed_maps(config.postfix.map_directory)
    services = await postfix.services()
    return View(
        config=config,
        postfix=postfix,
        services=services,
        listeners=await smtp_listeners(postfix),
        parameters={
            **(await postfix.values(*paths.PARAMETERS, *rewriting.PARAMETERS)),
            **(await restrictions(postfix, services)),
        },
        installed=installed,
        routes=installed.routes_in_use,
        tables=Tables(postfix, Installation(NOWHERE, ""), {}, unreadable=dict(unreadable or {})),
        lines=_lines(list_file(str(postfix.config_directory / "main.cf"))),
    )


def _lines(main_cf: str) -> dict[str, int]:
    lines = enumerate(main_cf.split("\n"), 1)
    found = ((re.match(r"(\w+)\s*=", line), number) for number, line in lines)
    return {match[1]: number for match, number in found if match}
