"""Read files safely, and replace them atomically."""

import contextlib
import errno
import os
import shlex
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from postfix_sync.errors import ApplyError, NotPermitted, SyncError, why
from postfix_sync.system.commands import READ_AT_MOST
from postfix_sync.system.mounts import without_links


def version_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from its next version, its mode and owner included: inode and ctime (ns).

    None where there is no such file, or none that can be seen.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def is_private(found: os.stat_result) -> bool:
    """Whether it is a regular file that only root, or the user of this process, can open."""
    owned = found.st_uid in {0, os.geteuid()}
    return stat.S_ISREG(found.st_mode) and owned and not found.st_mode & 0o077


WITHOUT_WAITING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""How to open what may be a FIFO, which would hold up a pass for ever."""


class NotRegular(OSError):
    """Where a file should be is something else, or more than READ_AT_MOST."""


def kind(mode: int) -> str:
    """What a mode (st_mode) says of something that is no regular file."""
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file to be read, and never waits. Raises OSError, also for all others."""
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
        raise NotRegular(f"has {found.st_size} bytes, more than would be read")
    raise NotRegular(f"is {kind(found.st_mode)}, not a regular file")


def read_file(path: Path) -> bytes:
    """The content of a regular file. Raises OSError as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def write_file(path: Path, content: bytes, mode: int, *, new: bool = False) -> None:
    """Writes a file in place and waits until it is on the disk. Raises OSError.

    `new`: there must be none.
    """
    # Whoever may write to the directory must not make root write through a link of theirs.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | (os.O_EXCL if new else 0), mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def publish_file(staged: Path, path: Path) -> None:
    """Renames `staged` to `path`, both on the disk before and after. Raises OSError."""
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
    """Puts a file of mode 0644 into its place at once, whatever is there. Raises OSError.

    No link is followed, and nothing is opened that was there before: for a directory that others
    than root may write to.
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
    """Gives a file new content at once, its owner, mode and labels kept; creates it 0644.

    A link is followed. A file that is itself a mount, as /etc/hosts is in a container, can't be
    renamed onto (EBUSY), nor a file be made beside it where the rest is read-only (EROFS): it is
    written in place. Raises OSError.
    """
    path = without_links(path)
    staged = staged_beside(path)
    try:
        # What may not be read by everyone is not, on its way there either.
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
    """Removes a file, if it is there; gone from the disk afterwards. Raises OSError."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def discard(path: Path) -> None:
    """Removes a file that is of no use any more, if it is there and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def staged_beside(path: Path) -> Path:
    """Where `replace_file` builds; a pass that is killed there leaves this file behind."""
    return path.with_name(f".{path.name}.postfix-sync")


def _overwrite(path: Path, content: bytes) -> None:
    """Changes a file in place from the first byte that differs on."""
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
    """What to tell of a file that can't be written, or read for that; what was there still is."""
    message = f"{path}: {why(error)}; what is installed is left as it is"
    if isinstance(error, PermissionError):
        return NotPermitted(message, denied_hint(path, error))
    if isinstance(error, NotRegular):
        fix = shlex.join(["mv", "-T", str(path), f"{path}.aside"])
        return ApplyError(message, f"put it aside: {fix}", fix)
    return ApplyError(message, space_hint(path, message))


def denied_hint(path: Path, error: OSError) -> str:
    """What to do where the system denied access to `path`, or the commands that show the cause.

    root is denied by other things than another user is: EPERM is what an attribute of the file
    causes (chattr(1)), EACCES a server of NFS, a security module, or the sandbox of a service.
    """
    if os.geteuid() != 0:
        return "run postfix-sync as root"
    place = shlex.quote(str(path))
    if error.errno == errno.EPERM:
        directory = shlex.quote(str(path.parent))
        return (
            "an attribute that forbids even root to change it? see lsattr -d"
            f" {directory} {place}; to remove it: chattr -i {place}"
        )
    return (
        f"root is denied it: see namei -l {place} (modes, which a service without CAP_DAC_OVERRIDE"
        f" obeys), findmnt -T {place} (an NFS server), journalctl -k -g denied (AppArmor, SELinux)"
    )


def space_hint(path: Path, problem: str) -> str:
    """Where `problem` is one of space, how much there is, for whoever has to make some."""
    if "space left" not in problem and "quota" not in problem and "Read-only" not in problem:
        return ""
    return room_hint(path)


def room_hint(path: Path) -> str:
    """How much room there is, for whoever has to make some."""
    while not path.exists():
        path = path.parent
    if os.ST_RDONLY & os.statvfs(path).f_flag:
        return (
            f"the file system of {path} is read-only; see: findmnt -T {path}; if it is so for the"
            " service alone: systemctl show -p ReadWritePaths postfix-sync"
        )
    free = free_bytes(path) // 1024
    return f"{free} KiB are free there (df -h {path}); the next pass tries again"


def free_bytes(path: Path) -> int:
    """Return how many bytes the file system of a path has left for this user (statvfs(3))."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize
