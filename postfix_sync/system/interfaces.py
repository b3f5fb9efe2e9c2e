"""Find this host's own IP addresses, without sending a packet."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path


def is_own(address: str) -> bool:
    """Return whether an IP address is one of this host's.

    Only such an address can be bound to, unless ip_nonlocal_bind is set, as on hosts that take over
    each other's address. If it is set, an address is this host's if packets to it come from it.
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
    """Return whether this kernel has IPv6; if not, Postfix does not use it (postconf(5))."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def toward(address: IPv4Address | IPv6Address) -> str | None:
    """Return this host's source address for packets to another; None if there is no route."""
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
