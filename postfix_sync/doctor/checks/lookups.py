"""What Postfix finds for the addresses of lists in all tables of main.cf, not only in the maps.

A table of somebody else's may answer first: one that has the very address, or whose patterns match
it. Entries for a whole domain, or `*`, don't, wherever they stand: Postfix asks all tables for the
address before it asks one of them for less (maps_find(3)).
"""

import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

from postfix_sync.doctor.checks.files import FILE_TYPES, opened_file
from postfix_sync.doctor.checks.main_cf import lacking
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.mailman.addresses import lists_of
from postfix_sync.model import ALIASES, INDEX_SUFFIX, RECIPIENTS, ROUTES, Finding
from postfix_sync.postfix.main_cf import fixes
from postfix_sync.postfix.main_cf.classes import CLASSES, ROLES
from postfix_sync.postfix.main_cf.fixes import Setting, command
from postfix_sync.postfix.main_cf.lookup import Found, Tables
from postfix_sync.postfix.main_cf.parameter import path_of, type_of, written
from postfix_sync.postfix.match_list import below, items, keys
from postfix_sync.postfix.queue import without_extension
from postfix_sync.system.files import read_file

MOST = 1000
"""How many lists are looked up: a table may be in a database on another host."""

LISTED = frozenset({*ROLES, *CLASSES})
"""The parameters whose tables all mail depends on."""


async def routes(host: Host) -> AsyncIterator[Finding]:
    """transport_maps leads each list to its Mailman, whatever else it names."""
    taken = await _taken_routes(host, await _value(host, "transport_maps"))
    if not taken:
        if error := host.tables.error(host.postfix.parameters["transport_maps"]):
            yield _unanswered("routes", error, "another table routes mail to a list elsewhere")
        else:
            yield ok("routes", "no other table of transport_maps has a route for a list's address")
        return
    change = maps_first(host)
    left = await _taken_routes(host, await _expanded(host, change))
    edits = [_leaving_out(host, table) for table in sorted({entry.table for _, entry in left})]
    address, found = taken[0]
    why = "that table answers before postfix_lmtp does, so mail to the list goes there"
    if left:
        why += "; its patterns must leave out what comes to lists with a + in its address"
    fix = None
    if all(edits):
        built = [] if host.directory.is_built else [host.command("--once")]
        edit = fixes.change(host.postfix, change)
        fix = host.reloaded(" && ".join([*built, edit, *filter(None, edits)]))
    yield failure("routes", f"{address}: {found.table} says {found.value}", why, fix)


async def order(host: Host) -> Setting | None:
    """transport_maps with the map in front, where another table answers first; else None."""
    taken = await _taken_routes(host, await _value(host, "transport_maps"))
    return maps_first(host) if taken else None


def maps_first(host: Host) -> Setting:
    """transport_maps with the map in front of all other tables."""
    parameter, first = "transport_maps", host.tables.ours.reference(ROUTES)
    lacks = next(
        (setting.wanted for setting in lacking(host) if setting.parameter == parameter), None
    )
    text = written(host.postfix, parameter) if lacks is None else lacks
    return Setting(
        parameter,
        host.postfix.unexpanded[parameter],
        ", ".join([first, *(table for table in items(text) if table != first)]),
        f"{parameter} names other tables that route mail to lists elsewhere, and {first} not before"
        " them",
    )


async def _expanded(host: Host, setting: Setting) -> str:
    values = await host.postfix.expanded({setting.parameter: setting.wanted})
    return values[setting.parameter]


def _unanswered(name: str, error: SyncError, what: str) -> Finding:
    why = f"can't tell whether {what}, before that table answers"
    return warning(name, error.message, why)


def _leaving_out(host: Host, table: str) -> str | None:
    """The command that keeps bounces and confirmations of lists from a table of patterns.

    Of no other addresses it changes anything (regexp_table(5), pcre_table(5)).
    """
    path = Path(path_of(table))
    if type_of(table) not in {"regexp", "pcre"} or not path.is_file():
        return None
    domains = "|".join(re.escape(domain) for domain in sorted(host.domains))
    condition = rf"if !/-(bounces|confirm)\+[^@]*@({domains})$/"
    # sed(1) takes a backslash in a text for itself.
    text = condition.replace("\\", "\\\\")
    return shlex.join(["sed", "-i", "-e", f"1i {text}", "-e", "$a endif", str(path)])


async def _value(host: Host, parameter: str) -> str:
    """A parameter as it will be, with what is lacking in it, $names expanded."""
    for setting in lacking(host):
        if setting.parameter == parameter:
            return await _expanded(host, setting)
    return host.postfix.parameters[parameter]


def _addresses(host: Host) -> list[str]:
    """The addresses of lists, and some to which bounces come."""
    lists = sorted(lists_of(host.tables.own[RECIPIENTS]))[:MOST]
    return [address for name in lists for address in (name, name.replace("@", "-bounces+1a2b3c@"))]


