"""Check that Postfix listens where Mailman and other hosts deliver mail to it."""

import ipaddress
from collections.abc import AsyncIterator, Sequence

from postfix_sync.doctor.checks.senders import peers
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.smtp_listeners import SERVERS
from postfix_sync.system.connections import listening as sockets_listening
from postfix_sync.system.interfaces import is_own, toward

LOOPBACK_ONLY = "loopback-only"

PORT = 25
"""The port to which other hosts deliver mail."""


async def inet_interfaces(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix listens on an address at which Mailman can reach it."""
    present = (await host.postfix.values("inet_interfaces"))["inet_interfaces"]
    listening = [
        service
        for service in host.services
        if service.kind == "inet" and service.command in SERVERS
    ]
    outside = [peer for peer in peers(host) if toward(peer.address)]
    beyond = any(_beyond_loopback(service, present) for service in listening)
    if not outside and not beyond and _is_cut_off(listening):
        yield warning(
            "inet_interfaces",
            f"inet_interfaces = {present}, and no other program listens on port {PORT}",
            "Postfix listens on loopback only, so no other host can deliver mail to the lists here"
            ' ("Connection refused"). If mail is to come from other hosts, set inet_interfaces ='
            " all, and restart Postfix",
        )
        return
    if not outside or beyond or not listening:
        yield ok("inet_interfaces", f"inet_interfaces = {present}")
        return
    peer = outside[0]
    here = str(toward(peer.address))
    item = f"[{here}]" if ":" in here else here
    loopback = [address for address in ("127.0.0.1", "[::1]") if is_own(address.strip("[]"))]
    kept = loopback if present == LOOPBACK_ONLY else items(present)
    change = f"inet_interfaces = {', '.join([*kept, item])}"
    fix = command(host.postfix, "postconf", "-e", change)
    if host.postfix.processes.master:
        fix += f" && {host.service('restart')}"
    finding = warning if peer.is_remote else failure
    yield finding(
        "inet_interfaces",
        f"inet_interfaces = {present}, and the Mailman of {peer.source} is at {peer.address}",
        f"Postfix does not listen on {here}, where Mailman reaches this host: what it sends is not"
        ' taken ("Connection refused"). Postfix needs that address to be there when it starts: let'
        " it start after the container engine",
        fix if any(_by_interfaces(service) for service in listening) else None,
    )


def _is_cut_off(servers: Sequence[Service]) -> bool:
    """Return whether only inet_interfaces keeps other hosts from servers on loopback.

    A service that master.cf binds to loopback takes mail from a filter or a program in front of it,
    as does one behind a program that listens on port 25.
    """
    bound = [service for service in servers if not _by_interfaces(service)]
    in_front = any(
        each.port == PORT and not each.address.is_loopback for each in sockets_listening()
    )
    return bool(servers) and not bound and not in_front


def _by_interfaces(service: Service) -> bool:
    """Return whether inet_interfaces, and not its own name, says where a server listens."""
    return ":" not in service.name


def _beyond_loopback(service: Service, interfaces: str) -> bool:
    """Return whether a server listens on an address that another host can reach."""
    if not _by_interfaces(service):
        interfaces = service.name.rpartition(":")[0]
    else:
        interfaces = service.overrides.get("inet_interfaces", interfaces)
    return any(not _is_loopback(name) for name in items(interfaces))


def _is_loopback(name: str) -> bool:
    """Return whether an item of inet_interfaces is loopback; of host names, only localhost is."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name in {LOOPBACK_ONLY, "localhost"}
