"""Check that the sources can be read, are whole and accepted, and that changes are noticed."""

import errno
import os
import shlex
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.mailman.entries import MAILMAN_ALIASES
from postfix_sync.model.finding import Finding
from postfix_sync.model.map_names import ROUTES
from postfix_sync.reconcile.fetch import Fetched
from postfix_sync.sources.mailman_files import NAMES, NOT_WRITTEN_YET
from postfix_sync.system.files import open_file
from postfix_sync.system.inotify import watch_error
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
    return _write_files(source) if error.hint == NOT_WRITTEN_YET else None


def _write_files(source: "SourceSection") -> str | None:
    """Return the command that makes Mailman write its files; None if its container is unknown."""
    if not source.container or source.ssh:
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


async def replicas(host: Host) -> AsyncIterator[Finding]:
    """Check that the files of a cluster's members have the same lists."""
    for cluster in sorted({source.cluster for source in host.config.sources if source.cluster}):
        members = [source for source in host.config.sources if source.cluster == cluster]
        lists = {
            source.name: answered.tables.routes.names()
            for source in members
            if (answered := host.answers[source.name]).tables
        }
        if len(lists) > 1:
            yield _compared(cluster, members, lists)


def _compared(
    cluster: str, members: Sequence["SourceSection"], lists: Mapping[str, AbstractSet[str]]
) -> Finding:
    called = f"replicas:{cluster}"
    every = frozenset[str]().union(*lists.values())
    lacking = {name: sorted(every - own) for name, own in lists.items() if every - own}
    if not lacking:
        return ok(called, f"the files of {', '.join(lists)} have the same lists")
    seen = "; ".join(
        f"the files of {name} lack {missing[0]}"
        + (f" and {counted(len(missing) - 1, 'more list')}" if missing[1:] else "")
        for name, missing in lacking.items()
    )
    commands = [_write_files(source) for source in members]
    return warning(
        called,
        seen,
        "mail for such a list goes only to the members whose files have it; and if it was removed,"
        " Postfix still accepts its mail. A Mailman writes its files only for what is done through"
        " it: have each member write them, at intervals too (docs/several-mailmans.md)"
        + ("" if all(commands) else f": on each of them, {MAILMAN_ALIASES}"),
        " && ".join(filter(None, commands)) if all(commands) else None,
    )


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
    if not source.path.is_dir():
        return warning(
            called,
            f"{source.path}: there is no such directory",
            "nothing can be watched there; as soon as it exists, the daemon watches it",
        )
    return _unwatched(source) or without_events(source, mount_of(source.path))


INSTANCES, WATCHES = "fs.inotify.max_user_instances", "fs.inotify.max_user_watches"
LIMITS = {errno.EMFILE: (INSTANCES, 1024), errno.ENOSPC: (WATCHES, 524288)}
"""The sysctl(8) that an errno(3) of inotify(7) stands for, and the least value to set."""


def _unwatched(source: "SourceSection") -> Finding | None:
    """Make a finding if a directory can't be watched, because of a limit; else None."""
    number = watch_error(source.path)
    if number not in LIMITS:
        return None
    name, least = LIMITS[number]
    current = int(Path("/proc/sys", *name.split(".")).read_text())
    line = f"{name} = {max(least, 2 * current)}"
    file = "/etc/sysctl.d/60-inotify.conf"
    return warning(
        f"events:{source.name}",
        f"{source.path}: can't be watched: {os.strerror(number)} ({name} is {current})",
        "other programs of this user have used up the limit: a daemon that starts now gets no"
        f" events, and notices a new list only after the interval of {source.interval:g} s",
        f"echo {shlex.quote(line)} >> {file} && sysctl -p {file}",
    )


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
