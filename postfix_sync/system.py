"""The only place that runs commands, replaces files and takes the lock.

Commands run without a shell, in a clean environment, under a timeout. What they print is kept in
memory files instead of pipes: a child that a command leaves behind (`postfix reload` starts a
postsuper) must not hold up a reader, and a full disk must not swallow an error message.
"""

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import re
import shlex
import shutil
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from postfix_sync.errors import (
    ApplyError,
    Busy,
    ConfigError,
    NotPermitted,
    OutOfReach,
    SyncError,
    TimedOut,
    why,
)
from postfix_sync.log import LOG

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
"""cron's PATH lacks the sbin directories, where Postfix lives."""

ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C"}

COMMAND_TIMEOUT = 120.0

AT_A_TIME = 65536
"""Bytes of what a command prints that are taken from it at once."""

READ_AT_MOST = 2**30
"""Bytes that a file may have to be read: the map of 1.5 million lists, and what memory can take."""

LOCK_TIMEOUT = 30.0
LOCK_POLL = 0.05
LOCK_MODE = 0o600


def program() -> list[str]:
    """The command that runs this program, whatever PATH is: where it was installed is known here.

    `/usr/bin/postfix-sync` from the Debian package, `/usr/local/sbin` from make install, and from
    pipx a directory of the user's own; without any of them, this Python with its module.
    """
    path = Path(sys.argv[0]).absolute()
    if path.name == "postfix-sync" and os.access(path, os.X_OK):
        return [str(path)]
    return [sys.executable, "-m", "postfix_sync"]


@dataclass(frozen=True)
class Completed:
    """How a command ended, and what it printed."""

    command: str
    status: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """What it said of its failure, on one line."""
        said = "; ".join(line.strip() for line in self.stderr.splitlines() if line.strip())
        return said or f"exit status {self.status}"


@functools.cache
def find_command(
    name: str,
    hint: str = "install Postfix on this host: postfix-sync runs beside it, not in the container",
) -> str:
    """The absolute path of a command; raises ConfigError, with `hint`, where there is none."""
    path = shutil.which(name, path=SEARCH_PATH)
    if not path:
        raise ConfigError(f"{name}: no such command in {SEARCH_PATH}", hint)
    return path


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = COMMAND_TIMEOUT,
    keep_open: Sequence[int] = (),
    directory: Path | None = None,
) -> Completed:
    """Runs a command to its end; `keep_open` are file descriptors that it inherits.

    `directory` is where it runs, if not here.

    Raises ApplyError where it can't be started, TimedOut where it takes longer than `timeout`
    seconds; it is killed then.
    """
    command = _short(argv)
    with _memory_file(stdin) as given, _memory_file() as printed, _memory_file() as complained:
        process = await _start(
            argv,
            stdin=given,
            stdout=printed,
            stderr=complained,
            cwd=directory,
            pass_fds=keep_open,
        )
        try:
            async with asyncio.timeout(timeout):
                status = await process.wait()
        except TimeoutError:
            raise TimedOut(f"{command}: not done after {timeout:g} s; killed") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Completed(command, status, _text(printed), _text(complained))


async def _start(argv: Sequence[str], **how: Any) -> asyncio.subprocess.Process:
    """Starts a command. Raises ApplyError where it can't be."""
    try:
        return await asyncio.create_subprocess_exec(*argv, env=ENVIRONMENT, **how)
    except OSError as error:
        raise ApplyError(f"{_short(argv)}: can't be started: {why(error)}") from None


def _short(argv: Sequence[str]) -> str:
    """Name a command for messages: program and verb, `postfix reload`.

    Postfix's commands have the instance before the verb, `-c DIRECTORY`.
    """
    program, *rest = argv
    verb = rest[2:3] if rest[:1] == ["-c"] else rest[:1]
    return " ".join([Path(program).name, *(word for word in verb if not word.startswith("-"))])


@dataclass(frozen=True)
class Running:
    """A command that goes on, and what it prints while it does."""

    command: str
    process: asyncio.subprocess.Process
    printed: asyncio.StreamReader
    complained: int

    async def prints(self, timeout: float | None) -> bool:
        """Whether it printed something, within `timeout` seconds if given.

        Raises OutOfReach when it has ended, with what it said of that.
        """
        try:
            async with asyncio.timeout(timeout):
                if await self.printed.read(AT_A_TIME):
                    return True
                status = await self.process.wait()
        except TimeoutError:
            return False
        ended = Completed(self.command, status, "", _text(self.complained))
        raise OutOfReach(f"{self.command}: has ended: {ended.complaint}")


@contextlib.asynccontextmanager
async def running(argv: Sequence[str]) -> AsyncIterator[Running]:
    """Runs a command for as long as the block does. Raises ApplyError where it can't be started."""
    # A pipe of our own: asyncio's would be waited for together with the process, and a child that
    # the command leaves behind may hold it.
    ours, theirs = os.pipe()
    printed = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(printed), os.fdopen(ours, "rb", 0)
    )
    with contextlib.closing(transport), _memory_file() as complained:
        try:
            process = await _start(
                argv, stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=complained
            )
        finally:
            os.close(theirs)
        try:
            yield Running(_short(argv), process, printed, complained)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.contextmanager
