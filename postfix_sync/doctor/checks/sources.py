"""Check that the sources can be read, are whole and accepted, and that changes are noticed."""

import os
import shlex
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.model.finding import Finding
from postfix_sync.model.map_names import ROUTES
from postfix_sync.reconcile.fetch import Fetched
from postfix_sync.sources.mailman_files import NAMES, NOT_WRITTEN_YET
from postfix_sync.system.files import open_file
from postfix_sync.system.mounts import Mount, mount_of, without_links
from postfix_sync.text import counted, iso

if TYPE_CHECKING:
    from postfix_sync.config.schema import SourceSection

SHORT_INTERVAL = 60.0
"""Seconds: an interval that is short enough without events."""

REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs", "glusterfs", "fuse")
"""File systems without events for changes by another host, or by the other side (inotify(7))."""


async def readable(host: Host) -> AsyncIterator[Finding]:
    """Report what was fetched from each source, or why a sync would not use it."""
    for source in host.config.sources:
        called = f"source:{source.name}"
        report = host.upcoming.sources.get(source.name)
        answered = host.answers[source.name]
        errors = list(report.errors) if report else [error for error in (answered.error,) if error]
        if errors:
            first, *others = errors
            yield failure(
                called,
                "; ".join(error.message for error in errors),
                "; ".join(error.hint for error in errors if error.hint),
                None if others else first.fix or _aliases(source, first),
            )
        else:
            yield _exposed(source) or ok(called, _read(source, answered))


def _aliases(source: "SourceSection", error: SyncError) -> str | None:
    """Return the command that makes Mailman write its files, if only those are missing.

    None if another error has to be fixed first, or if Mailman's container is unknown.
    """
    if error.hint != NOT_WRITTEN_YET or not source.container or source.ssh:
        return None
    engine, container = source.container.engine, source.container.name
    return shlex.join([engine, "exec", "-u", "mailman", container, "mailman", "aliases"])


def _read(source: "SourceSection", answered: Fetched) -> str:
    """Describe what was read, and from where."""
    if not answered.tables:
        return f"{source.place}: as it was"
    routes, aliases = answered.tables.routes, answered.tables.aliases
    numbers = [counted(len(routes.names()), "list"), counted(len(routes), "address")]
    numbers += [counted(len(aliases), "alias")] if aliases else []
    return f"{source.place}: {', '.join(numbers)}{_files(source)}"


def _files(source: "SourceSection") -> str:
    """Describe the owner, mode and time of the files; empty for a source over SSH."""
    if source.ssh:
        return ""
    found = (source.path / ROUTES).stat()
    with open_file(source.path / ROUTES) as file:
        regex = ", as regular expressions" if b"\n/^" in file.read(4096) else ""
    return (
        f"{regex}; written {iso(found.st_mtime)}, owner {found.st_uid}:{found.st_gid},"
        f" mode {stat.S_IMODE(found.st_mode):04o}"
    )


def _exposed(source: "SourceSection") -> Finding | None:
    """Make a finding if any user of this host can write the source's files; else None."""
    if source.ssh:
        return None
    for path in (source.path, *(source.path / name for name in NAMES)):
        mode = path.stat().st_mode if path.exists() else 0
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return warning(
                f"source:{source.name}",
                f"{path}: mode {stat.S_IMODE(mode):04o}",
                "every user of this host can write there, and so decide where the lists' mail goes",
                f"chmod o-w {shlex.quote(str(path))}",
            )
    return None


async def events(host: Host) -> AsyncIterator[Finding]:
    """Check for each source on this host whether the daemon gets events of its changes."""
    for source in host.config.sources:
        if not source.ssh:
            yield _events(source)


def _events(source: "SourceSection") -> Finding:
    called = f"events:{source.name}"
    for path in (source.path / name for name in NAMES):
        where = mount_of(path)
        if where and where.point == without_links(path):
            return failure(
                called,
                f"{path}: is a mount of its own",
                "Mailman renames a new file into the place of the old one, and such a mount goes on"
                " showing the old one: what changes is never seen here. Mount the directory"
                " instead of its files",
            )
    return without_events(source, mount_of(source.path))


def without_events(source: "SourceSection", where: Mount | None) -> Finding:
    """Make the finding of a source's file system: a warning if it has no events, and the interval
    is long."""
    called = f"events:{source.name}"
    if not where or not _is_remote(where):
        return ok(called, f"{source.path}: {where.kind if where else 'a file system'}, with events")
    every = f"{source.interval:g} s"
    if source.interval <= SHORT_INTERVAL:
        return ok(called, f"{source.path}: {where.kind}, without events: looked at every {every}")
    return warning(
        called,
        f"{source.path}: {where.kind}, looked at every {every}",
        f"{where.kind} tells nothing of what others change, so a new list waits for as long as the"
        " interval; set the source's interval: to 60s or less",
    )


def _is_remote(mount: Mount) -> bool:
    return mount.kind in REMOTE or mount.kind.startswith("fuse.")


async def ssh_keys(host: Host) -> AsyncIterator[Finding]:
    """Check that only root can write the keys and known_hosts files of sources over SSH.

    `readable` reports if a file is missing or cannot be used.
    """
    seen = set()
    for source in host.config.sources:
        for path in (source.ssh.identity, source.ssh.known_hosts) if source.ssh else ():
            if path not in seen and path.exists():
                seen.add(path)
                yield _key(path)


def _key(path: Path) -> Finding:
    called = f"ssh_keys:{path}"
    found = path.stat()
    quoted = shlex.quote(str(path))
    seen = f"{path}, owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return warning(
            called,
            seen,
            "others than root can change which key is offered, or which hosts are believed",
            f"chown root: {quoted} && chmod go-w {quoted}",
        )
    return ok(called, seen)
