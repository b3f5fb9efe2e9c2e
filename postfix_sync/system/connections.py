"""Find the TCP connections that are open in a process's network namespace (proc(5))."""

import contextlib
import ipaddress
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from postfix_sync.model.destination import Destination

OPEN = frozenset({1, 2})
"""ESTABLISHED and SYN_SENT (linux/tcp_states.h): only these can still carry mail."""


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


def _end(printed: str) -> tuple[object, int]:
    """Read ADDRESS:PORT in hexadecimal, the address in words of this machine's byte order."""
    address, _, port = printed.partition(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)), int(port, 16)
