"""This host's own IP addresses: which is one, and which one others see. No packet is sent."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path


def is_own(address: str) -> bool:
    """Whether an IP address is one of this host's: only such a one can be bound to.

    Where every other can be, too (ip_nonlocal_bind, on hosts that take over each other's address),
    it is the one that this host has on the way there.
    """
    version = 6 if ":" in address else 4
    if _read(f"/proc/sys/net/ipv{version}/ip_nonlocal_bind") == "1":
        return toward(ip_address(address)) == address
    try:
        with _socket(":" in address) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all; without it Postfix does without, too (postconf(5))."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def toward(address: IPv4Address | IPv6Address) -> str | None:
    """This host's address on the way to another; None where there is no way."""
    try:
        with _socket(address.version == 6) as probe:
            probe.connect((str(address), 25))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except OSError:
        return ""


def _socket(is_ipv6: bool) -> socket.socket:
    return socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
