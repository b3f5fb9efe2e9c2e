"""Check what Postfix finds for the addresses of lists in all tables of main.cf, not only the maps.

Another table may take precedence if it has the very address, or a pattern that matches it. Entries
for a whole domain, or `*`, never do, in whatever order main.cf names the tables: Postfix queries
all tables for the address before it queries any for less (maps_find(3)).
"""

import operator
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

from postfix_sync.doctor.checks.files import FILE_TYPES, opened_file
from postfix_sync.doctor.checks.main_cf import lacking
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.explain.list_mail import MOST
from postfix_sync.model.finding import Finding
from postfix_sync.model.list_addresses import addresses_of, domain_of
from postfix_sync.model.map_names import ALIASES, INDEX_SUFFIX, RECIPIENTS, ROUTES
from postfix_sync.model.table import Table
from postfix_sync.postfix.main_cf import fixes
from postfix_sync.postfix.main_cf.classes import CLASSES, ROLES
from postfix_sync.postfix.main_cf.fixes import Setting, command
from postfix_sync.postfix.main_cf.lookup import Found, alias_forms, transport_forms
from postfix_sync.postfix.main_cf.parameter import path_of, type_of, written
from postfix_sync.postfix.match_list import PATTERN_TYPES, items
from postfix_sync.postfix.queue import without_extension
from postfix_sync.system.files import read_file
from postfix_sync.text import counted

LISTED = frozenset({*ROLES, *CLASSES})
"""The parameters on whose tables all mail depends."""


async def routes(host: Host) -> AsyncIterator[Finding]:
    """Check that transport_maps routes each list to its Mailman, whatever else it names."""
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
    """Return `maps_first` if another table routes mail to lists elsewhere; else None."""
    taken = await _taken_routes(host, await _value(host, "transport_maps"))
    return maps_first(host) if taken else None


def maps_first(host: Host) -> Setting:
    """Return the setting of transport_maps that names the map before all other tables."""
    return _named_first(
        host,
        "transport_maps",
        ROUTES,
        "names other tables that route mail to lists elsewhere, and {} not before them",
    )


def _named_first(host: Host, parameter: str, name: str, problem: str) -> Setting:
    """Return the setting of a parameter that names a map of ours before all other tables."""
    first = host.tables.ours.reference(name)
    lacks = next(
        (setting.wanted for setting in lacking(host) if setting.parameter == parameter), None
    )
    text = written(host.postfix, parameter) if lacks is None else lacks
    return Setting(
        parameter,
        host.postfix.unexpanded[parameter],
        ", ".join([first, *(table for table in items(text) if table != first)]),
        f"{parameter} {problem.format(first)}",
    )


async def _expanded(host: Host, setting: Setting) -> str:
    values = await host.postfix.expanded({setting.parameter: setting.wanted})
    return values[setting.parameter]


def _unanswered(name: str, error: SyncError, what: str) -> Finding:
    why = f"it is unknown whether {what}, until that table answers"
    return warning(name, error.message, why)


def _leaving_out(host: Host, table: str) -> str | None:
    """Return the command that excludes bounces and confirmations of lists from a table of patterns.

    It changes nothing for other addresses (regexp_table(5), pcre_table(5)). None if the table is
    not a file of patterns.
    """
    path = Path(path_of(table))
    if type_of(table) not in {"regexp", "pcre"} or not path.is_file():
        return None
    domains = "|".join(re.escape(domain) for domain in sorted(host.domains))
    condition = rf"if !/-(bounces|confirm)\+[^@]*@({domains})$/"
    # sed(1) interprets a backslash in a text.
    text = condition.replace("\\", "\\\\")
    return shlex.join(["sed", "-i", "-e", f"1i {text}", "-e", "$a endif", str(path)])


async def _value(host: Host, parameter: str) -> str:
    """Return a parameter's value with the setting that it lacks, $names expanded."""
    for setting in lacking(host):
        if setting.parameter == parameter:
            return await _expanded(host, setting)
    return host.postfix.parameters[parameter]


def sample_addresses(host: Host) -> list[str]:
    """Return the nine addresses of at most MOST lists, and one with an extension for each list."""
    lists = sorted(Table.of(host.tables.own[RECIPIENTS]).names())[:MOST]
    return [
        address
        for name in lists
        for address in (*addresses_of(name), name.replace("@", "-bounces+1a2b3c@"))
    ]


async def _taken_routes(host: Host, value: str) -> list[tuple[str, Found]]:
    """Return the addresses that another table routes elsewhere, each with the entry found."""
    delimiters = host.postfix.parameters["recipient_delimiter"]
    own = host.tables.own[ROUTES]
    forms = {
        address: transport_forms(host.postfix, address)
        for address in sample_addresses(host)
        if without_extension(address, delimiters) in own
    }
    found = await host.tables.find_all(value, forms)
    return [
        (address, entry)
        for address, entry in found
        if entry.value != own[without_extension(address, delimiters)]
    ]


