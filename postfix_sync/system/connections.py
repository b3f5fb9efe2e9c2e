"""Find the TCP connections and listening sockets in a network namespace (proc(5))."""

import contextlib
import ipaddress
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from postfix_sync.model.destination import Destination

OPEN = frozenset({1, 2})
"""ESTABLISHED and SYN_SENT (linux/tcp_states.h): only these can still carry mail."""

LISTEN = 10
"""The state of a listening socket (linux/tcp_states.h)."""


class Listening(NamedTuple):
    """A listening TCP socket: its address, which may be the unspecified one, port and inode."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int


def connections_to(pid: int, destinations: Collection[Destination]) -> frozenset[str]:
    """Find the open connections to some IP addresses, in the network namespace of a process.

    Each is identified by its two ends, as the kernel prints them. The result is empty if the
    kernel's tables can't be read.
    """
    ends = {
        (ipaddress.ip_address(destination.host.partition("%")[0]), destination.port)
        for destination in destinations
    }
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]
            found |= {pair for pair, remote in _open(lines) if remote in ends}
    return frozenset(found)


def _open(lines: list[str]) -> Iterator[tuple[str, tuple[object, int]]]:
    """Yield each open connection's two ends as they are printed, and the remote one as a value."""
    for line in lines:
        _, local, remote, state, *_ = line.split()
        if int(state, 16) in OPEN:
            yield f"{local} {remote}", _end(remote)


def listening() -> list[Listening]:
    """Find the listening TCP sockets in this thread's network namespace; none if it is unknown."""
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            path = Path(f"/proc/thread-self/net/{table}")
            for line in path.read_text("ascii").splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if int(state, 16) == LISTEN:
                    found.append(Listening(*_end(local), int(rest[5])))
    return found


def command_lines(inodes: Collection[int]) -> list[list[str]]:
    """Find the processes that have one of these sockets open; return the arguments of each.

    Processes of other users are visible to root only.
    """
    sockets = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(_is_link_to(entry, sockets) for entry in (process / "fd").iterdir()):
                given = (process / "cmdline").read_bytes()
                found.append(given.decode("utf-8", "replace").split("\0"))
    return found


def _is_link_to(entry: Path, targets: Collection[str]) -> bool:
    with contextlib.suppress(OSError):  # the process may have closed it meanwhile
        return str(entry.readlink()) in targets
    return False


def _end(printed: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Read ADDRESS:PORT in hexadecimal, the address in words of this machine's byte order."""
    address, _, port = printed.partition(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)), int(port, 16)
