"""Read files safely, replace them atomically, and explain why that fails."""

import contextlib
import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from postfix_sync.errors import ApplyError, NotPermitted, SyncError, why
from postfix_sync.system.commands import READ_AT_MOST
from postfix_sync.system.mounts import without_links


def version_of(path: Path) -> tuple[int, int] | None:
    """Return the inode and ctime (ns) of a file: they change with its content, mode and owner.

    None if there is no such file, or stat(2) fails.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def is_private(found: os.stat_result) -> bool:
    """Return whether it is a regular file that only root, or this process's user, can open."""
    owned = found.st_uid in {0, os.geteuid()}
    return stat.S_ISREG(found.st_mode) and owned and not found.st_mode & 0o077


WITHOUT_WAITING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags for open(2): without O_NONBLOCK, opening a FIFO would block a sync forever."""


class NotRegular(OSError):
    """The path is not a regular file, or the file is larger than READ_AT_MOST."""


def kind(mode: int) -> str:
    """Name the type of something that is not a regular file, by its mode (st_mode)."""
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking.

    Raises OSError, and its subclass NotRegular for any other type of file.
    """
    try:
        descriptor = os.open(path, WITHOUT_WAITING)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotRegular("is a socket or a device, not a regular file") from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= READ_AT_MOST:
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise NotRegular(f"has {found.st_size} bytes, more than the limit of {READ_AT_MOST}")
    raise NotRegular(f"is {kind(found.st_mode)}, not a regular file")


def read_file(path: Path) -> bytes:
    """Return the content of a regular file. Raises OSError as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def write_file(path: Path, content: bytes, mode: int, *, new: bool = False) -> None:
    """Write a file in place and wait until it is on the disk. Raises OSError.

    If `new` is set, the file must not exist.
    """
    write_parts(path, [content], mode, new=new)


def write_parts(
    path: Path, parts: Iterable[bytes | memoryview], mode: int, *, new: bool = False
) -> None:
    """Write a file as `write_file` does; `parts` are its content."""
    # Another user who may write to the directory must not make root write through a link.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | (os.O_EXCL if new else 0), mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.writelines(parts)
        file.flush()
        os.fsync(descriptor)


def publish_file(staged: Path, path: Path) -> None:
    """Rename `staged` to `path`; sync the file before and the directory after. Raises OSError."""
    _sync(staged)
    staged.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, WITHOUT_WAITING)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0644 atomically, and replace whatever is at its path. Raises OSError.

    It follows no link and opens no existing file, so it is safe in a directory to which other users
    than root may write.
    """
    staged = staged_beside(path)
    staged.unlink(missing_ok=True)
    try:
        write_file(staged, content, 0o644, new=True)
        publish_file(staged, path)
    except OSError:
        discard(staged)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically, and keep its owner, mode and labels.

    A new file gets mode 0644. A link is followed. If the file is a mount itself, as /etc/hosts is
    in a container, rename(2) fails with EBUSY; if its directory is read-only, no file can be
    created beside it (EROFS): then the file is written in place. Raises OSError.
    """
    path = without_links(path)
    staged = staged_beside(path)
    try:
        # The file may be private: while it is staged, only its owner may read it.
        write_file(staged, content, 0o600 if path.exists() else 0o644)
        if path.exists():
            kept = path.stat()
            os.chown(staged, kept.st_uid, kept.st_gid)
            shutil.copystat(path, staged)
            os.utime(staged)
        publish_file(staged, path)
    except OSError as error:
        discard(staged)
        if error.errno not in (errno.EBUSY, errno.EROFS) or not path.exists():
            raise
        _overwrite(path, content)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists, and sync its directory. Raises OSError."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def discard(path: Path) -> None:
    """Remove an unneeded file, if it exists and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def staged_beside(path: Path) -> Path:
    """Return the path at which a new file is staged; a sync that is killed may leave it behind."""
    return path.with_name(f".{path.name}.postfix-sync")


def _overwrite(path: Path, content: bytes) -> None:
    """Write a file in place, from the first byte that differs."""
    old = read_file(path)
    pairs = enumerate(zip(old, content, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(old), len(content)))
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view, offset = memoryview(content)[same:], same
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> SyncError:
    """Describe a failure to write a file, or to read it first; its content is unchanged."""
    message = f"{path}: {why(error)}; what is installed is left as it is"
    if isinstance(error, PermissionError):
        return NotPermitted(message, denied_hint(path, error))
    if isinstance(error, NotRegular):
        fix = shlex.join(["mv", "-T", str(path), f"{path}.aside"])
        return ApplyError(message, f"put it aside: {fix}", fix)
    return ApplyError(message, space_hint(path, message))


def denied_hint(path: Path, error: OSError) -> str:
    """Return the fix if the system denied access to `path`, or the commands that show the cause.

    For root, EPERM is caused by an attribute of the file (chattr(1)); EACCES by an NFS server, a
    security module, or the sandbox of a service.
    """
    if os.geteuid() != 0:
        return "run postfix-sync as root"
    place = shlex.quote(str(path))
    if error.errno == errno.EPERM:
        directory = shlex.quote(str(path.parent))
        return (
            "does an attribute forbid changes even to root? see lsattr -d"
            f" {directory} {place}; to remove it: chattr -i {place}"
        )
    return (
        f"root is denied access: see namei -l {place} (modes, which a service without"
        f" CAP_DAC_OVERRIDE obeys), findmnt -T {place} (an NFS server), journalctl -k -g denied"
        " (AppArmor, SELinux)"
    )


def space_hint(path: Path, problem: str) -> str:
    """Return `room_hint` if `problem` is a lack of space, else an empty hint."""
    if "space left" not in problem and "quota" not in problem and "Read-only" not in problem:
        return ""
    return room_hint(path)


def room_hint(path: Path) -> str:
    """Return how much space is free, and the command that shows the file system."""
    while not path.exists():
        path = path.parent
    if os.ST_RDONLY & os.statvfs(path).f_flag:
        return (
            f"the file system of {path} is read-only; see: findmnt -T {path}; if it is so for the"
            " service only: systemctl show -p ReadWritePaths postfix-sync"
        )
    free = free_bytes(path) // 1024
    return f"{free} KiB are free there (df -h {path}); the next sync tries again"


def free_bytes(path: Path) -> int:
    """Return how many bytes the file system of a path has left for this user (statvfs(3))."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize
