"""Choose the destinations to probe, and a list that each must know. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from postfix_sync.mailman.addresses import destinations_of
from postfix_sync.model import BOTH_FAMILIES, Destination, Families, Table
from postfix_sync.postfix.next_hop import parse_next_hops


@dataclass(frozen=True)
class Target:
    """A destination to probe, and the address of one of its lists, if one is known."""

    destination: Destination
    recipient: str | None = None
    doubting: bool = False
    """Whether to ask as well if it takes mail for anybody, which Mailman did before 3.3.6.

    That is a line more in Mailman's log, and the answer changes only when Mailman does.
    """
    families: Families = BOTH_FAMILIES
    """The versions of IP that Postfix may use for it, and so the probe."""


def targets(
    routes: Table, replicas: Mapping[Destination, str], families: Families = BOTH_FAMILIES
) -> list[Target]:
    """The destinations of installed routes, and replicas, each with the first of its lists.

    Lists that several destinations share come before others: those are the ones that a replica,
    whatever its files say, must know. `replicas` come with one for those that no route leads to.
    """
    found = {
        **{destination: [name] for destination, name in replicas.items()},
        **destinations_of(routes),
    }
    return [
        Target(
            destination,
            min(filter(str.isascii, lists), key=partial(_rank, routes), default=None),
            families=families,
        )
        for destination, lists in sorted(found.items())
    ]


def _rank(routes: Table, name: str) -> tuple[int, str]:
    return -len(parse_next_hops(routes.get(name, ""))), name
