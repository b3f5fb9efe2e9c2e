"""Hosts of a test's own: network namespaces, connected to a switch in another namespace.

    with Network("mx", "mm1", "mm2") as hosts:
        with hosts["mm1"].inside():
            mailman.start()
        hosts["mm1"].cut_off()

What a thread does `inside()` a host happens there: sockets that it opens, commands and threads that
it starts, and their children.  So every other part runs on a host without changes.  The network of
the machine is not used: each Network has its own 10.77.0.0/24.

A host that is cut off differs from one that is down.  Packets to it and from it are dropped
silently, as by a firewall or a broken router: the hosts have permanent entries for each other's
hardware addresses, because otherwise the kernel would report "No route to host" after three seconds
without an answer to ARP.
"""

import ctypes
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .common import run

_IP = "/usr/sbin/ip"
_RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = itertools.count()


def available() -> bool:
    """Whether the kernel, and the container if any, permits network namespaces."""
    name = f"pfs-{os.getpid()}-try"
    try:
        run(_IP, "netns", "add", name)
        run(_IP, "netns", "delete", name)
    except (OSError, RuntimeError):
        return False
    return True


@dataclass(frozen=True)
class Host:
    """One host of a network."""

    name: str
    address: str
    namespace: str
    switch: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The prefix of a command that is started outside the host to run on it."""
        return _in(self.namespace)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread, and all that it starts, on this host."""
        with open("/proc/thread-self/ns/net") as home, open(_RUN / self.namespace) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def cut_off(self) -> None:
        """Drop every packet to and from this host silently."""
        run(*_in(self.switch), _IP, "link", "set", self.name, "nomaster")

    def reconnect(self) -> None:
        """Stop dropping packets, also those of connections that are still open."""
        run(*_in(self.switch), _IP, "link", "set", self.name, "master", "switch")

    def take_down(self) -> None:
        """Take its network interface down."""
        run(*self.prefix, _IP, "link", "set", "eth0", "down")

    def bring_up(self) -> None:
        """Bring its network interface up again."""
        run(*self.prefix, _IP, "link", "set", "eth0", "up")


class Network:
    """Some hosts; start() and stop() it, or use it in a with statement."""

    def __init__(self, *names: str) -> None:
        """Name the hosts; interfaces have the same names, so they have at most 15 characters."""
        mark = f"pfs-{os.getpid()}-{next(_NUMBERS)}"
        self._switch = f"{mark}-switch"
        self._hosts = {
            name: Host(name, f"10.77.0.{number}", f"{mark}-{name}", self._switch)
            for number, name in enumerate(names, 1)
        }
        self._made = ExitStack()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def __getitem__(self, name: str) -> Host:
        """Return the host with this name."""
        return self._hosts[name]

    @property
    def hosts_file(self) -> str:
        """Return the lines of a hosts file with all hosts."""
        return "".join(f"{host.address} {host.name}\n" for host in self._hosts.values())

    def start(self) -> None:
        """Make the hosts and connect them."""
        try:
            self._namespace(self._switch)
            run(*_in(self._switch), _IP, "link", "add", "switch", "up", "type", "bridge")
            for host in self._hosts.values():
                self._connect(host)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove all hosts; may be called again."""
        self._made.close()

    def _namespace(self, name: str) -> None:
        run(_IP, "netns", "add", name)
        self._made.callback(run, _IP, "netns", "delete", name)
        run(*_in(name), _IP, "link", "set", "lo", "up")

    def _connect(self, host: Host) -> None:
        self._namespace(host.namespace)
        port = ("link", "add", host.name, "master", "switch", "up", "type", "veth")
        peer = ("peer", "name", "eth0", "address", _hardware(host), "netns", host.namespace)
        run(*_in(self._switch), _IP, *port, *peer)
        # A process that outlives the test keeps its namespace, but not its connection.
        self._made.callback(_unplug, host)
        inside = (*host.prefix, _IP)
        run(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        for other in self._hosts.values():
            known = ("neighbour", "add", other.address, "lladdr", _hardware(other))
            run(*inside, *known, "dev", "eth0", "nud", "permanent")


def _in(namespace: str) -> tuple[str, ...]:
    """Return a prefix to run in a namespace; `ip -n` mounts first, which fails in a chroot."""
    return ("nsenter", f"--net={_RUN / namespace}")


def _hardware(host: Host) -> str:
    return f"02:00:00:00:00:{int(host.address.rpartition('.')[2]):02x}"


def _unplug(host: Host) -> None:
    with suppress(RuntimeError):
        run(*_in(host.switch), _IP, "link", "delete", host.name)


def _enter(descriptor: int) -> None:
    # os.setns() is new in Python 3.12.
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
