"""Complete listings of a disk, and disks that are small, read-only, or do not answer."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One file or directory, with all attributes that a write to it would change."""

    kind: int
    inode: int
    mode: int
    owner: int
    group: int
    modified: int
    content: bytes


def tree(*roots: Path) -> dict[Path, Entry]:
    """Return all entries at and below these paths; missing paths are left out."""
    return {path: _entry(path) for root in roots for path in _below(root)}


def _below(path: Path) -> Iterator[Path]:
    if not os.path.lexists(path):
        return
    yield path
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            yield from _below(child)


def _entry(path: Path) -> Entry:
    found = path.lstat()
    if stat.S_ISREG(found.st_mode):
        content = path.read_bytes()
    else:
        content = str(path.readlink()).encode() if stat.S_ISLNK(found.st_mode) else b""
    return Entry(
        kind=stat.S_IFMT(found.st_mode),
        inode=found.st_ino,
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        group=found.st_gid,
        modified=found.st_mtime_ns,
        content=content,
    )


def mount(*arguments: str) -> None:
    """Run mount(8), as root."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def mounted(target: Path, *arguments: str) -> Iterator[Path]:
    """Mount something on `target` for the `with`: `mounted(dir, "-t", "tmpfs", …, "tmpfs")`."""
    mount(*arguments, str(target))
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@contextmanager
def small_disk(target: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size on `target`, which is created if it is missing."""
    target.mkdir(parents=True, exist_ok=True)
    with mounted(target, "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs"):
        yield target


@contextmanager
def dead_disk(target: Path) -> Iterator[Callable[[], None]]:
    """Cover a file or directory with a file system that does not answer, like a dead server's.

    Each access to it blocks until the yielded function is called; then it is an error.
    """
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    closing = ExitStack()
    closing.callback(os.close, device)
    kind = stat.S_IFMT(target.stat().st_mode)
    options = f"fd={device},rootmode={kind:o},user_id=0,group_id=0"
    try:
        subprocess.run(
            ["mount", "-i", "-t", "fuse", "-o", options, "dead", str(target)],
            pass_fds=[device],
            check=True,
        )
        yield closing.close
    finally:
        closing.close()
        # Lazily, because a process that was blocked may not have closed it yet.
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def remount(target: Path, options: str) -> None:
    """Change options of a mounted file system: `size=1m`, `ro`, `rw`."""
    mount("-o", f"remount,{options}", str(target))


def fill(directory: Path) -> Path:
    """Fill the free space; return the file that takes it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


def names(directory: Path) -> list[str]:
    """Return the sorted names of a directory's entries."""
    return sorted(path.name for path in directory.iterdir())
