"""A host of a test's own to install on: this machine, but with another /etc, /opt and /usr/local.

    host = OtherHost(directory)
    host.run("make", "-C", source, "install")
    host.run("postfix-sync", "--version")

What is run there has a mount namespace of its own, in which three directories of the test lie over
those of the machine.  No service manager can be seen, so nothing is told to that of the machine.
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
    """It consists of the directories OWN below `directory`."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        """A host with this machine's /etc, and nothing in /opt and /usr/local."""
        shutil.copytree("/etc", directory / "etc", symlinks=True)
        shutil.rmtree(directory / "etc/postfix-sync", ignore_errors=True)
        for name in (*OWN, "usr/local/lib", "usr/local/sbin"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        return cls(directory)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command; what is run is the process that was started."""
        return ("unshare", "--mount", "sh", "-ec", _ENTER, "sh", str(self.directory))

    def run(
        self, *command: str | Path, environment: Mapping[str, str], timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; what it printed on either stream is its stdout."""
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
        """Everything on it, with the text of what is a file or a link."""
        found = {}
        for path in self.directory.rglob("*"):
            name = str(path.relative_to(self.directory))
            if path.is_symlink():
                found[name] = str(path.readlink())
            else:
                found[name] = path.read_bytes().decode("latin-1") if path.is_file() else "/"
        return found
