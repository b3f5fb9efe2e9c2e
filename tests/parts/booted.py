"""A Debian host of a test's own, booted by the real systemd as its PID 1, in systemd-nspawn.

    with Booted("trixie", directory) as mx:
        mx.boot()
        mx.systemctl("restart", "postfix")
        mx.run("postqueue", "-p")
        mx.path("/etc/postfix-sync/config.yaml").write_text(...)
        mx.reboot()

What it writes is in memory, above a root that is kept (debian_root.py), from the `with` to its end,
however often it is switched off and on.  It is in a network of its own, that of a `namespaces.Host`
where it shall reach others; `online=True` gives one command this machine's network instead, for
apt and pip.

Nothing of it outlives the test, even one that is killed: its mounts are in a namespace that ends
with the process that holds it, and that process, systemd-nspawn and so the host end with the test.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from . import debian_root, postfix_version
from .common import PATIENCE, run, wait_for
from .namespaces import Host

CHECKOUT = Path(__file__).parents[2]

SHARED = "/media/shared"
"""Where the host finds what is in `Booted.shared`."""

NOT_SOURCES = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
)
"""What lies in a checkout and was made there."""

BOOTING = 120.0
"""Seconds that systemd may take to start everything, or to stop it."""

_NUMBERS = itertools.count()

_HOLD = (
    "mount --make-rprivate / 2>/dev/null; set -e;"
    # systemd-nspawn keeps things below /run that are named for the machine: it must be alone there.
    " mkdir -p /run/systemd/nspawn && mount -t tmpfs tmpfs /run/systemd/nspawn;"
    # In memory, so that it is a layer that any kernel takes, and that is gone with its namespace.
    ' mount -t tmpfs -o mode=755 tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/root";'
    ' mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$1/root";'
    " echo held; exec cat"
)


def available() -> bool:
    """What makes and boots a host is there."""
    tools = ("systemd-nspawn", "nsenter", "setpriv", "unshare")
    return debian_root.available() and all(
        shutil.which(name, path=debian_root.PATH) for name in tools
    )


class Booted:
    """One host; there from the `with` to its end, and running from boot() to power_off()."""

    def __init__(
        self,
        release: str,
        directory: Path,
        *,
        host: Host | None = None,
        packages: Iterable[str] = (),
        options: Iterable[str] = (),
        layer: Path | None = None,
    ) -> None:
        """Prepare, in a directory that others can reach.

        `packages` are on its disk besides our own, and so is what another host had written when
        its keep() made `layer`. `options` are systemd-nspawn's.
        """
        self.release = release
        self.shared = directory / "shared"
        self._directory = directory
        self._disk = directory / "disk"
        root = debian_root.debian_root(release, *packages)
        self._postfix = debian_root.postfix_version(root)
        self._lower = f"{layer}:{root}" if layer else str(root)
        self._options = tuple(options)
        self._network = f"--network-namespace-path=/run/netns/{host.namespace}" if host else ""
        self._cgroup = f"pfs-{os.getpid()}-{next(_NUMBERS)}"
        self._holder: subprocess.Popen[bytes] | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0
        """Its PID 1, as this machine numbers it; 0 while it is switched off."""

    def __enter__(self) -> Self:
        """Mount its disk; it is switched off."""
        _sweep()
        self.shared.mkdir(parents=True)
        self._disk.mkdir()
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--propagation", "unchanged"),
                *("sh", "-c", _HOLD, self._lower, self._disk),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"held\n":
            self._holder.communicate()
            raise RuntimeError(f"no disk could be mounted above {self._lower}")
        return self

    def __exit__(self, *exc: object) -> None:
        """Pull the plug, and leave nothing."""
        if self._nspawn:
            with suppress(ProcessLookupError):
                os.kill(self.leader or self._nspawn.pid, 9)
            self._ended(PATIENCE)
        assert self._holder
        self._holder.communicate()
        for cgroup in _cgroups():
            _remove(cgroup / self._cgroup)

    def boot(self, *, settled: bool = True) -> None:
        """Switch it on; return when all is started (when systemctl answers, if not `settled`)."""
        assert self._holder
        assert not self._nspawn
        # systemd-nspawn starts the host in the cgroup in which it is itself; two of them in one
        # would end each other's services.
        unified = next(_cgroups()) / self._cgroup
        unified.mkdir(exist_ok=True)
        join = 'echo 0 >"$0/cgroup.procs" && exec "$@"'
        with (self._directory / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    # Not KILL: PID 1 of a host would outlive it, while TERM switches the host off.
                    *("setpriv", "--pdeathsig", "TERM"),
                    *("sh", "-c", join, unified),
                    *("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"),
                    *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
                    *(f"--directory={self._disk}/root", "--machine=mx", "--console=pipe"),
                    *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
                    self._network or "--private-network",
                    f"--bind={self.shared}:{SHARED}",
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": os.defpath, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        states = ("running", "degraded") if settled else ("starting", "running", "degraded")
        try:
            wait_for(lambda: self._state() in states, BOOTING, f"a booted {self.release}")
        except (RuntimeError, TimeoutError) as error:
            raise RuntimeError(f"{error}\n{self.console}") from error

    def power_off(self) -> None:
        """Switch it off as an operator does."""
        assert self._nspawn
        self._nspawn.terminate()
        self._ended(BOOTING)

    def reboot(self) -> None:
        """Switch it off and on again."""
        self.power_off()
        self.boot()

    def _ended(self, timeout: float) -> None:
        assert self._nspawn
        try:
            self._nspawn.wait(timeout)
        finally:
            self._nspawn.kill()
            self._nspawn.wait()
            self._nspawn, self.leader = None, 0

    def _state(self) -> str:
        """What `systemctl is-system-running` says, as soon as there is a PID 1 to ask."""
        assert self._nspawn
        if self._nspawn.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended with status {self._nspawn.returncode}")
        pid = self._nspawn.pid
        # At first there is a child as well that makes the namespaces, in which nobody answers.
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            asked = subprocess.run(
                ["nsenter", f"--target={child}", "--all", "systemctl", "is-system-running"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if state := asked.stdout.strip():
                self.leader = int(child)
                return state
        return ""

    @property
    def console(self) -> str:
        """What systemd-nspawn and the host's systemd have printed."""
        return (self._directory / "console").read_text(errors="replace")

    # Its disk, whether it runs or not.

    def path(self, inside: str) -> Path:
        """A path of its disk, for whoever is outside.

        What the host has mounted is not there (/run, /tmp, what bind() did), and an absolute
        symbolic link leads to this machine's own files.
        """
        assert self._holder
        return Path(f"/proc/{self._holder.pid}/root{self._disk}/root/{inside.lstrip('/')}")

    def copy_checkout(self, inside: str = "/root/postfix-sync") -> str:
        """Copy the project there, as whoever has just fetched it has it; `inside`."""
        shutil.copytree(CHECKOUT, self.path(inside), ignore=NOT_SOURCES, symlinks=True)
        return inside

    def keep(self, layer: Path) -> None:
        """Keep what was written to the disk, for hosts that shall begin with it; it is off."""
        assert self._holder
        assert not self._nspawn
        upper = f"/proc/{self._holder.pid}/root{self._disk}/upper"
        run("cp", "--archive", upper, f"{layer}.making", timeout=debian_root.MAKING)
        Path(f"{layer}.making").rename(layer)

    def chroot(self, *command: str, timeout: float = debian_root.MAKING) -> str:
        """Run a command on the disk, with this machine's network, while the host is off."""
        assert self._holder
        assert not self._nspawn
        enter = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt")
        chroot = debian_root.chroot(self._disk / "root")
        environment = debian_root.environment()
        return run(*enter, *chroot, *command, env=environment, umask=0o022, timeout=timeout)

    # The host, while it runs.

    def ask(
        self, *command: str, stdin: str = "", online: bool = False, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host as root, and tell how it went.

        It is `online` in this machine's network, and the host's services stay in their own.
        """
        return subprocess.run(
            [*self._enter(online=online), *command],
            input=stdin,
            capture_output=True,
            text=True,
            env=_environment(online=online),
            umask=0o022,
            timeout=timeout,
            check=False,
        )

    def run(self, *command: str, online: bool = False, timeout: float = 120) -> str:
        """Run a command on the host as root, which must succeed; what it printed."""
        enter, environment = self._enter(online=online), _environment(online=online)
        return run(*enter, *command, env=environment, umask=0o022, timeout=timeout)

    def _enter(self, *, online: bool) -> Sequence[str]:
        assert self.leader, "the host is switched off"
        postfix_version.used(self._postfix)
        kinds = ("mount", "uts", "ipc", "pid", "cgroup", *(() if online else ("net",)))
        return ("nsenter", f"--target={self.leader}", *(f"--{kind}" for kind in kinds))

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which must succeed; what it printed."""
        return self.run("systemctl", "--no-pager", *arguments)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` has them."""
        lines = self.systemctl("show", unit, f"--property={','.join(properties)}").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def main_pid(self, unit: str) -> int:
        """The process of a service, as the host numbers it; 0 if there is none."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def processes(self, unit: str) -> dict[int, str]:
        """The processes of a service, as this machine numbers them, with their commands."""
        inside = self.show(unit, "ControlGroup")["ControlGroup"]
        found = {}
        with suppress(OSError):  # the service has ended, or the process
            cgroup = next(_cgroups()) / self._cgroup / "payload" / inside.lstrip("/")
            for pid in map(int, (cgroup / "cgroup.procs").read_text().split()):
                with suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    def wait_for_unit(self, unit: str, state: str = "active", timeout: float = PATIENCE) -> None:
        """Wait until a unit is in this state: active, activating, inactive, failed…"""
        try:
            wait_for(
                lambda: self.show(unit, "ActiveState")["ActiveState"] == state,
                timeout,
                f"{unit} {state}",
            )
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self._about(unit)}") from None

    def journal(self, unit: str, priority: str = "debug") -> list[str]:
        """The messages of a unit since the host was switched on, of this priority and above."""
        self.run("journalctl", "--sync")
        chosen = (f"--unit={unit}", f"--priority={priority}", "--output=cat", "--boot")
        return self.run("journalctl", "--no-pager", "--quiet", *chosen).splitlines()

    def wait_for_message(
        self, unit: str, text: str, *, times: int = 1, timeout: float = PATIENCE
    ) -> None:
        """Wait until the journal of a unit has a text (so many times)."""
        try:
            wait_for(
                lambda: sum(text in line for line in self.journal(unit)) >= times,
                timeout,
                f"{text!r} in the journal of {unit}",
            )
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self._about(unit)}") from None

    def _about(self, unit: str) -> str:
        return self.ask("systemctl", "--no-pager", "--full", "--lines=50", "status", unit).stdout

    def bind(self, name: str, at: str) -> None:
        """Mount what `shared` has under this name somewhere on the host, until it is off."""
        self.run("mkdir", "-p", at)
        self.run("mount", "--bind", f"{SHARED}/{name}", at)


def _environment(*, online: bool) -> Mapping[str, str]:
    """Of a command on a host: as little as a login gives, and the way to the network if wanted."""
    if online:
        return debian_root.environment()
    return {"PATH": debian_root.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}


def _cgroups() -> Iterator[Path]:
    """Where systemd arranges processes: the unified hierarchy, then the old one where it is."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, (kind, *_, options) = (part.split() for part in line.partition(" - "))
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.setdefault(kind, Path(fields[4]))
    own = dict(
        line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    for kind, controller in (("cgroup2", ""), ("cgroup", "name=systemd")):
        if kind in found:
            yield found[kind] / own[controller].lstrip("/")


def _sweep() -> None:
    """Removes the cgroups that tests have left which were killed."""
    for hierarchy in _cgroups():
        for left in hierarchy.glob("pfs-*-*"):
            if not Path(f"/proc/{left.name.split('-')[1]}").exists():
                with suppress(OSError):  # its host still ends, or somebody else removes it
                    _remove(left)


def _remove(cgroup: Path) -> None:
    """Removes a cgroup in which nothing runs any more, and those below it."""
    for below, _, _ in os.walk(cgroup, topdown=False):
        Path(below).rmdir()
