"""A Mailman that is found out to be elsewhere than it wrote: what becomes of its next hops. Pure.

A Mailman in a container knows nothing of the host around it. It may have written an address from
before the last start, one to listen on, or a port that has another number on the host. What it
wrote stays in its record as it is, so that routes follow the container without a word from it.
"""

from collections.abc import Mapping
from dataclasses import replace

from postfix_sync.model import Destination, Peer, Table
from postfix_sync.postfix.next_hop import (
    next_hops_of,
    parse_next_hops,
    parse_unjudged,
    render_next_hops,
)


def relocated(routes: Table, peer: Peer) -> Table | None:
    """Routes to where their Mailman is reached; None where it is not reached at one of them.

    A host name stays, and gets its address in the hosts file (`host_address`), or is replaced by
    that where it must not enter the hosts file (`by_address`).
    """
    values: dict[str, str] = {}
    for value in set(routes.values()):
        written = parse_unjudged(value)
        place = peer.reach(written.host, written.port)
        if not place:
            return None
        if written.host and written.is_name:
            values[value] = replace(written, port=place.port).next_hop
        else:
            values[value] = place.next_hop
    return {key: values[value] for key, value in routes.items()}


def host_address(routes: Table, peer: Peer) -> str | None:
    """The IP address that the host names of routes, as Mailman wrote them, lead to."""
    for hop in sorted({parse_unjudged(value) for value in routes.values()}):
        if place := peer.reach("", hop.port):
            return place.host
    return None


def by_address(routes: Table, addresses: Mapping[str, str]) -> Table:
    """Replace host names in the next hops of routes by their IP addresses.

    `addresses` has the names to replace.
    """
    hops = next_hops_of(routes)
    return moved(
        routes,
        {hop: replace(hop, host=addresses[hop.host]) for hop in hops if hop.host in addresses},
    )


def moved(routes: Table, to: Mapping[Destination, Destination]) -> Table:
    """Replace next hops of routes by others.

    Next hops that are not in `to`, and routes in another form than ours, are kept.
    """
    values: dict[str, str] = {}
    for value in set(routes.values()) if to else ():
        hops = parse_next_hops(value)
        if any(hop in to for hop in hops):
            values[value] = render_next_hops(to.get(hop, hop) for hop in hops)
    return {key: values.get(value, value) for key, value in routes.items()} if values else routes


def unpublished(routes: Table, peer: Peer) -> set[int]:
    """The ports of routes that can't be reached."""
    hops = {parse_unjudged(value) for value in routes.values()}
    return {hop.port for hop in hops if not peer.reach(hop.host, hop.port)}
