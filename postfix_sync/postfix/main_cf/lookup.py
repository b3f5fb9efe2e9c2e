"""Query the tables that main.cf names with postmap(1), as Postfix's daemons do.

postfix-sync's own maps are not queried, nor are Mailman's files if main.cf names those: they count
as if the desired entries were installed already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from postfix_sync.errors import ApplyError, SyncError, TimedOut, why
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.model.table import Table
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.parameter import Installation, type_of
from postfix_sync.postfix.match_list import PATTERN_TYPES, below, items, keys, unproxied
from postfix_sync.postfix.queue import without_extension
from postfix_sync.system.files import read_file

TIMEOUT = 10.0
"""Seconds that a query of a table may take: the table may be on another host."""


SERVERS = frozenset({"ldap", "memcache", "mongodb", "mysql", "pgsql", "socketmap", "tcp"})
"""Table types that query a server (DATABASE_README)."""


class Found(NamedTuple):
    """An entry, and the table that has it, as main.cf names the table."""

    table: str
    key: str
    value: str


@dataclass
class Tables:
    """The tables of one Postfix; each is queried for a key once at most."""

    postfix: Postfix
    ours: Installation
    own: Mapping[str, Table[str]]
    """The entries of the maps, by name."""
    queries_others: bool = True
    """Whether to query tables that are not ours: such a table may be on another host, and hang."""
    unreadable: dict[str, SyncError] = field(default_factory=dict)
    """The tables, and the files with lists of domains, that cannot be read, each with the error."""
    _held: dict[str, dict[str, str]] = field(default_factory=dict)
    _queried: dict[str, set[str]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    """What `name` has found: comparing paths takes longer than the rest of a lookup."""

    def read(self, path: str) -> str | None:
        """Read a file that a list in main.cf names; return None if it cannot be read."""
        try:
            return read_file(Path(path)).decode("utf-8", "replace")
        except OSError as error:
            self.unreadable[path] = ApplyError(f"{path}: {why(error)}")
            return None

    def error(self, value: str) -> SyncError | None:
        """Return the error of a table in a parameter's value whose query has failed, if any has."""
        tables = (unproxied(item.lstrip("!")) for item in items(value))
        return next((self.unreadable[table] for table in tables if table in self.unreadable), None)

    def name(self, table: str) -> str:
        """Return the name of the map, ours or Mailman's file, that a table is; empty for others."""
        if table not in self._names:
            self._names[table] = self.ours.named(table) or self.ours.of_mailman(table)
        return self._names[table]

    async def query(self, table: str, keys: Iterable[str]) -> Mapping[str, str]:
        """Return entries of a table, at least those for `keys`; none if it cannot be queried."""
        if name := self.name(table):
            return self.own.get(name, {})
        table = unproxied(table)
        if not self.queries_others:
            self.unreadable[table] = ApplyError(f"{table}: a sync does not query it")
        held = self._held.setdefault(table, {})
        queried = self._queried.setdefault(table, set())
        if table not in self.unreadable and (new := set(keys) - queried):
            queried |= new
            try:
                self._check_answers(table)
                held.update(await self.postfix.postmap.look_up(table, sorted(new), timeout=TIMEOUT))
            except SyncError as error:
                self.unreadable[table] = error
        return held

    def _check_answers(self, table: str) -> None:
        """Raise TimedOut if another table of the same type of server did not answer in time.

        Several tables are often on one server; a server that hangs costs one timeout then.
        """
        kind = type_of(table)
        for other, error in self.unreadable.items():
            if kind in SERVERS and type_of(other) == kind and isinstance(error, TimedOut):
                raise TimedOut(f"{table}: not queried, as {other} did not answer")

    async def find(self, value: str, keys: Sequence[str]) -> Found | None:
        """Find the first entry for an address in the tables of a parameter's value.

        `keys` are the forms of the address to look up, the whole address first. Postfix looks up
        each form in all tables before the next form (maps_find(3), mail_addr_find(3)), and queries
        tables of patterns only for the whole address.
        """
        tables = [item for item in items(value) if ":" in item]
        for table in tables:
            await self.query(table, keys)
        for key in keys:
            for table in tables:
                if key != keys[0] and type_of(table) in PATTERN_TYPES:
                    continue
                if (found := (await self.query(table, [key])).get(key)) is not None:
                    return Found(table, key, found)
        return None

    async def find_all(
        self, value: str, forms: Mapping[str, Sequence[str]]
    ) -> list[tuple[str, Found]]:
        """Return the addresses that an entry is found for, each with the entry; see `find`.

        Each table is queried once, for all forms of all addresses.
        """
        every = {key for keys_ in forms.values() for key in keys_}
        for table in items(value):
            if ":" in table:
                await self.query(table, every)
        found = [(address, await self.find(value, keys_)) for address, keys_ in forms.items()]
        return [(address, entry) for address, entry in found if entry]


def alias_forms(address: str, delimiters: str, *, local: bool) -> list[str]:
    """Return the forms of an address that Postfix looks up in virtual_alias_maps (virtual(5)).

    If its domain is `local`, that includes the local part alone. canonical(5) and the tables of
    recipients have the same forms (mail_addr_find.c).
    """
    bare = without_extension(address, delimiters)
    short = [each.rpartition("@")[0] for each in (address, bare)] if local else []
    return list(dict.fromkeys([address, bare, *short, f"@{domain_of(address)}"]))


def transport_forms(postfix: Postfix, address: str) -> list[str]:
    """Return the forms of an address that Postfix looks up in transport_maps (transport(5))."""
    bare = without_extension(address, postfix.parameters["recipient_delimiter"])
    style = below("transport_maps", postfix.parameters["parent_domain_matches_subdomains"])
    domains = keys("", address.rpartition("@")[2], style)
    return list(dict.fromkeys([address, bare, *domains, "*"]))


def access_forms(postfix: Postfix, address: str) -> list[str]:
    """Return the forms of an address that smtpd(8) looks up in an access table (access(5))."""
    bare = without_extension(address, postfix.parameters["recipient_delimiter"])
    style = below("smtpd_access_maps", postfix.parameters["parent_domain_matches_subdomains"])
    domains = keys("", domain_of(address), style)
    local_parts = [f"{each.rpartition('@')[0]}@" for each in (address, bare)]
    return list(dict.fromkeys([address, bare, *domains, *local_parts]))
