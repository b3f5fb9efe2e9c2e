"""Find the mount that a path is on, past symbolic links."""

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mount:
    """One line of the kernel's list of mounts."""

    point: Path
    kind: str
    """The type of its file system: ext4, nfs4, fuse.sshfs…"""


def without_links(path: Path) -> Path:
    """Return a path with its symbolic links followed, as far as they exist.

    Circular links are kept, so that opening the path raises OSError: before Python 3.13,
    Path.resolve() raises RuntimeError for them.
    """
    return Path(os.path.realpath(path))


def mount_of(path: Path) -> Mount | None:
    """Return the mount that contains a path; None if the kernel does not say (proc(5))."""
    try:
        listed = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    path = without_links(path)
    found = None
    for line in listed.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), before.split()[4])
        mount = Mount(Path(point), after.split()[0])
        deeper = found is None or mount.point.is_relative_to(found.point)  # later ones lie on top
        if deeper and path.is_relative_to(mount.point):
            found = mount
    return found