def _memory_file(content: bytes = b"") -> Iterator[int]:
    descriptor = os.memfd_create("postfix-sync", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _text(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    parts, offset = [], 0
    while offset < size and (part := os.pread(descriptor, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Mount:
    """One line of the kernel's list of mounts."""

    point: Path
    kind: str
    """The type of its file system: ext4, nfs4, fuse.sshfs…"""


def without_links(path: Path) -> Path:
    """A path with its links followed, as far as they lead somewhere.

    Links in a circle stay, for whoever opens it to get an OSError: Path.resolve() raises
    RuntimeError for them before Python 3.13.
    """
    return Path(os.path.realpath(path))


def mount_of(path: Path) -> Mount | None:
    """The mount that a path lies in, or is; None where the kernel does not say (proc(5))."""
    try:
        listed = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    path = without_links(path)
    found = None
    for line in listed.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda one: chr(int(one[1], 8)), before.split()[4])
        mount = Mount(Path(point), after.split()[0])
        deeper = found is None or mount.point.is_relative_to(found.point)  # later ones lie on top
        if deeper and path.is_relative_to(mount.point):
            found = mount
    return found


@contextlib.asynccontextmanager
async def lock(path: Path, *, create: bool = True) -> AsyncIterator[int]:
    """Holds an exclusive flock(2) on `path`; yields its descriptor, -1 if there is nothing to lock.

    A command that inherits the descriptor keeps the lock while it runs, also when this process is
    killed: the next pass then doesn't meet a postmap that is still writing.

    flock(2) asks for no more than an open for reading, so only a file that other users can't open
    (`is_private`) keeps them out. Any other, such as the 0644 of earlier versions, is replaced by a
    private one: a local user may have it open and locked already, which no chmod(2) ends. A pass of
    an earlier version may hold it, too, so it is waited for all the same; but not beyond
    LOCK_TIMEOUT. `create=False` makes and replaces nothing, and does without a lock that the user
    of this process can't open.

    Raises Busy if the lock is still held after LOCK_TIMEOUT seconds.
    """
    with contextlib.ExitStack() as opened:
        yield await _locked(path, create, opened)


async def _locked(path: Path, create: bool, opened: contextlib.ExitStack) -> int:
    """Waits for the lock. Returns and raises as `lock` does; closing `opened` releases it."""
    give_up = time.monotonic() + LOCK_TIMEOUT
    descriptor = _open_lock(path, create, opened)
    while descriptor >= 0:
        held, late = _try_lock(descriptor, path), time.monotonic() > give_up
        if not _is_at(path, descriptor):  # somebody has replaced or removed it meanwhile
            opened.close()
            descriptor = _open_lock(path, create, opened)
            continue
        if create and (held or late) and not is_private(os.fstat(descriptor)):
            private = _replace_lock(path, descriptor, opened)
            if private >= 0:
                if not held:
                    LOG.warning(
                        "%s: any user of this host could open it, and it was locked for %g s; a"
                        " file that only root can open is in its place now",
                        path,
                        LOCK_TIMEOUT,
                    )
                return private
        if held:
            break
        if late:
            raise Busy(
                f"{path}: another pass has held the lock for {LOCK_TIMEOUT:g} s; nothing was done",
                f"see who: fuser -v {path}",
            )
        await asyncio.sleep(LOCK_POLL)
    return descriptor


def _open_lock(path: Path, create: bool, opened: contextlib.ExitStack) -> int:
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        descriptor = os.open(path, WITHOUT_WAITING | flags, LOCK_MODE)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) and not create:
            return -1
        raise unwritable(path, error) from None
    opened.callback(os.close, descriptor)
    return descriptor


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unwritable(path, error) from None
    return True


def version_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from its next version, its mode and owner included: inode and ctime (ns).

    None where there is no such file, or none that can be seen.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether `path` is the name of the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_private(found: os.stat_result) -> bool:
    """Whether it is a regular file that only root, or the user of this process, can open."""
    owned = found.st_uid in {0, os.geteuid()}
    return stat.S_ISREG(found.st_mode) and owned and not found.st_mode & 0o077


def _replace_lock(path: Path, old: int, opened: contextlib.ExitStack) -> int:
    """Gives the name of the open file `old` to a private one, locked; -1 if that can't be done."""
    staged = staged_beside(path)
    try:
        new = os.open(staged, WITHOUT_WAITING | os.O_NOFOLLOW | os.O_CREAT, LOCK_MODE)
        opened.callback(os.close, new)
        if not _try_lock(new, staged) or not _is_at(staged, new):
            return -1  # another process is doing the same
        # From here on nobody else can have the staged file. Whoever had it before has renamed it.
        if is_private(os.fstat(new)) and _is_at(path, old):
            staged.rename(path)
            return new
    except (OSError, SyncError):
        return -1
    discard(staged)
    return -1


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
