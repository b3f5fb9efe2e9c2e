"""Containers of a test's own, run by the real podman from an image that is made here.

    with Podman(directory) as podman, podman.inside():
        podman.run("mailman")
        site.once()

They are separate from the machine's own containers and networks: podman has its own storage, and a
mount and a network namespace with private /etc/containers, /run, bridges and firewall rules.  What
a thread does `inside()` happens there, including postfix-sync's calls of `podman`, which therefore
find the containers of the test.

The image is nearly empty: the machine's /usr, the checkout and its Python are mounted into each
container.  Nothing is downloaded.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from .common import run, wait_for
from .root_image import root_image

IMAGE = "localhost/postfix-sync-test"

CHECKOUT = Path(__file__).parents[2]

_CONTAINERS_CONF = """\
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
"""
_STORAGE_CONF = """\
[storage]
driver = "vfs"
graphroot = "{directory}/storage"
runroot = "{directory}/run"
"""
# Accept any image: the only one is made here.
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'

_SETNS = {"net": 0x40000000, "mnt": 0x00020000}
_CLONE_FS = 0x00000200
_LIBC = ctypes.CDLL(None, use_errno=True)


def available() -> bool:
    """Whether podman and its requirements are installed."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return all(shutil.which(name, path=path) for name in ("podman", "runc", "iptables", "unshare"))


class Podman:
    """A podman with its own namespaces; start() and stop() it, or use it in a with statement."""

    def __init__(self, directory: Path) -> None:
        """Prepare, in a directory that does not exist yet."""
        self.directory = directory
        self._holder: subprocess.Popen[bytes] | None = None
        self._namespaces: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Make the namespaces and the image."""
        etc = self.directory / "etc"
        etc.mkdir(parents=True)
        (etc / "containers.conf").write_text(_CONTAINERS_CONF)
        (etc / "storage.conf").write_text(_STORAGE_CONF.format(directory=self.directory))
        (etc / "policy.json").write_text(_POLICY)
        enter = (
            "mount --make-rprivate / 2>/dev/null;"
            " ip link set lo up && mount -t tmpfs tmpfs /run"
            ' && mount --bind "$0" /etc/containers && echo made && exec cat'
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "unchanged", "sh", "-c", enter, etc],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"made\n":
            raise RuntimeError("no namespaces could be made for podman")
        for kind in _SETNS:
            path = f"/proc/{self._holder.pid}/ns/{kind}"
            self._namespaces[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        image = self.directory / "image.tar"
        image.write_bytes(root_image())
        self.command("import", "--quiet", str(image), IMAGE)

    def stop(self) -> None:
        """End all containers and other processes inside; may be called again."""
        if self._namespaces:
            with suppress(RuntimeError):
                self.command("pod", "rm", "--all", "--force", "--time", "0")
            self.command("rm", "--all", "--force", "--time", "0")
        if self._holder:
            self._holder.communicate()  # closes its standard input, and so ends it
            self._holder = None
        if self._namespaces:
            wait_for(lambda: not self._end_all(), 20, "the end of what ran with podman")
        for descriptor in self._namespaces.values():
            os.close(descriptor)
        self._namespaces = {}

    def _end_all(self) -> list[int]:
        """Kill the processes left in the network namespace: conmon, aardvark-dns, events."""
        there = os.fstat(self._namespaces["net"]).st_ino
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                pid = int(process.name)
                if (process / "ns/net").stat().st_ino == there and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
                    found.append(pid)
        return found

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread, and all that it starts, into podman's namespaces."""
        directory = Path.cwd()
        home = {kind: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in _SETNS}
        try:
            _enter(self._namespaces)
            os.chdir(directory)
            try:
                yield
            finally:
                _enter(home)
                os.chdir(directory)
        finally:
            for descriptor in home.values():
                os.close(descriptor)

    def command(self, *arguments: str) -> str:
        """Run podman, which must succeed; return its output."""
        with self.inside():
            return run("podman", *arguments)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return podman's description of a container."""
        found: list[dict[str, Any]] = json.loads(self.command("container", "inspect", name))
        return found[0]

    def address(self, name: str, network: str = "podman") -> str:
        """Return the IPv4 address of a container in a network."""
        networks = self.inspect(name)["NetworkSettings"]["Networks"]
        return str(networks[network]["IPAddress"])

    @contextmanager
    def copying(self, hosts: Path | str) -> Iterator[None]:
        """Have podman copy this hosts file into containers instead of the machine's own."""
        directory = self.directory / "etc/containers.conf.d"
        directory.mkdir(exist_ok=True)
        configuration = directory / "hosts.conf"
        configuration.write_text(f'[containers]\nbase_hosts_file = "{hosts}"\n')
        try:
            yield
        finally:
            configuration.unlink()

    def run(self, name: str, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> None:
        """Start a container that runs a command; by default, it only sleeps."""
        here = {"/usr", str(CHECKOUT), sys.prefix, sys.base_prefix}
        mounts = [f"--volume={path}:{path}:ro" for path in sorted(here)]
        self.command(
            *("run", "--detach", "--quiet", "--name", name, "--stop-timeout", "0"),
            *(*mounts, f"--workdir={CHECKOUT}", *options, IMAGE, *command),
        )


def _enter(namespaces: dict[str, int]) -> None:
    # A thread that shares its root with others can't enter a mount namespace; and there may be
    # another thread, such as that of an abandoned lookup.
    if _LIBC.unshare(_CLONE_FS):
        raise OSError(ctypes.get_errno(), "unshare")
    # os.setns() is new in Python 3.12.
    for kind, descriptor in namespaces.items():
        if _LIBC.setns(descriptor, _SETNS[kind]):
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")
