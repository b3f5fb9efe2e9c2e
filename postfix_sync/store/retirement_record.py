"""The names and routes that are no longer needed, with times, as a file in the state directory."""

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
"""Seconds after a move in which a delivery to the old destination may still defer mail."""


@dataclass(frozen=True)
class Retiring:
    """The names and routes to remove later, each with its time, in seconds since the epoch."""

    routes: Mapping[str, float] = field(default_factory=dict)
    """By list, or by address if it belongs to no list, routes that no accepted address needs."""
    names: Mapping[str, float] = field(default_factory=dict)
    """Names in our block of the hosts file that the desired state does not have there."""
    moved: Mapping[str, float] = field(default_factory=dict)
    """Lists whose next hop has changed."""

    def __bool__(self) -> bool:
        return bool(self.routes or self.names or self.moved)

    def due_routes(self, now: float, oldest: float) -> AbstractSet[str]:
        """Find the lists whose routes can be removed if no message in the queue needs them.

        `oldest` is the age of the oldest smtpd(8), in seconds: a process that is older than the
        removal of a list may be receiving a message for it, and with old tables accepts more.
        """
        return older(self.routes, now - max(ROUTE_KEPT, oldest))

    def due_names(self, now: float) -> AbstractSet[str]:
        """Find the host names that can be removed if no route has them."""
        return older(self.names, now - NAME_KEPT)

    def without(self, routes: AbstractSet[str], names: AbstractSet[str], now: float) -> "Retiring":
        """Return the record without the retired routes and names, and without old moves."""
        return Retiring(
            {name: at for name, at in self.routes.items() if name not in routes},
            {name: at for name, at in self.names.items() if name not in names},
            {name: at for name, at in self.moved.items() if now - MOVED_FOR < at},
        )


def older(noted: Mapping[str, float], limit: float) -> AbstractSet[str]:
    """Return the keys that were noted at `limit` or before, in seconds since the epoch."""
    return {name for name, at in noted.items() if at <= limit}


class _Stored(TypedDict):
    """The content of the file; see `Retiring`."""

    routes: dict[str, float]
    names: dict[str, float]
    moved: dict[str, float]


@dataclass(frozen=True)
class RetirementRecord:
    """The file of a `Retiring`."""

    path: Path

    def read(self) -> Retiring:
        """Read the file; if it is damaged, return an empty record, which the next sync fills."""
        try:
            found = parse(read_file(self.path), _Stored)
        except (OSError, Damaged):
            return Retiring()
        return Retiring(found["routes"], found["names"], found["moved"])

    def write(self, retiring: Retiring) -> None:
        """Replace the file, or remove it if `retiring` is empty.

        Raises ApplyError or NotPermitted; the file is then unchanged.
        """
        try:
            if retiring:
                replace_file(self.path, json.dumps(asdict(retiring)).encode() + b"\n")
            else:
                remove_file(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None
