"""The four maps that Postfix uses, and the difference of two tables. Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.map_names import ALIASES, DOMAINS, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table


@dataclass(frozen=True)
class Maps:
    """The four tables of map_directory, by name."""

    tables: Mapping[str, Table[str]]

    def __getitem__(self, name: str) -> Table[str]:
        return self.tables[name]

    @classmethod
    def of(cls, tables: MailmanTables) -> "Maps":
        """Return the maps for the tables of one or several Mailmans.

        If a mail host has an alias_domain, Mailman omits the mail host from postfix_domains and
        writes aliases from the mail host to the alias domain. The maps have the mail host, because
        its addresses are accepted.

        Each recipient has itself as its value. Postfix ignores the value where the map lists
        recipients; in virtual_alias_maps, it makes each address an alias of itself, which keeps a
        catch-all from taking the mail of a list.
        """
        hosts = {host: host for host in sorted(tables.aliases.domains())}
        return cls(
            {
                ROUTES: tables.routes,
                RECIPIENTS: Aliases.of_itself(tables.routes),
                DOMAINS: Table.of({**hosts, **tables.domains}),
                ALIASES: tables.aliases,
            }
        )

    @property
    def routes_in_use(self) -> Table[str]:
        """Return the routes of accepted addresses, without those of removed lists."""
        return self[ROUTES].common(self[RECIPIENTS])

    def beside(self, others: AbstractSet[str]) -> "Maps":
        """Return the maps without the mail hosts of aliases that main.cf accepts already.

        `others` are the domains that main.cf names apart from the maps.
        """
        spare = (self[ALIASES].domains() & others) - self[RECIPIENTS].domains()
        return Maps({**self.tables, DOMAINS: self[DOMAINS].without(spare)})

    def served(self) -> MailmanTables:
        """Return the tables of the accepted addresses that have a route; the inverse of `of`.

        The routes of removed lists, kept while mail for them is queued, are not in the result.
        """
        routes = self.routes_in_use
        aliases = Aliases.of(self[ALIASES])
        unrouted = aliases.targets().beyond(routes)
        lost = [key for key, target in aliases.items() if target in unrouted] if unrouted else []
        return MailmanTables(routes, dict(self[DOMAINS]), aliases.without(lost))


def table_of(name: str, entries: Mapping[str, str]) -> Table[str]:
    """Return the table of the map `name` with these entries."""
    return kind_of(name).of(entries)


def kind_of(name: str) -> type[Table[str]]:
    """Return the class of the table of the map `name`."""
    return Aliases if name in (ALIASES, RECIPIENTS) else Table


class Change(NamedTuple):
    """The values of one entry that changed."""

    old: str
    new: str


@dataclass(frozen=True)
class Diff:
    """The entries that turn one table into another."""

    added: Table[str]
    removed: Table[str]
    changed: Table[Change]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)

    @classmethod
    def between(cls, old: Table[str], new: Table[str]) -> "Diff":
        """Return the entries to add, remove and change to turn `old` into `new`."""
        if old == new:  # the most frequent case, and a fast comparison
            return cls(Table({}, {}), Table({}, {}), Table({}, {}))
        added, parts_of_new = new.divided(old)
        removed, parts_of_old = old.divided(new)
        return cls(added, removed, _changed(old, new, parts_of_new | parts_of_old))


def differences(old: Maps, new: Maps) -> dict[str, Diff]:
    """Return by map what turns `old` into `new`."""
    diffs = {name: Diff.between(old[name], new[name]) for name in MAP_NAMES if name != RECIPIENTS}
    if all(maps[RECIPIENTS].has_addresses_of(maps[ROUTES]) for maps in (old, new)):
        routes = diffs[ROUTES]
        added, removed = Aliases.of_itself(routes.added), Aliases.of_itself(routes.removed)
        return {**diffs, RECIPIENTS: Diff(added, removed, Table({}, {}))}
    return {**diffs, RECIPIENTS: Diff.between(old[RECIPIENTS], new[RECIPIENTS])}


def _changed(old: Table[str], new: Table[str], parts: AbstractSet[str]) -> Table[Change]:
    """Return the entries whose values differ; `parts` are lists that one of both has in part."""
    lists = {
        name: Change(old.lists[name], value)
        for name, value in (new.lists.items() if _may_differ(old.lists, new.lists) else ())
        if old.lists.get(name, value) != value
    }
    if isinstance(new, Aliases):  # each address of a list leads to another one
        parts, lists = parts | lists.keys(), {}
    loose = {*old.others, *new.others, *(key for name in parts for key in addresses_of(name))}
    return Table.of(
        {
            key: Change(old[key], new[key])
            for key in loose
            if key in old and key in new and old[key] != new[key]
        }
    ) | Table(lists, {})


def _may_differ(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Return whether a name may have two values.

    In most tables, all names have the same next hop, or each is its own value.
    """
    if all([*names] == [*names.values()] for names in (old, new)):
        return False
    return len({*old.values(), *new.values()}) > 1
