"""Check Postfix itself: its version, whether it runs, can read our maps and deliver by LMTP.

`postfix check` is not used, because it creates missing directories, and doctor changes nothing.
"""

import os
import re
import shlex
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from postfix_sync.doctor.checks.files import builder, made_by_postfix
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import SYSTEMD, Host
from postfix_sync.errors import SyncError
from postfix_sync.model.finding import Finding
from postfix_sync.model.map_names import INDEX_SUFFIX
from postfix_sync.postfix.index_type import SUCCESSORS
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.main_cf.parameter import path_of, type_of
from postfix_sync.postfix.main_cf.requirements import cluster_notices
from postfix_sync.postfix.match_list import items
from postfix_sync.system.files import read_file

PACKAGED = frozenset({"cdb", "ldap", "lmdb", "mongodb", "mysql", "pcre", "pgsql", "sqlite"})
"""The map types for which Debian has a package postfix-TYPE."""

BERKELEY = frozenset({"btree", "hash"})

DATABASES = PACKAGED | BERKELEY | {"dbm", "sdbm"}
"""The map types that not every Postfix has."""

ENCRYPTED = frozenset({"dane-only", "encrypt", "fingerprint", "secure", "verify"})
"""The TLS security levels at which nothing is delivered without TLS."""

APT = Path("/usr/bin/apt-get")

WARNINGS_SHOWN = 3
"""Warnings of Postfix that a finding quotes."""

_UNCOMMENTED = re.compile(r"undefined parameter: mua_(client|helo|sender)_restrictions$")
"""Warnings about the submission service as Postfix's own master.cf has it, once uncommented."""


