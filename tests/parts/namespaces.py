"""Hosts of a test's own: network namespaces, hung on a switch that is one as well.

    with Network("mx", "mm1", "mm2") as hosts:
        with hosts["mm1"].inside():
            mailman.start()
        hosts["mm1"].cut_off()

Whatever a thread does `inside()` a host is done there: sockets that it opens, commands and threads
that it starts, and what those start in turn.  So every other part runs on a host as it is.  Nothing
of it touches the network of the machine: each network has its own 10.77.0.0/24.

A host that is cut off is no host that is gone.  Packets to it and from it vanish, as in a firewall
or a broken router, and nobody is told: the hosts know each other's hardware addresses for good, or
the kernel would say "No route to host" after three seconds without an answer to ARP.
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
    """This kernel, and this container if it is one, lets us make network namespaces."""
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
        """What to put before a command, for who starts it from outside."""
        return _in(self.namespace)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is on this host, with all that it starts meanwhile."""
        with open("/proc/thread-self/ns/net") as home, open(_RUN / self.namespace) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def cut_off(self) -> None:
        """From now on every packet to this host and from it is lost, silently."""
        run(*_in(self.switch), _IP, "link", "set", self.name, "nomaster")

    def reconnect(self) -> None:
        """Packets come through again; those of connections that are still open as well."""
        run(*_in(self.switch), _IP, "link", "set", self.name, "master", "switch")

    def take_down(self) -> None:
        """It has no network from now on: nothing that it sends even leaves it."""
        run(*self.prefix, _IP, "link", "set", "eth0", "down")

    def bring_up(self) -> None:
        """It has its network again."""
        run(*self.prefix, _IP, "link", "set", "eth0", "up")


class Network:
    """Some hosts; start() and stop() it, or use it in a with statement."""

    def __init__(self, *names: str) -> None:
        """Name the hosts; names are those of interfaces too, so 15 characters at most."""
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
        """A host."""
        return self._hosts[name]

    @property
    def hosts_file(self) -> str:
        """Lines for a hosts file with all names."""
        return "".join(f"{host.address} {host.name}\n" for host in self._hosts.values())

    def start(self) -> None:
        """Make the hosts, and connect them."""
        try:
            self._namespace(self._switch)
            run(*_in(self._switch), _IP, "link", "add", "switch", "up", "type", "bridge")
            for host in self._hosts.values():
                self._connect(host)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove all of it; harmless when there is nothing."""
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
        # A process that outlives the test would keep its namespace, but not this.
        self._made.callback(_unplug, host)
        inside = (*host.prefix, _IP)
        run(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        for other in self._hosts.values():
            known = ("neighbour", "add", other.address, "lladdr", _hardware(other))
            run(*inside, *known, "dev", "eth0", "nud", "permanent")


def _in(namespace: str) -> tuple[str, ...]:
    """Not `ip -n`: it mounts things first, which a chroot doesn't let it."""
    return ("nsenter", f"--net={_RUN / namespace}")


def _hardware(host: Host) -> str:
    return f"02:00:00:00:00:{int(host.address.rpartition('.')[2]):02x}"


def _unplug(host: Host) -> None:
    with suppress(RuntimeError):
        run(*_in(host.switch), _IP, "link", "delete", host.name)


def _enter(descriptor: int) -> None:
    # os.setns() has come with Python 3.12.
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
