"""Check the type of the maps: Postfix must have it, and main.cf must name the maps as that type."""

import os
import re
import shlex
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.doctor.checks.files import builder, made_by_postfix
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import SYSTEMD, Host
from postfix_sync.errors import SyncError
from postfix_sync.model.finding import Finding
from postfix_sync.model.map_names import INDEX_SUFFIX
from postfix_sync.postfix.index_type import SUCCESSORS
from postfix_sync.postfix.main_cf.classes import HARMLESS, ROLES
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.main_cf.map_type import named_types
from postfix_sync.postfix.main_cf.parameter import Edit, path_of, type_of
from postfix_sync.postfix.match_list import items
from postfix_sync.system.files import read_file

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

PACKAGED = frozenset({"cdb", "ldap", "lmdb", "mongodb", "mysql", "pcre", "pgsql", "sqlite"})
"""The map types for which Debian has a package postfix-TYPE."""

BERKELEY = frozenset({"btree", "hash"})

DATABASES = PACKAGED | BERKELEY | {"dbm", "sdbm"}
"""The map types that not every Postfix has."""

APT = Path("/usr/bin/apt-get")


async def map_type(host: Host) -> AsyncIterator[Finding]:
    """Check that this Postfix has every map type that main.cf names."""
    missing: dict[str, list[tuple[str, str]]] = {}
    for parameter, value in host.written.items():
        for item in items(value):
            kind = type_of(item)
            if path_of(item) and kind in DATABASES - host.postfix.map_types:
                missing.setdefault(kind, []).append((parameter, item))
    if not missing:
        yield await _works(host)
        return
    kind, named = next(iter(missing.items()))
    seen = " = ".join(named[0])
    why, fix = _absent(kind, await host.postfix.type_warnings())
    fix = fix or await _built_as_another(host, kind, named)
    yield failure(
        "map_type",
        f"{seen}: this Postfix has no map type {kind}",
        f"{why}; until then mail that this map is asked about is deferred (451)",
        fix,
    )


async def _works(host: Host) -> Finding:
    """Report the type of the maps, which this Postfix has; a warning if Postfix warns of it."""
    kind = host.kind
    seen = f"{kind.name}, for the maps of the lists"
    if kind.opened != kind.name:
        seen += f"; this Postfix opens {kind.opened} instead"
    if not kind.warnings:
        return ok("map_type", seen)
    target = await host.postfix.successor(kind)
    install = None if target else _absent(SUCCESSORS[0], [])[1]
    target = target or SUCCESSORS[0]
    why = (
        "the maps work, until a version of Postfix comes without that type: then all mail is"
        f" deferred (451). setup builds them as {target} beside what is there, and then has main.cf"
        f" name those; the files *{INDEX_SUFFIX[kind.name]} of the lists can be removed some day"
    )
    edit: str | None = ""
    if host.config.postfix.map_type != "auto":
        edit = _edited(host.config, kind.name, target)
        why += (
            f"; {host.config.path} says map_type: {kind.name}, which has to be {target} first, and"
            " a daemon has to read that (SIGHUP)"
        )
    commands = [install, edit, host.command("setup", "--yes")]
    fix = None if edit is None else " && ".join(step for step in commands if step)
    return warning("map_type", f"{seen}. Postfix warns: {'; '.join(kind.warnings)}", why, fix)


def _edited(config: "Config", present: str, target: str) -> str | None:
    """Return the command that changes postfix.map_type, and reloads a running daemon.

    None if the configuration does not have map_type on a line of its own.
    """
    text = read_file(config.path).decode("utf-8", "replace")
    line = rf"(?m)^\s+map_type:\s*{present}\s*(#.*)?$"
    if len(re.findall(line, text)) != 1:
        return None
    change = rf"s/^\([[:space:]]\+map_type:[[:space:]]*\){present}\b/\1{target}/"
    edit = shlex.join(["sed", "-i", "--follow-symlinks", change, str(config.path)])
    if not SYSTEMD.is_dir():
        return edit
    unit = "postfix-sync"
    return f"{edit} && {{ ! systemctl -q is-active {unit} || systemctl reload {unit}; }}"


async def _built_as_another(host: Host, kind: str, named: Sequence[tuple[str, str]]) -> str | None:
    """Return the command that builds maps as the type of ours, and names them so in main.cf.

    `named` are parameters, each with an item of type `kind`. None if a map has no text to build it
    from, or if a value does not have the item literally.
    """
    others = [(name, item) for name, item in named if not host.tables.ours.named(item)]
    builds = {path_of(item): builder(name) for name, item in others if not made_by_postfix(name)}
    values = {name: await host.postfix.written_as(name) for name, _ in others}
    if not (all(map(os.path.isfile, builds)) and all(i in items(values[n]) for n, i in others)):
        return None
    for name, item in others:
        new = f"{host.map_type}:{path_of(item)}"
        values[name] = values[name].replace(f"{kind}:{path_of(item)}", new)
    commands = [
        command(host.postfix, build, f"{host.map_type}:{path}") for path, build in builds.items()
    ]
    changes = [f"{name} = {value}" for name, value in values.items()]
    commands += [command(host.postfix, "postconf", "-e", *changes)] if changes else []
    return host.reloaded(" && ".join(commands)) if commands else None


async def not_chosen(host: Host, config: "Config", error: SyncError) -> Finding:
    """Make the finding if the maps cannot be built as the configured type.

    `config` is the configuration as it is; that of `host` has another type instead.
    """
    postfix, configured = host.postfix, config.postfix.map_type
    if configured != "auto" and configured not in postfix.map_types:
        why, fix = _absent(configured, await postfix.type_warnings())
        return failure("map_type", error.message, f"postfix.map_type is {configured}: {why}", fix)
    named = named_types(postfix, config.postfix.map_directory)
    if configured != "auto" and configured not in named:
        fix = _edited(config, configured, host.map_type)
    else:
        chosen = host.map_type if configured == "auto" else configured
        fix = await _named_as(host, chosen, set(named) - {chosen})
    return failure(
        "map_type", error.message, f"as long as that is so, no sync is made: {error.hint}", fix
    )


async def _named_as(host: Host, chosen: str, others: AbstractSet[str]) -> str | None:
    """Return the command that names our maps in main.cf as one type, and builds them."""
    changes = []
    for parameter in dict.fromkeys((*ROLES, *HARMLESS)):
        edit = Edit(host.postfix, parameter)
        odd = [
            item for item in edit.items if type_of(item) in others and host.tables.ours.named(item)
        ]
        for item in odd:
            edit.replace(item, f"{chosen}:{path_of(item)}")
        changes += [f"{parameter} = {edit.text}"] if odd else []
    if not changes:
        return None
    edited = command(host.postfix, "postconf", "-e", *changes)
    return f"{host.reloaded(edited)} && {host.command('--once')}"


def _absent(kind: str, warnings: list[str]) -> tuple[str, str | None]:
    """Return why Postfix lacks a map type, by its warnings, and the command that installs it."""
    for line in warnings:
        path, _, problem = line.partition(": ")
        if "owned or writable by non-root" in problem:
            return f"{path}: {problem}", f"chown root:root {path} && chmod go-w {path}"
    if kind in BERKELEY:
        why = "it was built without Berkeley DB (NON_BERKELEYDB_README)"
        return f"{why}: name another type, and build each such map as that", None
    if kind in PACKAGED and APT.exists():
        return f"it comes with the package postfix-{kind}", f"apt-get install postfix-{kind}"
    return f"install what brings {kind}, or name another type", None
