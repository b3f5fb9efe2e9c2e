"""OpenSSH's sshd of a test's own, with its keys, configuration and port.

    with Sshd(tmp_path / "sshd") as sshd:
        key = make_key(tmp_path / "id_ed25519")
        sshd.authorize(key)
        sshd.write_known_hosts(tmp_path / "known_hosts")
        ...  # log in as root at sshd.host, sshd.port

It runs as root, because only root can change to the user who logs in; it does not use /etc/ssh or
change /etc/passwd. OpenSSH 9 and 10 are handled in the same way: all descendants of the listener,
including `sshd-session` and `sshd-auth`, belong to it.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .common import free_port, run, wait_for

PROGRAM = "/usr/sbin/sshd"
SFTP_SERVER = "/usr/lib/openssh/sftp-server"
RUN_DIRECTORY = Path("/run/sshd")
"""The directory of sshd's unprivileged children; sshd's service, which is off here, makes it."""

_PATIENCE = 20.0

# Processes that a session started may outlive it. This process becomes the parent of such orphans
# (PR_SET_CHILD_SUBREAPER), prints the listener's PID, and ends with the last of its descendants.
_GUARDIAN = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)
print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid, flush=True)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""


def available() -> bool:
    """Whether an sshd can be run here."""
    return os.geteuid() == 0 and shutil.which(PROGRAM) is not None


@dataclass(frozen=True)
class Jail:
    """A user of this host who may only read one directory by SFTP.

    sshd reads authorized_keys as that user, so that user must be able to reach its directory.
    """

    user: str
    """A user that Debian has and that owns nothing here: `list`, `games`."""
    chroot: Path
    """Only root may own it and write to it and its parents: see `rooted_directory`."""


class Sshd:
    """The server; start() and stop() it, or use it in a with statement."""

    def __init__(
        self,
        directory: Path,
        *,
        listen: str = "127.0.0.1",
        port: int | None = None,
        prefix: Sequence[str] = (),
        host_keys: Iterable[str] = ("ed25519",),
        jail: Jail | None = None,
        count_requests: bool = False,
        options: Iterable[str] = (),
    ) -> None:
        """Prepare keys and configuration.

        `prefix` is a command to run it with (`ip netns exec NAME`); `host_keys` are types as
        ssh-keygen names them. `count_requests` runs the SFTP server as a program, which logs each
        request; inside sshd it could log only to a syslog. `options` are lines of sshd_config
        that override those here.
        """
        self.directory = directory
        self.host = listen
        self.port = port or free_port("127.0.0.1" if prefix else listen)
        self.log = directory / "log"
        self.requests_log = directory / "requests"
        self.authorized_keys = directory / "authorized_keys"
        self._prefix = list(prefix)
        self._jail = jail
        self._count_requests = count_requests
        self._options = list(options)
        self._host_keys = list(host_keys)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._listener = 0
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.authorized_keys.touch()
        for kind in self._host_keys:
            make_key(self.host_key(kind), kind)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    # --- keys and known hosts

    def host_key(self, kind: str = "ed25519") -> Path:
        """Return the path of the private host key of this type; the public key's path adds .pub."""
        return self.directory / f"ssh_host_{kind}_key"

    def replace_host_key(self, kind: str = "ed25519") -> None:
        """Replace a host key by another of the same type, from the next start on."""
        self.host_key(kind).unlink()
        make_key(self.host_key(kind), kind)

    def authorize(self, key: Path, options: str = "") -> None:
        """Permit logins with this private key, as any user that may log in."""
        line = f"{options} {public(key)}".lstrip()
        with self.authorized_keys.open("a") as file:
            file.write(f"{line}\n")

    def add_options(self, *lines: str) -> None:
        """Add lines to sshd_config, from the next start on."""
        self._options += lines

    @property
    def known_as(self) -> str:
        """The server's name in known_hosts files."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def login_with_new_key(self, directory: Path) -> dict[str, Any]:
        """Let root log in with a new key in a directory; return the `ssh` section of a source."""
        key = make_key(directory / "id_ed25519")
        self.authorize(key, "restrict")
        return {
            "host": self.host,
            "port": self.port,
            "user": "root",
            "identity": str(key),
            "known_hosts": str(self.write_known_hosts(directory / "known_hosts")),
        }

    def write_known_hosts(self, path: Path, *, hashed: bool = False) -> Path:
        """Add lines for all host keys to a known_hosts file, as ssh-keyscan would."""
        with path.open("a") as file:
            for kind in self._host_keys:
                algorithm, data = public(self.host_key(kind)).split()[:2]
                file.write(f"{self.known_as} {algorithm} {data}\n")
        if hashed:
            run("ssh-keygen", "-H", "-f", str(path))
            path.with_name(path.name + ".old").unlink()
        return path

    # --- start and stop

    def start(self) -> None:
        """Start, and return when it listens."""
        assert self._guardian is None, "it runs already"
        RUN_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        configuration = self.directory / "sshd_config"
        configuration.write_text(self._configuration())
        said = len(self.log_text())
        with (self.directory / "stderr").open("ab") as stderr:
            command = [*self._prefix, PROGRAM, "-D", "-f", str(configuration), "-E", str(self.log)]
            self._guardian = subprocess.Popen(
                [sys.executable, "-c", _GUARDIAN, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self._guardian.stdout
        with self._guardian.stdout as said_by_guardian:
            self._listener = int(said_by_guardian.readline())

        def listens() -> bool:
            assert self._listener in self.pids(), self.log_text() + self._stderr()
            return f"Server listening on {self.host} port {self.port}" in self.log_text()[said:]

        try:
            wait_for(listens, _PATIENCE, "sshd listens")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the listener and all sessions."""
        if self._guardian is None:
            return
        # Freeze them first, so that none can start another child.
        self.freeze()
        for pid in reversed(self.pids()):
            _signal(pid, signal.SIGKILL)
        self._guardian.wait(_PATIENCE)
        self._guardian = None

    def restart(self) -> None:
        """Stop and start: the same port and, unless they were replaced, the same keys."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Send SIGSTOP to all processes: the kernel accepts connections, but there is no answer."""
        seen: set[int] = set()
        while fresh := [pid for pid in self.pids() if pid not in seen]:
            for pid in fresh:
                _signal(pid, signal.SIGSTOP)
            seen.update(fresh)

    def thaw(self) -> None:
        """Continue all processes after freeze()."""
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)

    def kill_sessions(self) -> None:
        """End all sessions at once, but not the listener."""
        for pid in self.sessions():
            _signal(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Return the listener and all its descendants, parents first."""
        return _descendants(self._guardian.pid) if self._guardian else []

    def sessions(self) -> list[int]:
        """Return the processes that serve connections; empty if no client is connected."""
        return [pid for pid in self.pids() if pid != self._listener]

    # --- logs

    def log_text(self) -> str:
        """Return everything that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def requests(self, kind: str) -> int:
        """Return the number of SFTP requests of a kind in all sessions; needs `count_requests`.

        Kinds are the server's words: open, read, close, lstat, stat, fstat.
        """
        assert self._count_requests
        text = self.requests_log.read_text(errors="replace") if self.requests_log.exists() else ""
        return len(re.findall(rf"^debug\d: request \d+: {kind}\b", text, re.MULTILINE))

    def _stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def _configuration(self) -> str:
        lines = [
            *self._options,  # the first value of an option counts
            f"ListenAddress {self.host}",
            f"Port {self.port}",
            *(f"HostKey {self.host_key(kind)}" for kind in self._host_keys),
            "PidFile none",
            f"AuthorizedKeysFile {self.authorized_keys}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "MaxStartups 200",
            "UseDNS no",
            "LogLevel DEBUG",
        ]
        if openssh_version() >= (9, 8):
            # All tests connect from one address, and some connections are meant to be refused.
            lines.append("PerSourcePenalties no")
        if not any(option.startswith("Subsystem") for option in self._options):
            lines.append(f"Subsystem sftp {self._sftp_command()}")
        if self._jail:
            lines += [
                f"Match User {self._jail.user}",
                f"    ChrootDirectory {self._jail.chroot}",
                "    ForceCommand internal-sftp -R",
                "    DisableForwarding yes",
                "    PermitTTY no",
            ]
        return "\n".join(lines) + "\n"

    def _sftp_command(self) -> str:
        if self._count_requests:
            return f"{SFTP_SERVER} -e -l DEBUG3 2>>{self.requests_log}"
        return "internal-sftp"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Make a key pair: the private key at `path`, the public key beside it with .pub."""
    run("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path))
    return path


def public(key: Path) -> str:
    """Return the public key as a line of authorized_keys."""
    return key.with_name(key.name + ".pub").read_text().strip()


def fingerprint(key: Path) -> str:
    """Return the fingerprint SHA256:…, as ssh-keygen prints it."""
    return run("ssh-keygen", "-l", "-f", f"{key}.pub").split()[1]


def openssh_version() -> tuple[int, int]:
    """Return major and minor version of the installed sshd."""
    said = subprocess.run([PROGRAM, "-V"], check=False, capture_output=True, text=True)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stderr + said.stdout)
    assert found, said
    return int(found[1]), int(found[2])


@contextmanager
def rooted_directory() -> Iterator[Path]:
    """Make a directory that sshd accepts for ChrootDirectory.

    Only root may write to it and to its parents up to /, so it can't be in /tmp.
    """
    directory = Path(tempfile.mkdtemp(prefix="pfs-", dir="/run"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _descendants(pid: int) -> list[int]:
    """Return all descendants of a process, parents before children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # the process has ended
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found, look = [], [pid]
    while look:
        below = children.get(look.pop(0), [])
        found += below
        look += below
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
