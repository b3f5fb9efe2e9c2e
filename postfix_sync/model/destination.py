"""LMTP destinations, and the addresses at which this host reaches a Mailman. Pure."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

Families: TypeAlias = frozenset[int]
"""The versions of IP that may be used: 4, 6, or both."""

BOTH_FAMILIES: Families = frozenset({4, 6})


def family_of(address: str) -> int:
    """Return the IP version, 4 or 6, of an address, which may end in %INTERFACE."""
    return ipaddress.ip_address(address.partition("%")[0]).version


@dataclass(frozen=True, order=True)
class Destination:
    """An LMTP next hop: a host name or an IP address, and a TCP port."""

    host: str
    port: int

    @property
    def endpoint(self) -> str:
        """Return HOST:PORT, with brackets around an IPv6 address, for messages and JSON."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Return whether the host is a name that must be resolved, not an IP address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def next_hop(self) -> str:
        """Return `lmtp:[HOST]:PORT` for transport(5), as Mailman's mta/postfix.py writes it."""
        return f"lmtp:[{self.host}]:{self.port}"


@dataclass(frozen=True)
class Peer:
    """The addresses at which this host reaches a Mailman, found by an SSH login or an engine."""

    addresses: tuple[str, ...] = ()
    """Mailman's IP addresses that this host can reach, the preferred one first."""
    published: Mapping[int, Destination] = field(default_factory=dict)
    """By TCP port of Mailman's container, the address and port on this host that lead to it."""
    is_here: bool = False
    """Whether Mailman's container uses the network of this host."""
    how: str = field(default="", compare=False)
    """The network or the ports by which it is reached, for messages."""
    networks: tuple[str, ...] = field(default=(), compare=False)
    """The networks of `addresses`, in which an engine may give the container another address."""

    def usable(self, families: Families) -> "Peer":
        """Return the peer without the addresses and ports that Postfix must not use.

        `families` are the IP versions that Postfix may use (inet_protocols). If nothing else is
        left, return it unchanged, so that a report can name the addresses that can't be used.
        """
        kept = tuple(address for address in self.addresses if family_of(address) in families)
        published = {
            port: place
            for port, place in self.published.items()
            if family_of(place.host) in families
        }
        if kept == self.addresses or not (kept or published):
            return self
        others = ", ".join(address for address in self.addresses if address not in kept)
        how = self.how if kept else f"published ports: {_listed(published)}"
        return replace(
            self,
            addresses=kept,
            published=published,
            how=f"{how}; not at {others}, which inet_protocols keeps Postfix from using",
            networks=tuple(
                net for net in self.networks if ipaddress.ip_network(net).version in families
            ),
        )

    def reach(self, host: str, port: int) -> Destination | None:
        """Return the destination that leads to Mailman's `host` and `port`; None if there is none.

        An IP address that Mailman wrote is the one that it listens on. If that is one of
        `addresses`, the destination has it, too.
        """
        if not self.addresses:
            return self.published.get(port)
        named = host and not Destination(host, port).is_name
        known = named and (self.is_here or host in self.addresses)
        return Destination(host if known else self.addresses[0], port)


def _listed(published: Mapping[int, Destination]) -> str:
    return ", ".join(f"{port} is {to.endpoint}" for port, to in sorted(published.items()))
