"""The checks of doctor, and what they look at.

Each check is a function from a `Host` to what it found; those that belong together are in one
module, and doctor.py has the table of all. None of them changes anything. They run after one
another, so what more than one of them needs is asked once, here.
"""

import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from postfix_sync.fetch import Fetched
from postfix_sync.model import (
    DOMAINS,
    ROUTES,
    Destination,
    Finding,
    Table,
    Verdict,
)
from postfix_sync.postfix import Postfix
from postfix_sync.tables import next_hops_of

if TYPE_CHECKING:
    from postfix_sync.config import Config
    from postfix_sync.state import Status


@dataclass(frozen=True)
class Host:
    """What doctor looks at: the configuration, the sources' answers, the maps, and Postfix."""

    config: "Config"
    postfix: Postfix
    map_type: str
    installed: Mapping[str, Table | None]
    """The entries of each map after its text, None where they can't be known."""
    answers: Mapping[str, Fetched]
    """What each source said just now, by name."""
    status: "Status | None" = None
    """status.json, if there is one that can be read."""
    now: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    def table(self, name: str) -> Table:
        """The entries of an installed map, none where they can't be known."""
        return self.installed.get(name) or {}

    @property
    def domains(self) -> AbstractSet[str]:
        """The mail domains of all lists: those that are installed, and those that sources name."""
        named = (one.tables.domains for one in self.answers.values() if one.tables)
        return self.table(DOMAINS).keys() | {domain for domains in named for domain in domains}

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """All that mail is routed to at the moment."""
        return next_hops_of(self.table(ROUTES))

    def command(self, *arguments: str) -> str:
        """postfix-sync itself with this configuration, as an operator types it."""
        path = str(self.config.path)
        chosen = [] if path == "/etc/postfix-sync/config.yaml" else ["-c", path]
        return shlex.join(["postfix-sync", *chosen, *arguments])


Check: TypeAlias = Callable[[Host], AsyncIterator[Finding]]


def ok(name: str, seen: str) -> Finding:
    """All is well."""
    return Finding(name, Verdict.OK, seen)


def warning(name: str, seen: str, why: str, fix: str | None = None) -> Finding:
    """It works, but not in every case, or not for long."""
    return Finding(name, Verdict.WARNING, seen, why, fix)


def failure(name: str, seen: str, why: str, fix: str | None = None) -> Finding:
    """Mail of the lists is lost, refused or held up by it."""
    return Finding(name, Verdict.FAILURE, seen, why, fix)
