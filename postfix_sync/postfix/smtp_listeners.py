"""Find where an instance listens for SMTP, by master(5) and inet_interfaces."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items

SERVERS = frozenset({"postscreen", "smtpd"})
"""The programs that listen for SMTP."""

LOOPBACK = ("127.0.0.1", "::1")

EVERYWHERE = {"all": LOOPBACK, "loopback-only": LOOPBACK}
"""The words of inet_interfaces that stand for several addresses, and at which of them to ask."""

_PLAIN = {
    "smtpd_tls_wrappermode": "no",
    "smtpd_upstream_proxy_protocol": "",
    "postscreen_upstream_proxy_protocol": "",
}
"""Parameters by which a client must speak another protocol before SMTP, with the value that it need
not."""


@dataclass(frozen=True)
class Listener:
    """An address and a port at which an instance listens for SMTP."""

    host: str
    port: int
    service: Service
    other_protocol: str = ""
    """The setting by which a client must speak another protocol first; empty for plain SMTP."""

    @property
    def endpoint(self) -> str:
        """Return HOST:PORT, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def smtp_listeners(postfix: Postfix) -> list[Listener]:
    """Return the listeners for SMTP of an instance, in master.cf's order. Raises ConfigError."""
    values = await postfix.values("inet_interfaces", "inet_protocols", *_PLAIN)
    found = []
    for service in await postfix.services():
        if service.kind != "inet" or service.command not in SERVERS:
            continue
        own = {**values, **service.overrides}
        other = [f"{name} = {own[name]}" for name, plain in _PLAIN.items() if own[name] != plain]
        found += [
            Listener(host, port, service, ", ".join(other))
            for host, port in _addresses(service, own["inet_interfaces"])
            if {"all", "ipv6" if ":" in host else "ipv4"} & {*items(own["inet_protocols"])}
        ]
    return list({(one.host, one.port): one for one in found}.values())


def _addresses(service: Service, interfaces: str) -> Iterator[tuple[str, int]]:
    """Yield where a service of master(5) listens, as (host, port): its name is [host:]port."""
    host, _, name = service.name.rpartition(":")
    try:
        port = int(name) if name.isdigit() else socket.getservbyname(name, "tcp")
    except OSError:
        return  # master(8) does not know that port name either
    for interface in [host.strip("[]")] if host else items(interfaces):
        for address in EVERYWHERE.get(interface, (interface,)):
            yield address, port
