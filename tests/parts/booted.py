"""A Debian host of a test's own, booted in systemd-nspawn with the real systemd as PID 1.

    with Booted("trixie", directory) as mx:
        mx.boot()
        mx.systemctl("restart", "postfix")
        mx.run("postqueue", "-p")
        mx.path("/etc/postfix-sync/config.yaml").write_text(...)
        mx.reboot()

What it writes is in memory, in a layer above a cached root (debian_root.py). The layer is kept for
the duration of the `with`, also while the host is off.  The host has a network of its own, or that
of a `namespaces.Host` if it has to reach others; `online=True` gives one command this machine's
network instead, for apt and pip.

The host does not outlive the test, even a killed one: its mounts are in a namespace that ends with
the process that holds it; that process, systemd-nspawn and so the host end with the test.
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
"""The host's mount point of `Booted.shared`."""

NOT_SOURCES = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
)
"""Generated files in a checkout."""

BOOTING = 120.0
"""Seconds that systemd may take to start or to stop all units."""

_NUMBERS = itertools.count()

_HOLD = (
    "mount --make-rprivate / 2>/dev/null; set -e;"
    # systemd-nspawn keeps files below /run that are named after the machine, so it needs its own.
    " mkdir -p /run/systemd/nspawn && mount -t tmpfs tmpfs /run/systemd/nspawn;"
    # In memory: any kernel accepts it as a layer, and it is removed with its namespace.
    ' mount -t tmpfs -o mode=755 tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/root";'
    ' mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$1/root";'
    " echo held; exec cat"
)


def available() -> bool:
    """Whether the programs that make and boot a host are installed."""
    tools = ("systemd-nspawn", "nsenter", "setpriv", "unshare")
    return debian_root.available() and all(
        shutil.which(name, path=debian_root.PATH) for name in tools
    )


