"""Check what postfix-sync itself needs: its state directory, free space, the time, and syncs."""

import contextlib
import errno
import os
import shlex
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.sources.mailman_files import NAMES
from postfix_sync.store.state_directory import LOCK_NAME
from postfix_sync.system.commands import program
from postfix_sync.system.files import denied_hint, is_private
from postfix_sync.text import iso, seconds_of

OVERDUE = 900.0
"""Seconds without a sync that count as overdue, or three intervals if those are longer."""

AHEAD = 60.0
"""Seconds by which a time may be in the future, because the clocks of two hosts differ."""

PUBLISHED = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A time before that of this version, in seconds since the epoch: a right clock is later."""

SPARE_BYTES = 16 * 2**20
"""Free bytes, in addition to the maps' size, below which there is a warning."""

SPARE_FILES = 1000
"""Free inodes below which there is a warning."""

FEW_FILES = 20
"""Free inodes below which there is a failure; each message in the queue needs one."""

GONE_AT_BOOT = (Path("/run"), Path("/var/run"))
"""File systems in memory on every Linux (file-hierarchy(7))."""


async def state_directory(host: Host) -> AsyncIterator[Finding]:
    """Check that it exists, is root's, survives a reboot, and that only root can lock the lock."""
    path = host.config.state_directory
    quoted = shlex.quote(str(path))
    if not path.exists():
        yield ok("state_directory", f"{path}: the first pass makes it")  # see `syncs`
        return
    if not path.is_dir():
        yield failure(
            "state_directory",
            f"{path}: is not a directory",
            "no pass can be made there; set state_directory, or remove what is there",
        )
        return
    found = path.stat()
    seen = f"{path}, owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
    lock = path / LOCK_NAME
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield warning(
            "state_directory",
            seen,
            "whoever can write there can change what is remembered of a source, and so where its"
            " lists' mail goes",
            f"chown root: {quoted} && chmod go-w {quoted}",
        )
    elif lock.exists() and not is_private(lock.stat()):
        found = lock.stat()
        yield warning(
            "state_directory",
            f"{lock}: owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}",
            "any user of this host who can open it can lock it (flock(1)), and hold up a pass for"
            " 30 s; the next pass puts a file in its place that only root can open",
            host.command("--once"),
        )
    elif any(path.is_relative_to(mount) for mount in GONE_AT_BOOT):
        yield warning(
            "state_directory",
            f"{path}: gone at the next boot",
            "a source that is away then has no lists that could be kept; set state_directory",
        )
    elif not os.access(path, os.W_OK):
        denied = denied_hint(path, PermissionError(errno.EPERM, ""))
        yield failure("state_directory", f"{path}: can't be written", denied)
    else:
        yield ok("state_directory", seen)


async def room(host: Host) -> AsyncIterator[Finding]:
    """Check that there is free space to build the maps again, for the state, and for mail."""
    maps = _size_of_maps(host)
    own = (2 * maps, 4 * maps + SPARE_BYTES)
    directories: Mapping[str, tuple[Path, int, int]] = {
        "map_directory": (host.config.postfix.map_directory, *own),
        "state_directory": (host.config.state_directory, *own),
        "queue_directory": (host.postfix.queue_directory, *_for_mail(host)),
    }
    for name, (path, least, enough) in directories.items():
        yield _room(f"room:{name}", path, least, enough)


