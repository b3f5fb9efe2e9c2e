"""Render the tables of a Mailman as JSON, by list, and read them back. Pure."""

from collections.abc import Callable, Mapping
from itertools import groupby, islice
from typing import NotRequired, TypedDict

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.selection import keys_by_value
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.store.json_reader import Damaged, shaped


class TablesJson(TypedDict):
    """The tables of a Mailman: lists and single addresses by next hop; aliases by name.

    `order`, if it is there, is that of `order_of`.
    """

    lists: dict[str, list[str]]
    order: NotRequired[list[int]]
    addresses: dict[str, list[str]]
    domains: dict[str, str]
    aliases: dict[str, str]
    address_aliases: dict[str, str]


class _ByAddress(TypedDict):
    """The tables as earlier versions wrote them.

    `routes` has the next hop of each address, or the addresses of each next hop.
    """

    routes: dict[str, str | list[str]]
    domains: dict[str, str]
    aliases: dict[str, str]


def as_json(tables: MailmanTables) -> TablesJson:
    """Return tables as JSON, with the lists of each next hop in the order of the table."""
    return {
        "lists": keys_by_value(tables.routes.lists),
        "addresses": keys_by_value(tables.routes.others),
        "domains": dict(tables.domains),
        "aliases": dict(tables.aliases.lists),
        "address_aliases": dict(tables.aliases.others),
    }


def from_json(document: object, check_next_hop: Callable[[str], object]) -> MailmanTables:
    """Return the tables of a document that `as_json` made.

    `check_next_hop` raises ValueError for a next hop that can't be one. Raises ValueError if the
    document is damaged.
    """
    if isinstance(document, dict) and "routes" in document:
        old = shaped(document, _ByAddress)
        next_hops = {key for key, value in old["routes"].items() if not isinstance(value, str)}
        tables = _by_address(old)
    else:
        found = shaped(document, TablesJson)
        next_hops = found["lists"].keys() | found["addresses"].keys()
        tables = MailmanTables(
            Table.of_lists(
                _in_order(found["lists"], found["order"])
                if "order" in found
                else by_name(found["lists"]),
                by_name(found["addresses"]),
            ),
            found["domains"],
            Aliases.of_lists(found["aliases"], found["address_aliases"]),
        )
    for next_hop in tables.routes.distinct_values() | next_hops:
        check_next_hop(next_hop)
    if tables.aliases.targets().beyond(tables.routes):
        raise Damaged("an alias has no route")
    for table in (tables.routes, tables.aliases):
        _check_lines(table.lists)
        _check_lines(table.others)
    _check_lines(tables.domains)
    return tables


def order_of(tables: MailmanTables, document: TablesJson) -> list[int]:
    """Return the order of the lists of tables, which `as_json` has made a document of.

    That is the number of a next hop in the document, how many lists of it follow, and so on.
    """
    lists = tables.routes.lists
    if len(document["lists"]) == 1:
        return [0, len(lists)]
    numbers = {next_hop: number for number, next_hop in enumerate(document["lists"])}
    runs = groupby(map(numbers.__getitem__, lists.values()))
    return [part for number, run in runs for part in (number, sum(1 for _ in run))]


def _in_order(by_next_hop: Mapping[str, list[str]], order: list[int]) -> dict[str, str]:
    """Return the next hop of each list, in the `order`. Raises Damaged if it is another one's."""
    names = [(next_hop, iter(several)) for next_hop, several in by_next_hop.items()]
    found: dict[str, str] = {}
    for number, count in zip(order[::2], order[1::2], strict=False):
        if not (0 <= number < len(names) and count > 0):
            break
        next_hop, several = names[number]
        found.update(dict.fromkeys(islice(several, count), next_hop))
    if len(found) != sum(map(len, by_next_hop.values())):
        raise Damaged('"order" is not that of the lists')
    return found


def _check_lines(entries: Mapping[str, str]) -> None:
    """Check that each entry can be a line of a map. Raises Damaged."""
    keys, values = "\n".join(entries), "\n".join({*entries.values()})
    if not f"{keys}{values}".replace("\n", "").isprintable() or " " in keys:
        raise Damaged("an entry has a blank or a control character")
    if "" in entries or "" in entries.values() or "\n#" in f"\n{keys}":
        raise Damaged("an entry can't be a line of a map")


def by_name(names: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the value of each key; the inverse of `keys_by_value`."""
    found: dict[str, str] = {}
    for value, several in names.items():
        found.update(dict.fromkeys(several, value))
    return found


def _by_address(found: _ByAddress) -> MailmanTables:
    routes: dict[str, str] = {}
    for key, value in found["routes"].items():
        if isinstance(value, str):
            routes[key] = value
        else:
            routes.update(dict.fromkeys(value, key))
    return MailmanTables.of(routes, found["domains"], found["aliases"])
