"""Choose the destinations to probe, and a list that each must know. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from postfix_sync.model.destination import Destination
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import destinations_of, parse_next_hops


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
    found = {
        **{destination: [name] for destination, name in replicas.items()},
        **destinations_of(routes),
    }
    return [
        Target(
            destination,
            min(filter(str.isascii, lists), key=partial(_rank, routes), default=None),
        )
        for destination, lists in sorted(found.items())
    ]


def _rank(routes: Table[str], name: str) -> tuple[int, str]:
    return -len(parse_next_hops(routes.get(name, ""))), name
