"""Find the addresses from which Mailmans send their mail to this Postfix, as far as it is known.

A Mailman behind a published port (127.0.0.1) sends from an address of its container's network.
"""

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from postfix_sync.doctor.host import Host
from postfix_sync.model.destination import Destination
from postfix_sync.postfix.mynetworks import Address, Net
from postfix_sync.system.connections import command_lines, listening
from postfix_sync.system.interfaces import is_own

RUNNER = "--runner=lmtp"
"""The beginning of an argument of Mailman's LMTP server (mailman/bin/master.py)."""


class Peer(NamedTuple):
    """An address of a Mailman; a remote Mailman may send its mail through another host."""

    address: Address
    source: str
    is_remote: bool
    network: Net | None = None
    """The network of a container, which gets another address in it at each start."""

    @property
    def item(self) -> str:
        """The item of mynetworks that permits it, also after a container's restart."""
        return as_item(self.network or self.address)


def as_item(place: Address | Net) -> str:
    """Return an address or a network as main.cf writes it."""
    address, slash, length = str(place).partition("/")
    return f"[{address}]{slash}{length}" if place.version == 6 else str(place)


def peers(host: Host) -> Iterator[Peer]:
    """Yield the addresses of Mailmans, as far as they are known to be Mailman's own."""
    seen = set()
    for source in host.config.sources:
        for address in _addresses(host, source.name):
            if not is_of_this_host(address) and address not in seen:
                seen.add(address)
                network = network_of(host, source.name, address)
                yield Peer(address, source.name, source.ssh is not None, network)


def unknown(host: Host) -> list[str]:
    """Return the sources whose Mailman is reached at this host, and may be in a container.

    Not a Mailman that runs on this host, or on another one that is reached through a tunnel.
    """
    return [
        source.name
        for source in host.config.sources
        if source.ssh is None and _hops(host, source.name)
        if all(map(is_of_this_host, _addresses(host, source.name)))
        if not _is_here(host, source.name)
    ]


def is_of_this_host(address: Address) -> bool:
    """Return whether an address is this host's own."""
    return address.is_loopback or address.is_unspecified or is_own(str(address))


def network_of(host: Host, source: str, address: Address) -> Net | None:
    """Return the private network in which a container has an address, by its engine; else None."""
    answer = host.answers.get(source)
    known = answer.peer.networks if answer and answer.peer else ()
    nets = map(ipaddress.ip_network, known)
    return next((net for net in nets if address in net and net.is_private), None)


def _hops(host: Host, source: str) -> list[Destination]:
    return sorted(host.named.get(source, host.destinations))


def _addresses(host: Host, source: str) -> Iterator[Address]:
    for hop in _hops(host, source):
        answer = host.lookups.get(hop.host)
        for text in answer.addresses if answer else (hop.host,):
            yield ipaddress.ip_address(text.partition("%")[0])


def _is_here(host: Host, source: str) -> bool:
    """Return whether a Mailman is a process in this host's network, which sends from this host."""
    answer = host.answers.get(source)
    if answer and answer.peer and answer.peer.is_here:
        return True
    ports = {hop.port for hop in _hops(host, source)}
    sockets = [each.inode for each in listening() if each.port in ports]
    return any(word.startswith(RUNNER) for words in command_lines(sockets) for word in words)
