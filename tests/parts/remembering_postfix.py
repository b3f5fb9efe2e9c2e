"""A model of a disk and of a Postfix whose processes cache as much as they can. Pure."""

from dataclasses import dataclass, field

from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import Condition, Desired, Installed, InstalledMap
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_change import Publish
from postfix_sync.postfix.next_hop import next_hops_of, parse_next_hops
from postfix_sync.reconcile.plan import EnterHosts, MakeVisible, Owe, Step

NO_MAILMAN = MailmanTables.of({}, {}, {})


@dataclass
class Machine:
    """A disk, and all that Postfix's processes may have cached since their start."""

    at_once: bool
    disk: dict[str, Table[str]] = field(default_factory=lambda: dict(Maps.of(NO_MAILMAN).tables))
    hosts: dict[str, str] = field(default_factory=dict)
    owed: frozenset[str] | None = None
    left: frozenset[Destination] = frozenset()
    """The recorded previous destinations of hosts."""
    seen: list[Table[str]] = field(default_factory=lambda: [Table({}, {})])
    """The versions of the routes that trivial-rewrite(8) may use."""
    answers: dict[str, set[str]] = field(default_factory=dict)
    """The next hops that qmgr(8) may have cached for an accepted address."""
    domains: list[Table[str]] = field(default_factory=lambda: [Table({}, {})])
    """The versions of the mail domains that smtpd(8) may use."""
    before: set[str] = field(default_factory=set)
    """The addresses that recipients and aliases had at the last check."""
    dialled: dict[str, set[str]] = field(default_factory=dict)
    """The addresses that lmtp(8) may have connections to, by host name: also after a reload, unless
    postfix-sync has waited until they are closed."""

    def installed(self) -> Installed:
        """Return what a sync reads from the disk."""
        maps = {name: InstalledMap(table, Condition.SOUND) for name, table in self.disk.items()}
        return Installed(
            maps,
            reload_owed=self.owed is not None,
            unseen=self.owed or frozenset(),
            left=self.left,
            hosts=self.hosts,
        )

    def accepted(self) -> set[str]:
        """Return the addresses that smtpd(8) accepts mail for."""
        known = {*self.disk[RECIPIENTS], *self.disk[ALIASES]}
        return {key for key in known if domain_of(key) in self.disk[DOMAINS]}

    def take(self, step: Step) -> None:
        """Execute one step; each process that may read its result caches that as well."""
        match step:
            case EnterHosts(names):
                self.hosts = dict(names)
            case Owe(unseen, left):
                self.owed, self.left = unseen, left
            case Publish(name, table):
                self.disk[name] = table
            case MakeVisible():
                closed = {destination.host for destination in step.left}
                self.owed, self.left = None, frozenset()
                self.seen, self.domains = [], []
                self.answers = {}
                self.dialled = {name: found - closed for name, found in self.dialled.items()}
        self.seen = [self.disk[ROUTES]] if self.at_once else [*self.seen, self.disk[ROUTES]]
        self.domains.append(self.disk[DOMAINS])
        for key in self.accepted():
            target = self.disk[ALIASES].get(key, key)
            for routes in self.seen:
                if target in routes:
                    self.answers.setdefault(target, set()).add(routes[target])
        for name in self.hosts.keys() & {hop.host for hop in next_hops_of(self.disk[ROUTES])}:
            self.dialled.setdefault(name, set()).add(self.hosts[name])

    def check(self, kept: set[str]) -> None:
        """Check that each accepted address has a route, and that the `kept` ones are accepted."""
        accepted = self.accepted()
        assert kept <= accepted, f"{kept - accepted} is refused"
        entered = {*self.disk[RECIPIENTS], *self.disk[ALIASES]}
        for key in (entered - self.before) & accepted:
            target = self.disk[ALIASES].get(key, key)
            hops = set(parse_next_hops(self.disk[ROUTES][target]))
            known = {*self.answers.get(target, ()), *(routes[target] for routes in self.seen)}
            wrong = {value for value in known if not set(parse_next_hops(value)) <= hops}
            assert not wrong, f"{key} is accepted while it is taken to be at {wrong}"
        self.before = entered
        for key in accepted:
            target = self.disk[ALIASES].get(key, key)
            assert all(target in routes for routes in self.seen), f"{key} has no route"
            for value in self.answers.get(target, ()):
                names = {hop.host for hop in parse_next_hops(value) if hop.is_name}
                assert names <= self.hosts.keys(), f"{key} is routed to an unknown host"

    def check_done(self, desired: Desired) -> None:
        """Check that no process has cached a wrong value."""
        assert self.owed is None
        for name in (RECIPIENTS, DOMAINS, ALIASES):
            assert self.disk[name] == desired.maps[name]
        assert desired.maps[ROUTES].items() <= self.disk[ROUTES].items()
        for key in self.accepted():
            target = self.disk[ALIASES].get(key, key)
            hops = set(parse_next_hops(self.disk[ROUTES][target]))
            for address in {key, target}:  # queued mail may have the original address
                held = {*self.answers.get(address, ()), self.disk[ROUTES].get(address, "")}
                assert all(set(parse_next_hops(value)) <= hops for value in held)
            assert all(domain_of(key) in domains for domains in self.domains)
        for name, address in desired.hosts.items():
            assert self.dialled.get(name, {address}) == {address}