def _size_of_maps(host: Host) -> int:
    """Return the bytes that texts and indexes take."""
    directory = host.config.postfix.map_directory
    files = [path for name in MAP_NAMES for path in directory.glob(f"{name}*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def _for_mail(host: Host) -> tuple[int, int]:
    """Return the free bytes below which smtpd(8) accepts no mail, and twice that.

    See queue_minfree in postconf(5).
    """
    parameters = host.postfix.parameters
    numbers = [parameters["queue_minfree"], parameters["message_size_limit"]]
    # With a value that is not a number, smtpd(8) ends; postconf(1) does not report all of these.
    minfree, limit = (int(number) if number.isdecimal() else 0 for number in numbers)
    least = max(minfree, int(1.5 * limit))
    return least, 2 * least


def _room(called: str, path: Path, least: int, enough: int) -> Finding:
    there = next(place for place in (path, *path.parents) if place.exists())
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    seen = f"{path}: {_bytes(free)} free"
    what = f"see what takes it: df -h {shlex.quote(str(there))}"
    if found.f_flag & os.ST_RDONLY:
        return failure(
            called,
            f"{path}: the file system is read-only",
            f"nothing can be written there; see findmnt -T {shlex.quote(str(there))}, and dmesg",
        )
    if free < least:
        return failure(
            called,
            f"{seen}, {_bytes(least)} are needed",
            f"{_WITHOUT_ROOM[called]}; {what}",
        )
    if found.f_files and found.f_favail < FEW_FILES:
        return failure(
            called,
            f"{path}: {found.f_favail} inodes free",
            f"no file can be made there: {_WITHOUT_ROOM[called]}; see df -i {there}",
        )
    if free < enough:
        return warning(called, f"{seen}, {_bytes(least)} are needed", what)
    if found.f_files and found.f_favail < SPARE_FILES:
        return warning(called, f"{path}: {found.f_favail} inodes free", f"see df -i {there}")
    return ok(called, seen)


_WITHOUT_ROOM = {
    "room:map_directory": "the maps can't be built again, so they stay as they are",
    "room:state_directory": "what the sources say can't be remembered",
    "room:queue_directory": "Postfix takes no mail at all: 452 Insufficient system storage",
}


def _bytes(number: float) -> str:
    """Return a number of bytes for a message, such as `512 KiB` or `1.5 GiB`."""
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1024:
            return f"{number:.3g} {unit}"
    return f"{number / 1024:.3g} TiB"


async def clock(host: Host) -> AsyncIterator[Finding]:
    """Check that no time is in the future, and that the clock is not before this version."""
    ahead = [f"{what} is of {iso(at)}" for what, at in _times(host) if at > host.now + AHEAD]
    if host.now < PUBLISHED:
        ahead.append("this version is younger than that")
    if ahead:
        yield warning(
            "clock",
            f"it is {iso(host.now)}; {'; '.join(ahead)}",
            "ages, intervals and Postfix's retries are wrong until the clocks agree: timedatectl,"
            " on the source's host too",
        )
    else:
        yield ok("clock", f"it is {iso(host.now)}, and nothing comes from the future")


def _times(host: Host) -> Iterator[tuple[str, float]]:
    if host.status:
        yield "status.json", seconds_of(host.status["updated"])
    for source in host.config.sources:
        for path in () if source.ssh else (source.path / name for name in NAMES):
            with contextlib.suppress(OSError):  # `sources.readable` reports it
                yield str(path), path.stat().st_mtime


async def syncs(host: Host) -> AsyncIterator[Finding]:
    """Check that the daemon, or a timer, runs syncs."""
    once = host.command("--once")
    # cron looks for commands in /usr/bin and /bin only.
    by_cron = shlex.join(program()) + once.removeprefix("postfix-sync")
    keep = (
        "a daemon makes one as soon as Mailman writes something: systemctl enable --now"
        " postfix-sync, or whatever supervises services here; or a line in"
        f" /etc/cron.d/postfix-sync: * * * * * root {by_cron}"
    )
    if not host.status:
        yield warning("passes", host.without_status, f"of no pass anything is known; {keep}", once)
        return
    updated = seconds_of(host.status["updated"])
    overdue = max(OVERDUE, *(3 * source.interval for source in host.config.sources))
    seen = f"the last pass or probe was at {iso(updated)}"
    if host.now - updated > overdue:
        yield warning(
            "passes",
            seen,
            f"nobody makes passes: lists that are created or removed now are not noticed; {keep}",
            once,
        )
    else:
        yield ok("passes", seen)
