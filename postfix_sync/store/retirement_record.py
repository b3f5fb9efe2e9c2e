"""What is not needed any more, and since when, as a file in the state directory."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from postfix_sync.store.json_reader import Damaged, parse
from postfix_sync.system.files import read_file, remove_file, replace_file, unwritable

ROUTE_KEPT = 60.0
"""Seconds in which a removed list may come back without another change of the routes."""

NAME_KEPT = 600.0
"""Seconds: longer than qmgr(8) keeps a message in the active queue without resolving it again."""

MOVED_FOR = 60.0
"""Seconds after a move in which mail may still be deferred by a try at the old destination."""


@dataclass(frozen=True)
class Retiring:
    """What is kept for a while, each with when it was noted, in seconds since the epoch."""

    routes: Mapping[str, float] = field(default_factory=dict)
    """By list, or by address where it is part of none, routes that no accepted address needs."""
    names: Mapping[str, float] = field(default_factory=dict)
    """Names in our block of the hosts file that are not wanted there."""
    moved: Mapping[str, float] = field(default_factory=dict)
    """By list, those whose next hop has changed."""

    def __bool__(self) -> bool:
        return bool(self.routes or self.names or self.moved)

    def due_routes(self, now: float, oldest: float) -> AbstractSet[str]:
        """Find the lists whose routes may go if nothing in the queue needs them.

        `oldest` is for how many seconds the oldest smtpd(8) has been running: one from before may
        be taking a message, and one that has tables from before accepts more of them.
        """
        return older(self.routes, now - max(ROUTE_KEPT, oldest))

    def due_names(self, now: float) -> AbstractSet[str]:
        """Find the host names that may go if no route leads to them."""
        return older(self.names, now - NAME_KEPT)

    def without(self, routes: AbstractSet[str], names: AbstractSet[str], now: float) -> "Retiring":
        """Take out what has been retired, and the moves that are long over."""
        return Retiring(
            {name: at for name, at in self.routes.items() if name not in routes},
            {name: at for name, at in self.names.items() if name not in names},
            {name: at for name, at in self.moved.items() if now - MOVED_FOR < at},
        )


def older(noted: Mapping[str, float], limit: float) -> AbstractSet[str]:
    return {name for name, at in noted.items() if at <= limit}


class _Stored(TypedDict):
    """What the file holds; see `Retiring`."""

    routes: dict[str, float]
    names: dict[str, float]
    moved: dict[str, float]


@dataclass(frozen=True)
class RetirementRecord:
    """What is kept for a while, on the disk."""

    path: Path

    def read(self) -> Retiring:
        """Read it; what is damaged is noted again by the next sync, as of then."""
        try:
            found = parse(read_file(self.path), _Stored)
        except (OSError, Damaged):
            return Retiring()
        return Retiring(found["routes"], found["names"], found["moved"])

    def write(self, retiring: Retiring) -> None:
        """Replace it, or remove it if there is nothing.

        Raises ApplyError or NotPermitted; it is then as it was.
        """
        try:
            if retiring:
                replace_file(self.path, json.dumps(asdict(retiring)).encode() + b"\n")
            else:
                remove_file(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None
