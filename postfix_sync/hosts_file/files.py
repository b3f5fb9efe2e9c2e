"""The hosts file on the disk, and the copy of it in Postfix's chroot.

Debian runs lmtp(8) chrooted, where it reads $queue_directory/etc/hosts: a copy that is made when
the service starts, and that is not updated afterwards. This module writes that copy, whole,
whenever it writes the hosts file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.hosts_file.block import Hosts, parse
from postfix_sync.system.files import discard, read_file, replace_file, staged_beside, unwritable
from postfix_sync.system.mounts import without_links


@dataclass(frozen=True)
class HostsFiles:
    """A hosts file and its copy in the chroot; the copy is None if Postfix needs none."""

    path: Path
    copy: Path | None

    def read(self) -> Hosts:
        """Read the hosts file, split around our block.

        Raises ApplyError or NotPermitted if it cannot be read, or ApplyError if its markers are
        damaged. A file that does not exist is empty.
        """
        return parse(_content(self.path), str(self.path))

    def write(self, names: Mapping[str, str]) -> bool:
        """Write `names` (host name -> IP address) as our block, and then the copy.

        Return whether a file was written. Raises ApplyError or NotPermitted; the file that could
        not be written is then unchanged.
        """
        content = self.read().with_block(names)
        written = _keep(self.path, content)
        if self.copy:
            written |= _keep(self.copy, content)
        return written

    def copy_is_current(self) -> bool:
        """Return whether the copy equals the hosts file; True if Postfix needs no copy.

        Raises ApplyError or NotPermitted if either cannot be read.
        """
        return not self.copy or _content(self.copy) == _content(self.path)

    def lacking(self, names: Mapping[str, str]) -> set[str]:
        """Return the host names of `names` that lack their address in the file that Postfix reads.

        Raises ApplyError or NotPermitted if that file cannot be read.
        """
        path = self.copy or self.path
        known = parse(_content(path), str(path)).lookup()
        return {name for name, address in names.items() if known.get(name) != address}

    def discard_staged(self) -> None:
        """Remove the staged files that a killed sync may have left beside both files."""
        for path in (self.path, self.copy):
            if path:
                discard(staged_beside(without_links(path)))


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise unwritable(path, error) from None


def _keep(path: Path, content: bytes) -> bool:
    """Make the file hold `content`; return whether that took a write."""
    if _content(path) == content:
        return False
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise unwritable(path, error) from None
    return True
