"""A test's own host to install on: this machine with another /etc, /opt and /usr/local.

    host = OtherHost(directory)
    host.run("make", "-C", source, "install")
    host.run("postfix-sync", "--version")

Its commands run in a mount namespace, in which three directories of the test cover those of the
machine.  The machine's service manager is hidden, so no command can change its units.
"""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

OWN = ("etc", "opt", "usr/local")

_ENTER = """\
[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd
for own in etc opt usr/local; do mount --bind "$1/$own" "/$own"; done
shift
exec "$@"
"""


@dataclass(frozen=True)
class OtherHost:
    """A host; it consists of the directories OWN below `directory`."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Make a host with this machine's /etc, and with empty /opt and /usr/local."""
        shutil.copytree("/etc", directory / "etc", symlinks=True)
        shutil.rmtree(directory / "etc/postfix-sync", ignore_errors=True)
        for name in (*OWN, "usr/local/lib", "usr/local/sbin"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        return cls(directory)

    @property
    def prefix(self) -> tuple[str, ...]:
        """The prefix of a command that runs on it, without another process in between."""
        return ("unshare", "--mount", "sh", "-ec", _ENTER, "sh", str(self.directory))

    def run(
        self, *command: str | Path, environment: Mapping[str, str], timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its result's stdout has the output of both streams."""
        return subprocess.run(
            [*self.prefix, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def tree(self) -> dict[str, str]:
        """Return every path on it, with the text of files and the targets of links."""
        found = {}
        for path in self.directory.rglob("*"):
            name = str(path.relative_to(self.directory))
            if path.is_symlink():
                found[name] = str(path.readlink())
            else:
                found[name] = path.read_bytes().decode("latin-1") if path.is_file() else "/"
        return found
