"""Check the maps on the disk: present, whole, in step with the sources, writable by root only."""

import os
import re
import shlex
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError, why
from postfix_sync.model.finding import Finding
from postfix_sync.model.installed import Condition, InstalledMap
from postfix_sync.model.map_names import INDEX_SUFFIX, MAP_NAMES
from postfix_sync.postfix.index_lock import is_kept_locked
from postfix_sync.postfix.main_cf.classes import ROLES
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.publish import MAP_MODE, check_owner
from postfix_sync.reconcile.reload_spacing import TURN_TAKES
from postfix_sync.system.files import open_file
from postfix_sync.text import counted, iso

SETTLED = 100.0
"""Seconds after which Postfix warns of a text that is newer than its index (dict_db_open)."""

FILE_TYPES = {"texthash": "", "regexp": "", "pcre": "", "cidr": "", "sdbm": ".pag", **INDEX_SUFFIX}
"""Map types with a file, and the suffix that the file has in addition to the name in main.cf."""

_NAMED = re.compile(rf"\b({'|'.join(FILE_TYPES)}):(/[^\s,{{}}]+)")

_MADE_BY_POSTFIX = ("_cache_database", "_cache_map", "_cache_name", "address_verify_map")
"""Suffixes of the parameters whose files Postfix makes when it needs them."""

_NOT_LOOKED_UP = {"alias_database"}
"""Parameters that name maps only for newaliases(1) to build."""


def made_by_postfix(parameter: str) -> bool:
    """Return whether a parameter names a map that Postfix makes itself, without a text."""
    return parameter.endswith(_MADE_BY_POSTFIX)


def builder(parameter: str) -> str:
    """Return the command that builds a parameter's maps: aliases(5) have a syntax of their own."""
    return "postalias" if parameter.rpartition("/")[2].startswith("alias_") else "postmap"


async def map_directory(host: Host) -> AsyncIterator[Finding]:
    """Check that the directory exists, and that only root can write to it."""
    path = host.config.postfix.map_directory
    try:
        check_owner(path)
        found = path.stat()
    except FileNotFoundError:
        fix = host.command("--once")
        yield failure(
            "map_directory", f"{path}: no such directory", "there has been no sync yet", fix
        )
    except OSError as error:
        yield failure("map_directory", f"{path}: {why(error)}", "no map can be installed there")
    except SyncError as error:
        yield failure("map_directory", error.message, _WHO_CHANGES_MAPS, error.fix)
    else:
        yield ok("map_directory", f"{path}, owner {found.st_uid}, mode {_mode(found)}")


_WHO_CHANGES_MAPS = (
    "a user who can change the maps decides where the lists' mail goes, so no sync installs"
    " anything before that is fixed"
)


async def maps(host: Host) -> AsyncIterator[Finding]:
    """Check that each map has its text and its index, and that the index holds the text's entries.

    Check also that no sync was interrupted.
    """
    directory = host.directory
    # Read under the lock, because maps are half built while a sync runs.
    installed = host.upcoming.found or await directory.read()
    for name in MAP_NAMES:
        yield await _map(host, directory, name, installed.maps[name])
    if (
        installed.reload_owed
        and host.postfix.processes.master
        and directory.reload_note.age() > TURN_TAKES
    ):
        yield failure(
            "interrupted_pass",
            f"{directory.path / '.reload'}: a sync changed the maps, and was interrupted before it"
            " reloaded Postfix",
            "processes of Postfix may work with the maps from before",
            host.command("--once"),
        )
    elif installed.reload_owed and host.postfix.processes.master:
        yield ok("interrupted_pass", "a change waits for its turn to reload Postfix")
    elif installed.interrupted:
        yield warning(
            "interrupted_pass",
            f"{directory.path / '.staging'}: left behind by a sync that was interrupted",
            "the next sync completes it",
            host.command("--once"),
        )
    else:
        yield ok("interrupted_pass", "no sync left anything unfinished")


async def _map(host: Host, directory: MapDirectory, name: str, installed: InstalledMap) -> Finding:
    called, text, index = f"map:{name}", directory.path / name, directory.index(name)
    again = host.command("--once")
    if missing := next((path for path in (index, text) if not path.exists()), None):
        role = "and" if _is_named(host, text) else "and as soon as main.cf names the map,"
        return failure(
            called,
            f"{missing}: no such file",
            f"Postfix can't look anything up in it, {role} mail to everybody is put off with 451"
            " Temporary lookup failure; a sync makes the map, an empty one if there is no list",
            again,
        )
    if installed.condition is Condition.BROKEN:
        said = await _why_unreadable(host, text, index)
        return failure(
            called, f"{index}: {said}", "lookups fail; a sync builds the map again", again
        )
    if installed.condition is Condition.STALE:
        return _stale(called, text, index, installed, again)
    return _ownership(called, text, index) or ok(
        called,
        f"{host.map_type}:{text}, {counted(len(installed.table or {}), 'entry')},"
        f" built {iso(index.stat().st_mtime)}",
    )


def _is_named(host: Host, text: Path) -> bool:
    return any(f":{text}" in host.postfix.parameters[parameter] for parameter in ROLES)


async def _why_unreadable(host: Host, text: Path, index: Path) -> str:
    """Return why postmap(1) cannot query a map; it is not run on a FIFO, where it would block."""
    try:
        open_file(index).close()
        if await is_kept_locked(index, host.map_type):
            return f"another process keeps it locked; see which: fuser -v {index}"
        await host.postfix.postmap.query(host.kind, text, ["nobody@invalid"])
    except OSError as error:
        return why(error)
    except SyncError as error:
        return error.message
    return "can't be read"


