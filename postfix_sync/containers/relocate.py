"""A Mailman that is found out to be elsewhere than it wrote: what becomes of its next hops. Pure.

A Mailman in a container knows nothing of the host around it. It may have written an address from
before the last start, one to listen on, or a port that has another number on the host. What it
wrote stays in its record as it is, so that routes follow the container without a word from it.
"""

from dataclasses import replace

from postfix_sync.model import Peer, Table
from postfix_sync.tables import parse_unjudged


def relocated(routes: Table, peer: Peer) -> Table | None:
    """Routes to where their Mailman is reached; None where it is not reached at one of them.

    A host name stays, and gets its address in the hosts file: see `host_address`.
    """
    moved: dict[str, str] = {}
    for value in set(routes.values()):
        written = parse_unjudged(value)
        place = peer.reach(written.host, written.port)
        if not place:
            return None
        if written.host and written.is_name:
            moved[value] = replace(written, port=place.port).next_hop
        else:
            moved[value] = place.next_hop
    return {key: moved[value] for key, value in routes.items()}


def host_address(routes: Table, peer: Peer) -> str | None:
    """The IP address that the host names of routes, as Mailman wrote them, lead to."""
    for hop in sorted({parse_unjudged(value) for value in routes.values()}):
        if place := peer.reach("", hop.port):
            return place.host
    return None


def unpublished(routes: Table, peer: Peer) -> set[int]:
    """The ports of routes that can't be reached."""
    hops = {parse_unjudged(value) for value in routes.values()}
    return {hop.port for hop in hops if not peer.reach(hop.host, hop.port)}
