"""Rewrite the next hops that Mailman wrote to those at which this host reaches it. Pure.

A Mailman in a container does not know the host around it. It may have written an address from
before its last start, an address to listen on, or a port that has another number on the host. The
record keeps the next hops that Mailman wrote, so that routes follow the container without a change
of Mailman's files.
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
    """Return the routes with next hops that reach Mailman; None if one of them has none.

    A host name is kept. It gets its address in the hosts file (`host_address`), or, if it must not
    enter that file, `by_address` replaces it by the address.
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
    """Return the IP address for the host names in routes as Mailman wrote them, or None."""
    for hop in sorted({parse_unjudged(value) for value in routes.values()}):
        if place := peer.reach("", hop.port):
            return place.host
    return None


def by_address(routes: Table, addresses: Mapping[str, str]) -> Table:
    """Replace host names in the next hops of routes by IP addresses; `addresses` has both."""
    hops = next_hops_of(routes)
    return moved(
        routes,
        {hop: replace(hop, host=addresses[hop.host]) for hop in hops if hop.host in addresses},
    )


def moved(routes: Table, to: Mapping[Destination, Destination]) -> Table:
    """Replace next hops of routes by those in `to`.

    Next hops that `to` does not have, and routes in another form than ours, are kept.
    """
    values: dict[str, str] = {}
    for value in set(routes.values()) if to else ():
        hops = parse_next_hops(value)
        if any(hop in to for hop in hops):
            values[value] = render_next_hops(to.get(hop, hop) for hop in hops)
    return {key: values.get(value, value) for key, value in routes.items()} if values else routes


def unpublished(routes: Table, peer: Peer) -> set[int]:
    """Return the ports of routes that this host can't reach."""
    hops = {parse_unjudged(value) for value in routes.values()}
    return {hop.port for hop in hops if not peer.reach(hop.host, hop.port)}
