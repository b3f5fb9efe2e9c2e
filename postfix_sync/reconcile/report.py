"""What an operator requests of a sync, and what a sync reports. Pure."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from postfix_sync.errors import Exit, SyncError, worst
from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import Installed
from postfix_sync.model.map_names import ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.notice import Notice
from postfix_sync.model.table import Table
from postfix_sync.postfix.lmtp_client import LmtpClient
from postfix_sync.postfix.next_hop import next_hops_of
from postfix_sync.reconcile.reload_spacing import RELOAD_AGE
from postfix_sync.store.hold import Hold
from postfix_sync.store.records import Stamp


@dataclass(frozen=True)
class Request:
    """What an operator requests of one sync."""

    force: bool = False
    """Skip the guards."""
    dry_run: bool = False
    """Write nothing at all."""
    check_indexes: bool = False
    """Read every key of the indexes back, also if that was done a moment ago."""
    roll_back: int | None = None
    """Install this generation, and hold it."""
    resume: bool = False
    """Release the hold."""
    reload_age: float = RELOAD_AGE
    """Seconds that Postfix must have run since its last reload before it is reloaded again."""


PLAIN = Request()
"""A sync without a request of an operator."""


@dataclass(frozen=True)
class SourceReport:
    """What became of one source."""

    errors: tuple[SyncError, ...] = ()
    lists: int = 0
    """How many lists of it are installed, and how many addresses."""
    entries: int = 0
    changed: bool = False
    stamp: Stamp | None = None
    """The version of its record, where that has its answer."""
    answered_at: float | None = None
    """When it gave the answer that counts, in seconds since the epoch; None if it gave none."""
    failed_at: float | None = None
    """When it was polled, if that ended in an error."""
    outdated: bool = False
    """Its record is newer than its answer, which was ignored: it has to be polled again."""


@dataclass(frozen=True)
class Report:
    """What a sync found and did."""

    failed: tuple[SyncError, ...] = ()
    """What went wrong with the sync itself, for all sources."""
    sources: Mapping[str, SourceReport] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    lines: tuple[str, ...] = ()
    """What changed, for the log."""
    preview: tuple[str, ...] = ()
    """What a sync would change that is not a dry run."""
    pending: tuple[str, ...] = ()
    """The entries among that, as log lines: how far the maps are behind."""
    found: Installed | None = None
    """What was installed before the sync."""
    map_type: str = ""
    installed: Maps | None = None
    """What is installed after the sync; None if that is unknown."""
    updated: Mapping[str, float] = field(default_factory=dict)
    """When each map was last published, in seconds since the epoch."""
    clusters: Mapping[str, Mapping[Destination, str]] = field(default_factory=dict)
    """The destinations of each cluster, each with a list that it must know."""
    entries: Mapping[str, int] = field(default_factory=dict)
    """How many entries of the maps it has added, removed and changed, under these names."""
    reloads: int = 0
    """How often it reloaded Postfix."""
    rerouted: bool = False
    """Whether mail of lists that were installed before goes elsewhere now."""
    waits: float = 0.0
    """Seconds after which another sync has to continue it, if Postfix was reloaded a moment ago."""
    seconds: float = 0.0
    """How long it took, including the wait for the lock."""
    generation: int | None = None
    """Which generation is installed, if that is known."""
    held: Hold | None = None
    waiting: str = ""
    """What would change without the hold."""
    lmtp: LmtpClient = field(default_factory=LmtpClient)
    """What Postfix's lmtp(8) may do, and so the probes."""

    @property
    def errors(self) -> tuple[SyncError, ...]:
        """All that went wrong."""
        return (*self.failed, *(error for one in self.sources.values() for error in one.errors))

    @property
    def status(self) -> Exit:
        """The exit status of the sync, without that of the probes after it."""
        return worst(error.status for error in self.errors)

    @property
    def replicas(self) -> dict[Destination, str]:
        """The destinations of all clusters, including those that no route leads to now."""
        return {hop: name for hops in self.clusters.values() for hop, name in hops.items()}

    @property
    def routes(self) -> Table[str]:
        """The installed routes; empty if they are unknown."""
        return self.installed[ROUTES] if self.installed else Table({}, {})

    @property
    def routes_in_use(self) -> Table[str]:
        """The installed routes of accepted lists; empty if they are unknown."""
        return self.installed.routes_in_use if self.installed else Table({}, {})

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """The destinations of mail for accepted lists."""
        return next_hops_of(self.routes_in_use) | self.replicas.keys()


def combined(first: Report, second: Report) -> Report:
    """Combine the reports on a sync that was made in two."""
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
