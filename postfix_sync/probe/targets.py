"""Choose the destinations to probe, and a list that each must know. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from postfix_sync.model.destination import Destination
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import lists_by_route, parse_next_hops


@dataclass(frozen=True)
class Target:
    """A destination to probe, and the address of one of its lists, if any is known."""

    destination: Destination
    recipient: str | None = None
    doubting: bool = False
    """Whether to probe also an address that no list can have.

    Before 3.3.6, Mailman accepted any address. The extra RCPT writes a line to Mailman's log, and
    its reply changes only with an update of Mailman, so that not every probe sends it.
    """


def targets(routes: Table[str], replicas: Mapping[Destination, str]) -> list[Target]:
    """Return the destinations of installed routes and of `replicas`, each with one of its lists.

    That is the list with the most next hops, and of several the first by name: a list that
    destinations share exists at every replica, whatever that replica's files say. `replicas` maps
    members of clusters to a list's address, for members that no installed route leads to.
    """
    known: dict[Destination, list[tuple[int, str]]] = {}
    for value, names in lists_by_route(routes).items():
        hops = parse_next_hops(value)
        first = [(-len(hops), name) for name in islice(filter(str.isascii, names), 1)]
        for hop in hops:
            known.setdefault(hop, []).extend(first)
    for hop, name in replicas.items():
        known.setdefault(hop, [(0, name)] if name.isascii() else [])
    return [
        Target(destination, min(lists)[1] if lists else None)
        for destination, lists in sorted(known.items())
    ]
