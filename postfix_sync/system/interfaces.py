"""Find this host's own IP addresses, without sending a packet."""

import contextlib
import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

SIOCGIFADDR = 0x8915
"""The ioctl that returns an IPv4 address of a network device (netdevice(7))."""

SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8946, 3
"""The ioctl and its command that return the driver of a network device (linux/ethtool.h)."""

DRIVER_INFO_SIZE = 196
"""The size of struct ethtool_drvinfo, in bytes: 4 of the command, 32 of the driver, the rest."""


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


def is_behind_bridge(address: IPv4Address | IPv6Address) -> bool:
    """Return whether this host reaches an address through a bridge of its own.

    Only containers of this host are behind such a bridge. A macvlan or ipvlan network is that of
    the office: other hosts are in it.
    """
    source = toward(address)
    devices = [name for _, name in socket.if_nameindex()]
    return any(_is_bridge(name) and source in _addresses_of(name) for name in devices)


def _is_bridge(device: str) -> bool:
    """Return whether a network device is a bridge, by the name of its driver.

    /sys may show the devices of another network namespace; the ioctl is about our own.
    """
    import ctypes  # noqa: PLC0415 - only if an address could be that of a container

    answer = bytearray(struct.pack("I", ETHTOOL_GDRVINFO).ljust(DRIVER_INFO_SIZE, b"\0"))
    pointer = ctypes.addressof(ctypes.c_char.from_buffer(answer))
    with _socket(is_ipv6=False) as probe, contextlib.suppress(OSError):
        fcntl.ioctl(probe.fileno(), SIOCETHTOOL, struct.pack("16sP", device.encode(), pointer))
    return answer[4:36].rstrip(b"\0") == b"bridge"


def _addresses_of(device: str) -> set[str]:
    """Return the IP addresses of a network device."""
    found = set()
    for line in _read("/proc/net/if_inet6").splitlines():
        digits, *_, name = line.split()
        if name == device:
            found.add(str(IPv6Address(bytes.fromhex(digits))))
    with contextlib.suppress(OSError), _socket(is_ipv6=False) as probe:
        request = struct.pack("256s", device.encode()[:15])
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
        found.add(socket.inet_ntoa(answer[20:24]))
    return found
