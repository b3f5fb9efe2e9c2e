"""What an operator requests of a sync, and what a sync reports. Pure."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from postfix_sync.errors import Exit, SyncError, worst
from postfix_sync.model import (
    BOTH_FAMILIES,
    ROUTES,
    Destination,
    Families,
    Installed,
    Maps,
    Notice,
    Table,
)
from postfix_sync.postfix.next_hop import next_hops_of
from postfix_sync.reconcile.reload_spacing import RELOAD_AGE
from postfix_sync.store.generations import Hold
from postfix_sync.store.records import Stamp


@dataclass(frozen=True)
class Request:
    """What an operator asks of one pass."""

    force: bool = False
    """The guards let everything through."""
    dry_run: bool = False
    """Nothing at all is written."""
    roll_back: int | None = None
    """This generation is put in place, and held."""
    resume: bool = False
    """Nothing is held any more."""
    reload_age: float = RELOAD_AGE
    """Seconds that Postfix must have run since its last reload before it is reloaded again."""


PLAIN = Request()
"""A sync that nobody requested anything of."""


@dataclass(frozen=True)
class SourceReport:
    """How one source fared."""

    errors: tuple[SyncError, ...] = ()
    lists: int = 0
    """How many lists of it are installed, and how many addresses."""
    entries: int = 0
    changed: bool = False
    stamp: Stamp | None = None
    """The version of its record, where that has its answer."""
    answered_at: float | None = None
    """When it gave the answer that counts here, in seconds since the epoch; None: it gave none."""
    failed_at: float | None = None
    """When it was asked, where it gave an error instead."""
    outdated: bool = False
    """Its record is newer than its answer, which was passed over: it has to be asked again."""


@dataclass(frozen=True)
class Report:
    """What a pass found and did."""

    failed: tuple[SyncError, ...] = ()
    """What went wrong with the pass itself, for all sources."""
    sources: Mapping[str, SourceReport] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    lines: tuple[str, ...] = ()
    """What changed, for the log."""
    preview: tuple[str, ...] = ()
    """What a pass that is no dry run would change."""
    pending: tuple[str, ...] = ()
    """The entries among that, in the words of the log: how far the maps are behind."""
    found: Installed | None = None
    """What the pass found installed, before it changed anything."""
    map_type: str = ""
    installed: Maps | None = None
    """What Postfix works with after the pass; None where that can't be known."""
    updated: Mapping[str, float] = field(default_factory=dict)
    """When each map was last published, in seconds since the epoch."""
    known_hosts: Mapping[str, str] = field(default_factory=dict)
    """Host names with the addresses that the hosts file gives them."""
    clusters: Mapping[str, Mapping[Destination, str]] = field(default_factory=dict)
    """The destinations of each cluster, each with a list that it must know."""
    entries: Mapping[str, int] = field(default_factory=dict)
    """How many entries of the maps it has added, removed and changed, under these names."""
    reloads: int = 0
    """How often it had Postfix reload."""
    rerouted: bool = False
    """Whether mail of lists that were installed before goes elsewhere now."""
    waits: float = 0.0
    """Seconds after which another sync has to go on with it, if Postfix was reloaded just now."""
    seconds: float = 0.0
    """How long it took, waiting for the lock included."""
    generation: int | None = None
    """Which generation is installed, where that is known."""
    held: Hold | None = None
    waiting: str = ""
    """What would change if nothing were held."""
    families: Families = BOTH_FAMILIES
    """The versions of IP that Postfix may use."""

    @property
    def errors(self) -> tuple[SyncError, ...]:
        """All that went wrong."""
        return (*self.failed, *(error for one in self.sources.values() for error in one.errors))

    @property
    def status(self) -> Exit:
        """The exit status of the pass, without that of the probes after it."""
        return worst(error.status for error in self.errors)

    @property
    def replicas(self) -> dict[Destination, str]:
        """The destinations of all clusters, those that no route leads to just now included."""
        return {hop: name for hops in self.clusters.values() for hop, name in hops.items()}

    @property
    def routes(self) -> Table:
        """The routes that are installed, none where they can't be known."""
        return self.installed[ROUTES] if self.installed else {}

    @property
    def routes_in_use(self) -> Table:
        """Those of them that lists have which are accepted, none where they can't be known."""
        return self.installed.routes_in_use if self.installed else {}

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """All that mail for accepted lists may go to."""
        return next_hops_of(self.routes_in_use) | self.replicas.keys()


def combined(first: Report, second: Report) -> Report:
    """The report on a sync that was made in two."""
    return replace(
        second,
        notices=tuple(dict.fromkeys((*first.notices, *second.notices))),
        lines=(*first.lines, *second.lines),
        entries=Counter(first.entries) + Counter(second.entries),
        reloads=first.reloads + second.reloads,
        sources={
            name: replace(one, changed=one.changed or first.sources[name].changed)
            if name in first.sources
            else one
            for name, one in second.sources.items()
        },
    )