class Booted:
    """One host; it exists during the `with`, and runs from boot() to power_off()."""

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
        """Prepare the host, in a directory that other users can reach.

        `packages` are installed in addition to the usual ones. `layer` is what keep() of another
        host saved. `options` are systemd-nspawn's.
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
        """The process id of its PID 1 on this machine; 0 while the host is off."""

    def __enter__(self) -> Self:
        """Mount its disk; the host is off."""
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
        """End the host at once, and remove everything."""
        if self._nspawn:
            with suppress(ProcessLookupError):
                os.kill(self.leader or self._nspawn.pid, 9)
            self._ended(PATIENCE)
        assert self._holder
        self._holder.communicate()
        for cgroup in _cgroups():
            _remove(cgroup / self._cgroup)

    def boot(self, *, settled: bool = True) -> None:
        """Boot; return when all units are started, or if not `settled`, when systemctl answers."""
        assert self._holder
        assert not self._nspawn
        # systemd-nspawn starts the host in its own cgroup; two hosts in one cgroup would end
        # each other's services.
        unified = next(_cgroups()) / self._cgroup
        unified.mkdir(exist_ok=True)
        join = 'echo 0 >"$0/cgroup.procs" && exec "$@"'
        with (self._directory / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    # TERM switches the host off; after KILL its PID 1 would outlive systemd-nspawn.
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
        """Shut it down as an operator does."""
        assert self._nspawn
        self._nspawn.terminate()
        self._ended(BOOTING)

    def reboot(self) -> None:
        """Shut it down and boot it again."""
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
        """Return the output of `systemctl is-system-running`; before that works, an empty text."""
        assert self._nspawn
        if self._nspawn.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended with status {self._nspawn.returncode}")
        pid = self._nspawn.pid
        # At first there is another child, which makes the namespaces and has no systemd.
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            done = subprocess.run(
                ["nsenter", f"--target={child}", "--all", "systemctl", "is-system-running"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if state := done.stdout.strip():
                self.leader = int(child)
                return state
        return ""

    @property
    def console(self) -> str:
        """The output of systemd-nspawn and the host's systemd so far."""
        return (self._directory / "console").read_text(errors="replace")

    # Its disk, whether it runs or not.

    def path(self, inside: str) -> Path:
        """Return a path of its disk as seen from outside the host.

        The host's mounts are not visible there (/run, /tmp, those of bind()), and an absolute
        symbolic link leads to this machine's own files.
        """
        assert self._holder
        return Path(f"/proc/{self._holder.pid}/root{self._disk}/root/{inside.lstrip('/')}")

    def copy_checkout(self, inside: str = "/root/postfix-sync") -> str:
        """Copy the project to the host, as in a fresh clone; return `inside`."""
        shutil.copytree(CHECKOUT, self.path(inside), ignore=NOT_SOURCES, symlinks=True)
        return inside

    def keep(self, layer: Path) -> None:
        """Save what was written to the disk as a layer for other hosts; the host is off."""
        assert self._holder
        assert not self._nspawn
        upper = f"/proc/{self._holder.pid}/root{self._disk}/upper"
        run("cp", "--archive", upper, f"{layer}.making", timeout=debian_root.MAKING)
        Path(f"{layer}.making").rename(layer)

    def chroot(self, *command: str, timeout: float = debian_root.MAKING) -> str:
        """Run a command in the host's root, with this machine's network, while the host is off."""
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
        """Run a command on the host as root; return its status and output.

        With `online`, the command runs in this machine's network, unlike the host's services.
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
        """Run a command on the host as root, which must succeed; return its output."""
        enter, environment = self._enter(online=online), _environment(online=online)
        return run(*enter, *command, env=environment, umask=0o022, timeout=timeout)

    def _enter(self, *, online: bool) -> Sequence[str]:
        assert self.leader, "the host is switched off"
        postfix_version.used(self._postfix)
        kinds = ("mount", "uts", "ipc", "pid", "cgroup", *(() if online else ("net",)))
        return ("nsenter", f"--target={self.leader}", *(f"--{kind}" for kind in kinds))

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which must succeed; return its output."""
        return self.run("systemctl", "--no-pager", *arguments)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit, as `systemctl show` prints them."""
        lines = self.systemctl("show", unit, f"--property={','.join(properties)}").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def main_pid(self, unit: str) -> int:
        """Return a service's main process id on the host; 0 if there is none."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def processes(self, unit: str) -> dict[int, str]:
        """Return the processes of a service by process id on this machine, with their commands."""
        inside = self.show(unit, "ControlGroup")["ControlGroup"]
        found = {}
        with suppress(OSError):  # the service or the process has ended
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
        """Return the messages of a unit since the boot, with at least this priority."""
        self.run("journalctl", "--sync")
        chosen = (f"--unit={unit}", f"--priority={priority}", "--output=cat", "--boot")
        return self.run("journalctl", "--no-pager", "--quiet", *chosen).splitlines()

    def wait_for_message(
        self, unit: str, text: str, *, times: int = 1, timeout: float = PATIENCE
    ) -> None:
        """Wait until the journal of a unit has a text, `times` times."""
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
        """Mount an entry of `shared` on the host, until the host is off."""
        self.run("mkdir", "-p", at)
        self.run("mount", "--bind", f"{SHARED}/{name}", at)


def _environment(*, online: bool) -> Mapping[str, str]:
    """Return a command's environment: that of a login, or with `online` this machine's."""
    if online:
        return debian_root.environment()
    return {"PATH": debian_root.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}


def _cgroups() -> Iterator[Path]:
    """Yield this process's cgroups of systemd: the unified one, then the old one if it exists."""
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
    """Remove the cgroups that killed tests have left."""
    for hierarchy in _cgroups():
        for left in hierarchy.glob("pfs-*-*"):
            if not Path(f"/proc/{left.name.split('-')[1]}").exists():
                with suppress(OSError):  # in use, or removed by another process
                    _remove(left)


def _remove(cgroup: Path) -> None:
    """Remove a cgroup without processes, and those below it."""
    for below, _, _ in os.walk(cgroup, topdown=False):
        Path(below).rmdir()