async def aliases(host: Host) -> AsyncIterator[Finding]:
    """Check that virtual_alias_maps diverts no list's mail to another recipient."""
    taken = await _taken_aliases(host, await _value(host, "virtual_alias_maps"))
    if not taken:
        unknown = next(iter(host.classes.unknown.values()), None)
        if error := host.tables.error(host.postfix.parameters["virtual_alias_maps"]) or unknown:
            yield _unanswered("aliases", error, "a virtual alias takes the mail of a list")
        else:
            yield ok("aliases", "no virtual alias takes the mail of a list")
        return
    address, entry = taken[0]
    more = counted(len(taken) - 1, "more address") if taken[1:] else ""
    wide = any(_is_wide(host, *one) for one in taken)
    edits = await _without_aliases(host, taken)
    yield failure(
        "aliases",
        f"{address}: {entry.table} has {entry.key}, for {entry.value}"
        + (f"; and {more}" if more else ""),
        "virtual aliases come before routes: mail to the list goes there instead"
        + (_OTHERS_NEED_IT if wide else ""),
        host.reloaded(" && ".join(filter(None, edits))) if all(edits) else None,
    )


_OTHERS_NEED_IT = (
    ". Other addresses need that entry, so it stays: with postfix_recipients before it, each"
    " address of a list is an alias of itself"
)


async def taken_by_catch_all(host: Host) -> Setting | None:
    """Return `itself_first` if an entry for more than one address takes lists' mail; else None."""
    taken = await _taken_aliases(host, await _value(host, "virtual_alias_maps"))
    return itself_first(host) if any(_is_wide(host, *one) for one in taken) else None


def itself_first(host: Host) -> Setting:
    """Return the setting of virtual_alias_maps that keeps a catch-all from taking lists' mail."""
    return _named_first(
        host,
        "virtual_alias_maps",
        RECIPIENTS,
        "has an entry for all addresses of a list domain, and {} not before it",
    )


async def _taken_aliases(host: Host, value: str) -> list[tuple[str, Found]]:
    """Return the addresses of lists that a virtual alias takes, each with the entry found."""
    delimiters = host.postfix.parameters["recipient_delimiter"]
    own = host.tables.own[ALIASES]
    forms = {
        address: alias_forms(address, delimiters, local=domain_of(address) in host.classes.local)
        for address in (*sample_addresses(host), *sorted(own)[:MOST])
    }
    return [
        (address, entry)
        for address, entry in await host.tables.find_all(value, forms)
        if entry.value != own.get(address) and address not in items(entry.value.lower())
        if without_extension(address, delimiters) not in items(entry.value.lower())
    ]


def _is_wide(host: Host, address: str, entry: Found) -> bool:
    """Return whether other addresses may depend on an entry: without it, they would be refused."""
    delimiters = host.postfix.parameters["recipient_delimiter"]
    exact = entry.key in {address, without_extension(address, delimiters)}
    return not exact or type_of(entry.table) in PATTERN_TYPES


async def _without_aliases(host: Host, taken: list[tuple[str, Found]]) -> list[str | None]:
    """Return the commands that give lists their mail back; None for an entry without a text."""
    exact = dict.fromkeys(entry for address, entry in taken if not _is_wide(host, address, entry))
    edits = [_without_entry(host, entry) for entry in exact]
    if len(exact) < len(taken):
        change = itself_first(host)
        installed = host.table(RECIPIENTS)
        built = host.directory.is_built and all(map(operator.eq, installed, installed.values()))
        edits += [] if built else [host.command("--once")]
        edits.append(fixes.change(host.postfix, change))
        left = await _taken_aliases(host, await _expanded(host, change))
        tables = sorted({entry.table for address, entry in left if _is_wide(host, address, entry)})
        edits += [_leaving_out(host, table) for table in tables]
    return edits


def _without_entry(host: Host, entry: Found) -> str | None:
    """Return the command that comments out an entry in its table's text; None without a text."""
    kind, path = type_of(entry.table), Path(path_of(entry.table))
    try:
        text = read_file(path).decode("utf-8", "replace") if kind in INDEX_SUFFIX else ""
    except OSError:
        text = ""
    if not any(line.split()[:1] == [entry.key] for line in text.splitlines()):
        return None
    key = re.sub(r"[][.*^$\\/]", r"\\\g<0>", entry.key)
    edited = shlex.join(["sed", "-i", rf"s/^{key}[[:space:]]/#&/", str(path)])
    return f"{edited} && {command(host.postfix, 'postmap', f'{kind}:{path}')}"


async def tables(host: Host) -> AsyncIterator[Finding]:
    """Check that every table answers on which mail to lists depends.

    A table without its file is left to `files.other_maps`.
    """
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
            'Postfix defers all mail for which it queries this table ("451 4.3.0 … Temporary lookup'
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
    """Return whether a table's file exists; True for a type without a file."""
    if (kind := type_of(table)) not in FILE_TYPES:
        return True
    return opened_file(host, kind, Path(path_of(table))).exists()
