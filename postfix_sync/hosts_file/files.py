"""The hosts file on the disk, and the copy of it in Postfix's chroot.

Debian runs lmtp(8) chrooted, where it reads $queue_directory/etc/hosts: a copy that is made when
the service starts, and that is as old as that. It is kept in step here, whole, whenever names of
ours are in the hosts file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.hosts_file.block import Hosts, parse
from postfix_sync.system.files import discard, read_file, replace_file, staged_beside, unwritable
from postfix_sync.system.mounts import without_links


@dataclass(frozen=True)
class HostsFiles:
    """A hosts file and its copy, None where Postfix needs none."""

    path: Path
    copy: Path | None

    def read(self) -> Hosts:
        """The hosts file, split around our block. Raises ApplyError."""
        return parse(_content(self.path), str(self.path))

    def write(self, names: Mapping[str, str]) -> bool:
        """Makes `names` our block, and the copy follow; whether anything had to be written.

        Raises ApplyError or NotPermitted; the file that failed is then as it was.
        """
        content = self.read().with_block(names)
        written = _keep(self.path, content)
        if self.copy:
            written |= _keep(self.copy, content)
        return written

    def copy_is_current(self) -> bool:
        """Whether the copy, where there is to be one, is the same as the hosts file."""
        return not self.copy or _content(self.copy) == _content(self.path)

    def lacking(self, names: Mapping[str, str]) -> set[str]:
        """The host names that Postfix does not find in the file that it reads, or elsewhere.

        Raises ApplyError or NotPermitted where that file can't be read.
        """
        path = self.copy or self.path
        known = parse(_content(path), str(path)).lookup()
        return {name for name, address in names.items() if known.get(name) != address}

    def discard_staged(self) -> None:
        """Removes what a pass that was killed may have left beside the files."""
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
    """Whether the file had to be written for it to hold `content`."""
    if _content(path) == content:
        return False
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise unwritable(path, error) from None
    return True
