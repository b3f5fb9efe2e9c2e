"""Check that Mailman can send mail through this Postfix: it must listen, and permit the relay.

Only known addresses of Mailman are checked. Behind a published port (127.0.0.1), Mailman's own
address is unknown, so there is no finding about it.
"""

import ipaddress
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.mynetworks import Address, Net, matches, network
from postfix_sync.system.interfaces import is_own, toward

TOO_WIDE = {4: 8, 6: 16}
"""By IP version: a public network with a prefix this long or shorter belongs to no operator alone,
so a host that trusts it is an open relay."""

WIDE = {4: 15, 6: 28}
"""By IP version: a public network with a prefix this long or shorter hardly belongs to an operator
alone."""

SERVERS = frozenset({"postscreen", "smtpd"})
"""The programs that listen for SMTP."""

LOOPBACK_ONLY = "loopback-only"

PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
            *("::1/128", "fc00::/7", "fe80::/10"),
        ),
    )
)
"""The networks of loopback, of private addresses and of links (RFC 1918, RFC 4193, RFC 4291)."""


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
        return _written(self.network or self.address)


async def mynetworks(host: Host) -> AsyncIterator[Finding]:
    """Check that Mailman may send through this Postfix, and that it is not an open relay."""
    values = await host.postfix.values("mynetworks", "mynetworks_style")
    present = values["mynetworks"]
    peers = list(_peers(host))
    if wide := next(too_wide(present), None):
        yield await _open(host, present, peers, *wide)
        return
    if values["mynetworks_style"] == "class" and "mynetworks" not in host.written:
        yield warning(
            "mynetworks",
            f"mynetworks_style = class: {present}",
            "that trusts everybody in the whole network class of this host",
            host.edit("mynetworks_style = host"),
        )
        return
    for peer in peers:
        if not await _trusted(host, peer.address, present):
            yield await _refused(host, peer)
            return
    listed = ", ".join(f"{peer.address} ({peer.source})" for peer in peers)
    about = f"Mailman is in it: {listed}" if listed else "no address of a Mailman has to be in it"
    yield ok("mynetworks", f"{present or 'empty'}; {about}")


async def _open(host: Host, present: str, peers: Sequence[Peer], item: str, net: Net) -> Finding:
    wide = dict(too_wide(present))
    rest = [
        kept
        for each in items(present)
        for kept in (private_part(wide[each]) if each in wide else [each])
    ]
    rest = list(dict.fromkeys(rest)) or ["127.0.0.0/8", "[::1]/128"]
    for peer in peers:
        if not await matches(host.postfix, peer.address, " ".join(rest)):
            rest.append(peer.item)
    finding = failure if net.prefixlen <= TOO_WIDE[net.version] else warning
    return finding(
        "mynetworks",
        f"mynetworks = {present}",
        f"{item} trusts {net.num_addresses:,} addresses of strangers: who may relay through this"
        " host sends spam through it, and then nobody takes the mail of its lists any more",
        host.edit(f"mynetworks = {' '.join(rest)}"),
    )


def private_part(net: Net) -> list[str]:
    """Return the private networks within a network, as items of mynetworks."""
    return [
        _written(private)
        for private in PRIVATE
        if private.version == net.version and private.overlaps(net)
    ]


def _written(place: Address | Net) -> str:
    """Return an address or a network as main.cf writes it."""
    address, slash, length = str(place).partition("/")
    return f"[{address}]{slash}{length}" if place.version == 6 else str(place)


async def _refused(host: Host, peer: Peer) -> Finding:
    written = await host.postfix.written_as("mynetworks")
    # The first match counts, so a "!" may exclude an item that is added after it.
    added = f"{peer.item} {written}" if "!" in written else f"{written} {peer.item}"
    values = await host.postfix.values(
        "smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_sasl_auth_enable"
    )
    restrictions = f"{values['smtpd_relay_restrictions']} {values['smtpd_recipient_restrictions']}"
    otherwise = "check_client_access" in restrictions or values["smtpd_sasl_auth_enable"] == "yes"
    finding = warning if otherwise or peer.is_remote else failure
    maybe = ", unless it is allowed to otherwise" if otherwise else ""
    maybe = ", unless it sends through another host" if peer.is_remote else maybe
    all_of = "; this trusts its network, as a container has another address after each start"
    return finding(
        "mynetworks",
        f"mynetworks = {written}, without {peer.address}, the Mailman of {peer.source}",
        f'what Mailman sends to its members is refused ("Relay access denied"){maybe}'
        + (all_of if peer.network else ""),
        host.edit(f"mynetworks = {added}"),
    )


async def inet_interfaces(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix listens on an address at which Mailman can reach it."""
    present = (await host.postfix.values("inet_interfaces"))["inet_interfaces"]
    listening = [
        service
        for service in host.services
        if service.kind == "inet" and service.command in SERVERS
    ]
    outside = [peer for peer in _peers(host) if toward(peer.address)]
    beyond = any(_beyond_loopback(service, present) for service in listening)
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


def _peers(host: Host) -> Iterator[Peer]:
    """Yield the addresses of Mailmans, as far as they are known to be Mailman's own."""
    seen = set()
    for source in host.config.sources:
        for hop in sorted(host.named.get(source.name, host.destinations)):
            answer = host.lookups.get(hop.host)
            for text in answer.addresses if answer else (hop.host,):
                address = ipaddress.ip_address(text.partition("%")[0])
                own = address.is_loopback or address.is_unspecified or is_own(str(address))
                if not own and address not in seen:
                    seen.add(address)
                    network = _network_of(host, source.name, address)
                    yield Peer(address, source.name, source.ssh is not None, network)


def _network_of(host: Host, source: str, address: Address) -> Net | None:
    """Return the private network in which a container has an address, by its engine; else None."""
    answer = host.answers.get(source)
    known = answer.peer.networks if answer and answer.peer else ()
    nets = map(ipaddress.ip_network, known)
    return next((net for net in nets if address in net and net.is_private), None)


async def _trusted(host: Host, address: Address, everywhere: str) -> bool:
    """Return whether an smtpd(8) of this instance has an address in its mynetworks."""
    servers = [service for service in host.services if service.command == "smtpd"]
    lists = {service.overrides.get("mynetworks", everywhere) for service in servers} or {everywhere}
    return any([await matches(host.postfix, address, listed) for listed in lists])


def too_wide(present: str) -> Iterator[tuple[str, Net]]:
    """Yield the items that trust a large part of the Internet, each with its network."""
    for item in items(present):
        net = network(item)
        if net and net.prefixlen <= WIDE[net.version] and not net.is_private:
            yield item, net


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