def _stale(called: str, text: Path, index: Path, installed: InstalledMap, again: str) -> Finding:
    """Make the finding of an index that is older than its text, or holds other entries."""
    older = text.stat().st_mtime - index.stat().st_mtime
    if older > 0:
        seen = f"{index} is older than its text by {older:.0f} s"
    else:
        seen = f"{index} does not hold what {text} says"
    if installed.table is None:
        seen += "; and the text is not as postfix-sync writes it"
    return failure(
        called,
        seen,
        "the text was edited, or a sync was interrupted. Postfix reads only the index, so the"
        " entries of the text may not be in effect; a sync builds the index again from the sources'"
        " lists",
        again,
    )


def _ownership(called: str, text: Path, index: Path) -> Finding | None:
    """Make a finding if users other than root can change a map, or if Postfix cannot read it."""
    for path in (text, index):
        found = path.stat()
        quoted = shlex.quote(str(path))
        if found.st_uid not in {0, os.geteuid()}:
            return warning(
                called,
                f"{path}: belongs to user {found.st_uid}",
                "its owner can send the lists' mail elsewhere; and postmap(1), run as root, takes"
                " on the identity of a text's owner and then may not write the index"
                " (Permission denied)",
                f"chown root: {quoted}",
            )
        if stat.S_IMODE(found.st_mode) != MAP_MODE:
            return warning(
                called,
                f"{path}: mode {_mode(found)} instead of {MAP_MODE:04o}",
                "every process of Postfix has to read it, and nobody but root to write it",
                f"chmod {MAP_MODE:04o} {quoted}",
            )
    return None


async def in_step(host: Host) -> AsyncIterator[Finding]:
    """Check that the maps hold the sources' lists, so that a sync would change nothing."""
    report = host.upcoming
    for number, error in enumerate(report.failed):
        called = "in_step" if not number else f"in_step:{number + 1}"
        yield failure(called, error.message, error.hint or "no sync is possible", error.fix)
    if report.failed:
        return
    if report.held:
        yield ok("in_step", f"{report.held}: until that ends, what the sources say waits")
        return
    if report.pending:
        yield failure(
            "in_step",
            "the maps are behind the sources: " + "; ".join(report.pending),
            "until a sync is made, mail to new lists is refused, and mail to removed ones taken",
            host.command("--once"),
        )
        return
    silent = [name for name, source in report.sources.items() if source.errors]
    about = f", as far as {', '.join(silent)} can be read" if silent else ""
    yield ok("in_step", f"the maps hold what the sources say{about}")


class Named(NamedTuple):
    """A map with a file that a parameter names."""

    parameter: str
    map_type: str
    path: Path


def opened_file(host: Host, map_type: str, path: Path) -> Path:
    """Return the file that Postfix opens for a map of one of FILE_TYPES."""
    if kind := host.index_types.get(map_type):
        return kind.index(path)
    return path.with_name(path.name + FILE_TYPES[map_type])


def named_maps(settings: Mapping[str, str]) -> Iterator[Named]:
    """Yield the maps with files that parameters name, except those that Postfix makes itself."""
    for parameter, value in settings.items():
        name = parameter.rpartition("/")[2]
        if name in _NOT_LOOKED_UP or made_by_postfix(name):
            continue
        for map_type, path in _NAMED.findall(value):
            yield Named(parameter, map_type, Path(path))


async def other_maps(host: Host) -> AsyncIterator[Finding]:
    """Check that every other map exists that main.cf or master.cf names.

    A missing map stops all mail.
    """
    own = {host.config.postfix.map_directory / name for name in MAP_NAMES}
    settings = dict(host.written)
    for service in host.services:
        place = f"{service.name}/{service.kind}"
        settings |= {f"{place}/{name}": value for name, value in service.overrides.items()}
    named: dict[tuple[str, Path], Named] = {}
    for other in named_maps(settings):
        # Other checks report a type that this Postfix lacks, our maps as another type, and files
        # that should not be named.
        mailmans = host.tables.ours.of_mailman(f"{other.map_type}:{other.path}")
        if other.map_type in host.postfix.map_types and other.path not in own and not mailmans:
            named.setdefault((other.map_type, other.path), other)
    found = [finding for other in named.values() if (finding := _other(host, other))]
    for finding in found:
        yield finding
    if not found:
        number = counted(len(named), "other map") if named else "no other map"
        yield ok("other_maps", f"Postfix uses {number} in files, and none is missing")


def _other(host: Host, other: Named) -> Finding | None:
    """Make the finding of a map that is not ours; None if it is well."""
    called = f"other_maps:{other.map_type}:{other.path}"
    build = builder(other.parameter)
    # A process that found no table when it was started does not open it later.
    rebuild = host.reloaded(command(host.postfix, build, f"{other.map_type}:{other.path}"))
    file = opened_file(host, other.map_type, other.path)
    compiled = file != other.path
    try:
        index = file.stat()
    except FileNotFoundError:
        can_build = compiled and other.path.exists()
        return failure(
            called,
            f"{other.parameter} names {other.map_type}:{other.path}, but there is no {file}",
            "whatever is looked up there is put off with 451 Temporary lookup failure, mail for the"
            " lists too"
            + (
                ""
                if can_build
                else f"; make that file, or take it out of main.cf's {other.parameter}"
            ),
            rebuild if can_build else None,
        )
    except OSError:
        return None  # it is unknown here whether Postfix may read it
    changed = other.path.stat().st_mtime if compiled and other.path.exists() else 0.0
    if index.st_mtime < changed < host.now - SETTLED:
        return warning(
            called,
            f"{file} is older than {other.path}",
            "Postfix works with the index, so what was changed in the text is not in force",
            rebuild,
        )
    return None


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"
