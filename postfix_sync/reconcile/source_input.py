"""One source in a sync: its configuration, its last good lists, and its answer. Pure."""

from dataclasses import dataclass, field, replace

from postfix_sync.containers.relocate import host_address, relocated
from postfix_sync.errors import SyncError
from postfix_sync.model.destination import Peer
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.model.source import MailmanTables, Policy, Record
from postfix_sync.reconcile.merge import without

DISCOVERED = "found out"
"""Stands for the address of a source that is not configured, but discovered: its peer's."""


@dataclass(frozen=True)
class SourceInput:
    """One source in a sync: its configuration, its last good lists, and its answer, if any."""

    name: str
    policy: Policy = field(default_factory=Policy)
    cluster: str | None = None
    address: str | None = None
    """The IP address that is configured, or DISCOVERED."""
    recorded: Record | None = None
    tables: MailmanTables | None = None
    """What it has now; None if that is not known to differ from what is recorded."""
    peer: Peer | None = None
    misplaced: SyncError | None = None
    """Why its address could not be discovered."""
    error: SyncError | None = None
    has_answered: bool = False
    """Whether its present lists are known."""

    @property
    def party(self) -> str:
        """The name that it shares with its replicas."""
        return self.cluster or self.name

    def address_with(self, record: Record) -> str | None:
        """Return the IP address that its host names get, if it is known."""
        if self.address != DISCOVERED:
            return self.address
        return host_address(record.tables.routes, record.peer) if record.peer else None

    def before(self) -> Record | None:
        """Return the last good lists, as far as the current configuration permits them.

        None also if no address is known at which they could be reached.
        """
        if not self.recorded:
            return None
        tables = _confined(self.recorded.tables, self.policy)
        for peer in (self.peer or self.recorded.peer, self.recorded.peer):
            record = replace(self.recorded, tables=tables, peer=peer)
            if self.routed(record):
                return record
        return None

    def now(self, before: Record | None) -> Record | None:
        """Return what it has now; None if it did not answer, or a next hop can't be reached."""
        if not self.tables:
            return None
        record = Record(self.tables, self.peer or (before.peer if before else None))
        return record if self.routed(record) else None

    def routed(self, record: Record) -> MailmanTables | None:
        """Return a record's tables with next hops as this host reaches them; None if it can't."""
        if not self.policy.is_placed:
            return record.tables
        routes = relocated(record.tables.routes, record.peer or Peer())
        return None if routes is None else replace(record.tables, routes=routes)


def _confined(tables: MailmanTables, policy: Policy) -> MailmanTables:
    """Restrict recorded tables to the configured domains, and give them the configured next hop."""
    if policy.domains:
        allowed = {domain.casefold() for domain in policy.domains}
        if not (tables.aliases.domains() | tables.domains.keys()) <= allowed:
            lists = tables.routes.names() | tables.aliases.names()
            tables = without(tables, {name for name in lists if domain_of(name) not in allowed})
    if policy.destination:
        routes = tables.routes.with_value(policy.destination.next_hop)
        tables = replace(tables, routes=routes, origin=None)  # not what the files say
    return tables
