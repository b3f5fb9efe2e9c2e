"""Check that Postfix relays the mail that Mailman sends, and is not an open relay.

Behind a published port (127.0.0.1), Mailman's own address is unknown. Then Postfix's log may show
it; if not, a finding says that it is not known.
"""

import ipaddress
import re
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from postfix_sync.doctor.checks.senders import (
    Peer,
    as_item,
    is_of_this_host,
    network_of,
    peers,
    unknown,
)
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.instance import list_file
from postfix_sync.postfix.match_list import items, patterns
from postfix_sync.postfix.mynetworks import Address, Net, matches, network
from postfix_sync.postfix.relay_refusals import Refusal, refusals
from postfix_sync.postfix.restrictions import LISTS, restrictions
from postfix_sync.system.interfaces import is_behind_bridge

TOO_WIDE = {4: 8, 6: 16}
"""By IP version: a public network with a prefix this long or shorter belongs to no operator alone,
so a host that trusts it is an open relay."""

WIDE = {4: 15, 6: 28}
"""By IP version: a public network with a prefix this long or shorter hardly belongs to an operator
alone."""

OTHERWISE = re.compile(r"check_\w+_access|permit_tls_")
"""Restrictions that may permit a client to relay that is not in mynetworks."""

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


async def mynetworks(host: Host) -> AsyncIterator[Finding]:
    """Check that Mailman may send through this Postfix, and that it is not an open relay."""
    values = await host.postfix.values("mynetworks", "mynetworks_style")
    present = values["mynetworks"]
    known = list(peers(host))
    if wide := next(too_wide(present), None):
        yield await _open(host, present, known, *wide)
        return
    if values["mynetworks_style"] == "class" and "mynetworks" not in host.written:
        yield warning(
            "mynetworks",
            f"mynetworks_style = class: {present}",
            "that trusts everybody in the whole network class of this host",
            host.edit("mynetworks_style = host"),
        )
        return
    for peer in known:
        if not await _trusted(host, peer.address, present):
            yield await _refused(host, peer)
            return
    if refusal := await _refused_lately(host, present):
        yield await _refused_by_log(host, refusal)
        return
    unchecked = ", ".join(unknown(host))
    if unchecked and await _only_this_host(host, present):
        yield _unknown(host, present, unchecked)
        return
    listed = ", ".join(f"{peer.address} ({peer.source})" for peer in known)
    about = f"Mailman is in it: {listed}" if listed else "no address of a Mailman has to be in it"
    if unchecked:
        about = f"not checked: the address from which the Mailman of {unchecked} sends is not known"
    yield ok("mynetworks", f"{present or 'empty'}; {about}")


async def _open(host: Host, present: str, known: Sequence[Peer], item: str, net: Net) -> Finding:
    wide = dict(too_wide(present))
    rest = [
        kept
        for each in items(present)
        for kept in (private_part(wide[each]) if each in wide else [each])
    ]
    rest = list(dict.fromkeys(rest)) or ["127.0.0.0/8", "[::1]/128"]
    for peer in known:
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
        as_item(private)
        for private in PRIVATE
        if private.version == net.version and private.overlaps(net)
    ]


async def _refused(host: Host, peer: Peer) -> Finding:
    written = await host.postfix.written_as("mynetworks")
    otherwise = await _otherwise(host)
    finding = warning if otherwise or peer.is_remote else failure
    maybe = ", unless it is allowed to otherwise" if otherwise else ""
    maybe = ", unless it sends through another host" if peer.is_remote else maybe
    beyond = ""
    fix: str | None = _adding(host, written, peer.item)
    if peer.network and is_behind_bridge(peer.address):
        beyond = "; this trusts its network, as a container has another address after each start"
    elif peer.network:
        beyond = (
            f". Its network {peer.network} is not a bridge of this host (macvlan, ipvlan), so other"
            " hosts may be in it, and could then relay through Postfix: only you can decide that"
        )
        fix = None
    return finding(
        "mynetworks",
        f"mynetworks = {written}, without {peer.address}, the Mailman of {peer.source}",
        f'what Mailman sends to its members is refused ("Relay access denied"){maybe}{beyond}',
        fix,
    )


def _adding(host: Host, written: str, item: str) -> str:
    """Return the command that adds an item to mynetworks."""
    # The first match counts, so a "!" may exclude an item that is added after it.
    added = f"{item} {written}" if "!" in written else f"{written} {item}"
    return host.edit(f"mynetworks = {added.strip()}")


