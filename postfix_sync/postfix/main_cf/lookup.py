"""What Postfix finds in the tables that main.cf names, asked with postmap(1) as its daemons would.

postfix-sync's own maps, and Mailman's files where main.cf names those, are not asked: they count as
if they were installed, which they may not be yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from postfix_sync.errors import ApplyError, SyncError, why
from postfix_sync.model import Table
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.parameter import Installation, type_of
from postfix_sync.postfix.match_list import PATTERN_TYPES, items, unproxied
from postfix_sync.system.files import read_file

TIMEOUT = 10.0
"""Seconds that one table may take: it may be another host's."""


class Found(NamedTuple):
    """An entry, and the table that has it, as main.cf names that."""

    table: str
    key: str
    value: str


@dataclass
class Tables:
    """The tables of one Postfix; each is asked for a key once at most."""

    postfix: Postfix
    ours: Installation
    own: Mapping[str, Table]
    """The entries of the maps, by name."""
    queries_others: bool = True
    """Whether tables that are not ours are asked: one may be on another host, and hang."""
    unreadable: dict[str, SyncError] = field(default_factory=dict)
    """The tables, and the files with lists of domains, that can't be read, and why."""
    _held: dict[str, dict[str, str]] = field(default_factory=dict)
    _queried: dict[str, set[str]] = field(default_factory=dict)

    def read(self, path: str) -> str | None:
        """The content of a file that a list in main.cf names; None where it can't be read."""
        try:
            return read_file(Path(path)).decode("utf-8", "replace")
        except OSError as error:
            self.unreadable[path] = ApplyError(f"{path}: {why(error)}")
            return None

    def error(self, value: str) -> SyncError | None:
        """Why one of the tables in a parameter's value can't be asked, as far as it was tried."""
        tables = (unproxied(item.lstrip("!")) for item in items(value))
        return next((self.unreadable[table] for table in tables if table in self.unreadable), None)

    def name(self, table: str) -> str:
        """The map of ours, or Mailman's file, that a table is; else nothing."""
        return self.ours.named(table) or self.ours.of_mailman(table)

    async def query(self, table: str, keys: Iterable[str]) -> Table:
        """What a table holds, for `keys` at least; nothing where it can't be asked."""
        if name := self.name(table):
            return self.own.get(name, {})
        table = unproxied(table)
        if not self.queries_others:
            self.unreadable[table] = ApplyError(f"{table}: is not asked by a sync")
        held = self._held.setdefault(table, {})
        queried = self._queried.setdefault(table, set())
        if table not in self.unreadable and (new := set(keys) - queried):
            queried |= new
            try:
                held.update(await self.postfix.look_up(table, sorted(new), timeout=TIMEOUT))
            except SyncError as error:
                self.unreadable[table] = error
        return held

    async def find(self, value: str, keys: Sequence[str]) -> Found | None:
        """The first entry for an address in the tables of a parameter's value.

        `keys` are the forms in which they are asked for it, the whole address first. Each form goes
        through all tables before the next does (maps_find(3), mail_addr_find(3)), and tables of
        patterns see the whole address only.
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
