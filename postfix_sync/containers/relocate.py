"""Rewrite the next hops that Mailman wrote to those at which this host reaches it. Pure.

A Mailman in a container does not know the host around it. It may have written an address from
before its last start, an address to listen on, or a port that has another number on the host. The
record keeps the next hops that Mailman wrote, so that routes follow the container without a change
of Mailman's files.
"""

from collections.abc import Mapping
from dataclasses import replace

from postfix_sync.model.destination import Destination, Peer
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import (
    next_hops_of,
    parse_next_hops,
    parse_unjudged,
    render_next_hops,
)


def relocated(routes: Table[str], peer: Peer) -> Table[str] | None:
    """Return the routes with next hops that reach Mailman; None if one of them has none.

    A host name is kept. It gets its address in the hosts file (`host_address`), or, if it must not
    enter that file, `by_address` replaces it by the address.
    """
    values: dict[str, str] = {}
    for value in routes.distinct_values():
        written = parse_unjudged(value)
        place = peer.reach(written.host, written.port)
        if not place:
            return None
        if written.host and written.is_name:
            values[value] = replace(written, port=place.port).next_hop
        else:
            values[value] = place.next_hop
    return routes.mapped(values.__getitem__)


def host_address(routes: Table[str], peer: Peer) -> str | None:
    """Return the IP address for the host names in routes as Mailman wrote them, or None."""
    for hop in sorted({parse_unjudged(value) for value in routes.distinct_values()}):
        if place := peer.reach("", hop.port):
            return place.host
    return None


def by_address(routes: Table[str], addresses: Mapping[str, str]) -> Table[str]:
    """Replace host names in the next hops of routes by IP addresses; `addresses` has both."""
    hops = next_hops_of(routes)
    return moved(
        routes,
        {hop: replace(hop, host=addresses[hop.host]) for hop in hops if hop.host in addresses},
    )


def moved(routes: Table[str], to: Mapping[Destination, Destination]) -> Table[str]:
    """Replace next hops of routes by those in `to`.

    Next hops that `to` does not have, and routes in another form than ours, are kept.
    """
    values: dict[str, str] = {}
    for value in routes.distinct_values() if to else ():
        hops = parse_next_hops(value)
        if any(hop in to for hop in hops):
            values[value] = render_next_hops(to.get(hop, hop) for hop in hops)
    return routes.mapped(lambda value: values.get(value, value)) if values else routes


def unpublished(routes: Table[str], peer: Peer) -> set[int]:
    """Return the ports of routes that this host can't reach."""
    hops = {parse_unjudged(value) for value in routes.distinct_values()}
    return {hop.port for hop in hops if not peer.reach(hop.host, hop.port)}