async def _refused_lately(host: Host, present: str) -> Refusal | None:
    """Return a refusal of a list's mail in Postfix's own log, from a client not in mynetworks."""
    name = (await host.postfix.values("maillog_file")).get("maillog_file", "")
    try:
        found = refusals(Path(name), host.now) if name else []
    except OSError:
        return None
    domains = {*host.domains, *host.classes.mail_hosts}
    for refusal in found:
        of_list = refusal.sender.rpartition("@")[2].lower() in domains
        if of_list and not await _trusted(host, refusal.address, present):
            return refusal
    return None


async def _refused_by_log(host: Host, refusal: Refusal) -> Finding:
    written = await host.postfix.written_as("mynetworks")
    nets = (network_of(host, source.name, refusal.address) for source in host.config.sources)
    item = as_item(next((net for net in nets if net), refusal.address))
    only = f"The command trusts {item}" if await _is_used(host) else _UNUSED
    return failure(
        "mynetworks",
        f"mynetworks = {written}; at {refusal.when}, Postfix refused mail of {refusal.sender} from"
        f" {refusal.address}",
        f'what Mailman sends to its members is refused ("Relay access denied"). {only}; a container'
        " may get another address whenever it is started, so give the source address: docker:NAME"
        " (or podman:NAME) if you can: then doctor names its network",
        _adding(host, written, item) if await _is_used(host) else None,
    )


_UNUSED = "No restriction has permit_mynetworks, so mynetworks permits nothing"


def _unknown(host: Host, present: str, sources: str) -> Finding:
    containers = [source.container for source in host.config.sources if source.container]
    engine, name = containers[0] if containers else ("docker", "NAME")
    addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}}/{{.IPPrefixLen}} {{end}}"
    inspect = shlex.join([engine, "container", "inspect", "-f", addresses, name])
    also = "" if containers else " (or podman instead of docker)"
    return warning(
        "mynetworks",
        f"mynetworks = {present}, only addresses of this host; the address from which the Mailman"
        f" of {sources} sends is not known",
        "if it is in a container, what it sends to its members is refused; Postfix's log then has"
        f' "Relay access denied" with a private client address. {inspect}{also} prints its address'
        " and the length of its network's prefix, and that network has to be in mynetworks; with"
        " address: docker:NAME (or podman:NAME), doctor checks that",
    )


async def _only_this_host(host: Host, present: str) -> bool:
    """Return whether only clients on this host may relay; not if anything else may permit it."""
    if not await _is_used(host) or await _otherwise(host):
        return False
    listed = " ".join(_lists(host, present))
    return all(
        pattern.negated or ((net := network(pattern.text)) and _is_of_this_host(net))
        for pattern in patterns(listed, list_file)
    )


def _is_of_this_host(net: Net) -> bool:
    own = net.prefixlen == net.max_prefixlen and is_of_this_host(net.network_address)
    return own or net.is_loopback or net.is_link_local


async def _restrictions(host: Host) -> str:
    """Return the restrictions by which any smtpd(8) decides who may relay, as one text."""
    values = await restrictions(host.postfix, host.services)
    names = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
    others = [name for name in values if name not in LISTS]
    texts = [values[name] for name in (*names, *others)]
    texts += [service.overrides.get(name, "") for service in host.services for name in names]
    return " ".join(texts)


async def _is_used(host: Host) -> bool:
    """Return whether any restriction permits what mynetworks has."""
    return "permit_mynetworks" in items(await _restrictions(host))


async def _otherwise(host: Host) -> bool:
    """Return whether clients that are not in mynetworks may be permitted to relay."""
    name = "smtpd_sasl_auth_enable"
    logins = {
        (await host.postfix.values(name))[name],
        *(service.overrides.get(name, "no") for service in host.services),
    }
    return "yes" in logins or bool(OTHERWISE.search(await _restrictions(host)))


async def _trusted(host: Host, address: Address, everywhere: str) -> bool:
    """Return whether an smtpd(8) of this instance has an address in its mynetworks."""
    lists = _lists(host, everywhere)
    return any([await matches(host.postfix, address, listed) for listed in lists])


def _lists(host: Host, everywhere: str) -> set[str]:
    """Return the values of mynetworks in this instance; `everywhere` is that of main.cf."""
    servers = [service for service in host.services if service.command == "smtpd"]
    return {service.overrides.get("mynetworks", everywhere) for service in servers} or {everywhere}


def too_wide(present: str) -> Iterator[tuple[str, Net]]:
    """Yield the items that trust a large part of the Internet, each with its network."""
    for item in items(present):
        net = network(item)
        if net and net.prefixlen <= WIDE[net.version] and not net.is_private:
            yield item, net