async def _taken_routes(host: Host, value: str) -> list[tuple[str, Found]]:
    """The addresses that another table routes elsewhere."""
    delimiters = host.postfix.parameters["recipient_delimiter"]
    style = below("transport_maps", host.postfix.parameters["parent_domain_matches_subdomains"])
    own = host.tables.own[ROUTES]
    asked = {
        address: [address, bare, *keys("", address.rpartition("@")[2], style), "*"]
        for address in _addresses(host)
        if (bare := without_extension(address, delimiters)) in own
    }
    found = await _find_all(host.tables, value, asked)
    return [
        (address, entry)
        for address, entry in found
        if entry.value != own[without_extension(address, delimiters)]
    ]


async def _find_all(
    tables: Tables, value: str, asked: dict[str, list[str]]
) -> list[tuple[str, Found]]:
    for table in items(value):
        if ":" in table:
            await tables.query(table, {key for forms in asked.values() for key in forms})
    every = [(address, await tables.find(value, forms)) for address, forms in asked.items()]
    return [(address, entry) for address, entry in every if entry]


async def aliases(host: Host) -> AsyncIterator[Finding]:
    """virtual_alias_maps takes no list's mail to somebody else."""
    delimiters = host.postfix.parameters["recipient_delimiter"]
    own = host.tables.own[ALIASES]
    asked = {}
    for address in (*_addresses(host), *sorted(own)[:MOST]):
        local, _, domain = address.rpartition("@")
        bare = without_extension(address, delimiters)
        # virtual(5): the local part alone counts where the domain is a local one.
        short = [local, bare.rpartition("@")[0]] if domain in host.classes.local else []
        asked[address] = [address, bare, *short, f"@{domain}"]
    found = await _find_all(host.tables, await _value(host, "virtual_alias_maps"), asked)
    taken = [
        (address, entry)
        for address, entry in found
        if entry.value != own.get(address) and address not in items(entry.value.lower())
        if without_extension(address, delimiters) not in items(entry.value.lower())
    ]
    if not taken:
        unknown = next(iter(host.classes.unknown.values()), None)
        if error := host.tables.error(host.postfix.parameters["virtual_alias_maps"]) or unknown:
            yield _unanswered("aliases", error, "a virtual alias takes the mail of a list")
        else:
            yield ok("aliases", "no virtual alias takes the mail of a list")
        return
    address, entry = taken[0]
    # Others get their mail by it, too: without it, that would be refused.
    wide = entry.key not in {address, without_extension(address, delimiters)}
    yield failure(
        "aliases",
        f"{address}: {entry.table} has {entry.key}, for {entry.value}",
        "virtual aliases come before routes: mail to the list goes there instead"
        + (_OTHERS_NEED_IT if wide else ""),
        None if wide else _without_entry(host, entry),
    )


_OTHERS_NEED_IT = (
    ". The entry stands for other addresses, too, which would be refused without it. To keep the"
    " list out of it, add aliases that lead each of its addresses to itself"
)


def _without_entry(host: Host, entry: Found) -> str | None:
    """The command that makes an entry a comment, where its table has a text."""
    kind, path = type_of(entry.table), Path(path_of(entry.table))
    try:
        text = read_file(path).decode("utf-8", "replace") if kind in INDEX_SUFFIX else ""
    except OSError:
        text = ""
    if not any(line.split()[:1] == [entry.key] for line in text.splitlines()):
        return None
    key = re.sub(r"[][.*^$\\/]", r"\\\g<0>", entry.key)
    edited = shlex.join(["sed", "-i", rf"s/^{key}[[:space:]]/#&/", str(path)])
    return host.reloaded(f"{edited} && {command(host.postfix, 'postmap', f'{kind}:{path}')}")


async def tables(host: Host) -> AsyncIterator[Finding]:
    """Every table that mail to lists is asked of answers; files.py sees whether it is there."""
    for parameter in sorted(LISTED):
        for item in dict.fromkeys(items(host.postfix.parameters[parameter])):
            table = item.lstrip("!")
            if _is_table(table) and type_of(table) in host.postfix.map_types:
                await host.tables.query(table, ["postfix-sync.invalid"])
    mute = {table: said for table, said in host.tables.unreadable.items() if _is_there(host, table)}
    for table, error in sorted(mute.items()):
        yield failure(
            f"table:{table}",
            error.message,
            'Postfix defers all mail that it asks this table about ("451 4.3.0 … Temporary lookup'
            ' failure")',
            _rebuilt(host, table),
        )
    if not mute:
        yield ok("tables", "every table that main.cf names for recipients and routes answers")


def _rebuilt(host: Host, table: str) -> str | None:
    if type_of(table) not in INDEX_SUFFIX or not Path(path_of(table)).exists():
        return None
    return host.reloaded(command(host.postfix, "postmap", table))


def _is_table(item: str) -> bool:
    return ":" in item and not item.startswith(("[", "/"))


def _is_there(host: Host, table: str) -> bool:
    """Whether a table has its file, or is none with a file that could be seen from here."""
    if (kind := type_of(table)) not in FILE_TYPES:
        return True
    return opened_file(host, kind, Path(path_of(table))).exists()