async def found(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix is new enough for clusters, if there are any."""
    seen = f"Postfix {host.postfix.version}, {host.postfix.config_directory}"
    clusters = sorted({source.cluster for source in host.config.sources if source.cluster})
    if clusters and not host.postfix.several_next_hops:
        yield warning(
            "postfix",
            seen,
            f"a route with several next hops needs Postfix 3.5: the lists of {clusters[0]} are"
            " routed to one of its members only, and wait while that one is down",
        )
    else:
        yield ok("postfix", seen)


async def running(host: Host) -> AsyncIterator[Finding]:
    """Check that master(8) of this instance runs."""
    if pid := host.postfix.processes.master:
        yield ok("running", f"process {pid}")
    else:
        yield warning(
            "running",
            "Postfix is stopped",
            "no mail is taken and none is delivered until it is started",
            host.service("start"),
        )


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
        edit = _edited(host, target)
        why += (
            f"; {host.config.path} says map_type: {kind.name}, which has to be {target} first, and"
            " a daemon has to read that (SIGHUP)"
        )
    commands = [install, edit, host.command("setup", "--yes")]
    fix = None if edit is None else " && ".join(step for step in commands if step)
    return warning("map_type", f"{seen}. Postfix warns: {'; '.join(kind.warnings)}", why, fix)


def _edited(host: Host, target: str) -> str | None:
    """Return the command that sets postfix.map_type, and reloads a running daemon.

    None if the configuration does not have map_type on a line of its own.
    """
    text = read_file(host.config.path).decode("utf-8", "replace")
    line = rf"(?m)^\s+map_type:\s*{host.map_type}\s*(#.*)?$"
    if len(re.findall(line, text)) != 1:
        return None
    change = rf"s/^\([[:space:]]\+map_type:[[:space:]]*\){host.map_type}\b/\1{target}/"
    edit = shlex.join(["sed", "-i", "--follow-symlinks", change, str(host.config.path)])
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


async def no_map_type(postfix: Postfix, wanted: str, error: SyncError) -> Finding:
    """Make the finding if no map type can be built; `wanted` is postfix.map_type."""
    if wanted == "auto" or wanted in postfix.map_types:
        return failure("map_type", error.message, error.hint)
    why, fix = _absent(wanted, await postfix.type_warnings())
    return failure("map_type", error.message, f"postfix.map_type is {wanted}: {why}", fix)


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


async def main_cf_warnings(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix reads main.cf and master.cf without a warning."""
    lines = [line for line in host.warnings if not _UNCOMMENTED.search(line)]
    if lines:
        more = len(lines) - WARNINGS_SHOWN
        seen = "; ".join(lines[:WARNINGS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        yield warning(
            "main_cf_warnings",
            seen,
            "of a parameter that stands twice only the last line counts, and one that Postfix does"
            " not know is spelt wrong or left from another version: mend or remove these lines."
            " The command makes those comments that nothing uses",
            _commented_out(host, lines),
        )
    else:
        yield ok("main_cf_warnings", "main.cf and master.cf are read without a warning")


def _commented_out(host: Host, warnings: Iterable[str]) -> str | None:
    """Return the command that comments out the lines of main.cf that have no effect; None if none.

    `warnings` are postconf(1)'s.
    """
    found = (re.match(r"\S*/main\.cf: unused parameter: (\w+)=", line) for line in warnings)
    names = sorted({match[1] for match in found if match})
    return command(host.postfix, "postconf", "-#", *names) if names else None


async def transport(host: Host) -> AsyncIterator[Finding]:
    """Check that master.cf has the transport that all routes name, and that it speaks LMTP."""
    service = host.lmtp
    if service and service.command == "lmtp":
        chrooted = "chrooted" if service.chrooted else "not chrooted"
        yield ok("transport", f"lmtp in master.cf, {chrooted}{_options(service.overrides)}")
        return
    beside = next(
        (service for service in host.services if (service.name, service.kind) == ("smtp", "unix")),
        None,
    )
    chroot = "y" if beside and beside.chrooted else "n"
    line = f"lmtp unix - - {chroot} - - lmtp"
    fix = host.edit(f"lmtp/unix={line}", "-M")
    if service:
        yield failure(
            "transport",
            f"lmtp in master.cf runs {service.command}",
            "all routes to lists name the transport lmtp; Mailman is spoken to by another protocol"
            ' than its own, and the mail bounces (command "HELO" not recognized)',
            fix,
        )
    else:
        yield failure(
            "transport",
            "master.cf has no service lmtp",
            'all routes to lists name it: their mail waits in the queue ("mail transport'
            ' unavailable")',
            fix,
        )


def _options(overrides: object) -> str:
    if not isinstance(overrides, dict) or not overrides:
        return ""
    return "".join(f", -o {name}={value}" for name, value in overrides.items())


async def lmtp_parameters(host: Host) -> AsyncIterator[Finding]:
    """Check that lmtp(8) does not require TLS, a login, or a flush of deferred transports."""
    level, maps = "lmtp_tls_security_level", "lmtp_tls_policy_maps"
    login, passwords = "lmtp_sasl_auth_enable", "lmtp_sasl_password_maps"
    values = await host.postfix.values(
        level, maps, "lmtp_enforce_tls", login, passwords, "defer_transports"
    )
    held = items(values["defer_transports"])
    if "lmtp" in held:
        rest = " ".join(name for name in held if name != "lmtp")
        yield failure(
            "defer_transports",
            f"defer_transports = {values['defer_transports']}",
            "no mail is delivered by lmtp until somebody asks for it (sendmail -q)",
            host.edit(f"defer_transports = {rest}"),
        )
    values |= host.lmtp.overrides if host.lmtp else {}
    if values[login] == "yes" and not values[passwords]:
        yield failure(
            login,
            f"{login} = yes, and {passwords} is empty",
            "lmtp(8) ends as soon as it is started (fatal: specify a password table), and all mail"
            " that it should deliver waits",
            host.set_lmtp(login, "no"),
        )
    present = values[level]
    if present in ENCRYPTED or (not present and values["lmtp_enforce_tls"] == "yes"):
        name, seen = (level, present) if present else ("lmtp_enforce_tls", "yes")
        finding = warning if values[maps] else failure
        unless = f" unless {maps} says otherwise for it" if values[maps] else ""
        yield finding(
            name,
            f"{name} = {seen}",
            "Mailman's LMTP server has no STARTTLS: its mail waits until it is returned"
            f' ("TLS is required, but was not offered"){unless}; "may" encrypts where it can',
            host.set_lmtp(level, "may"),
        )
    else:
        yield ok(level, f"{level} = {present or 'none'}")
    if any(source.cluster for source in host.config.sources):
        for notice in cluster_notices(host.postfix):
            yield warning("lmtp_connect_timeout", notice.message, "", notice.hint)
