"""Explain the mail of all lists by examples.

For each list domain, one list is explained with its nine addresses and two with extensions, as
Mailman uses them for bounces and confirmations. So is a list that a table treats unlike these: that
has other entries, or lacks one. No LMTP server is asked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from postfix_sync.explain import paths
from postfix_sync.explain.explain import explain
from postfix_sync.explain.steps import Explanation, Step, Verdict
from postfix_sync.explain.view import View, samples_of, view_of
from postfix_sync.model.list_addresses import addresses_of, domain_of
from postfix_sync.model.map_names import ALIASES, RECIPIENTS
from postfix_sync.postfix.main_cf.classes import ROLES
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.match_list import items

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

MOST = 200
"""Lists to look up at most, because a table may be in a database on another host."""

DOMAINS = 50
"""List domains to explain at most."""

EXCEPTIONS = 10
"""Lists to explain at most because a table treats them unlike the first list of their domain."""

_DIVERTING = (
    "canonical_maps",
    "recipient_canonical_maps",
    "relocated_maps",
    "transport_maps",
    "virtual_alias_maps",
)
"""The parameters whose tables may send mail for a list elsewhere."""

_LISTING = ("local_recipient_maps", "relay_recipient_maps", "virtual_mailbox_maps")
"""The parameters whose tables have the recipients that exist; the values do not matter."""

_ACCESS = "check_recipient_access"

Treatment: TypeAlias = tuple[str | None, ...]
"""What decides on a list's mail, apart from its name: two lists with the same are treated alike."""


@dataclass(frozen=True)
class ListMail:
    """What Postfix does with the mail of lists, by examples."""

    answers: Mapping[str, Sequence[Explanation]]
    """By list: what happens to mail for each of its addresses. Empty if Postfix does not run."""
    special: AbstractSet[str] = frozenset()
    """The lists that were explained because a table treats them unlike others of their domain."""
    domains: int = 0
    """The number of list domains, and of domains with an alias_domain."""
    stands_for_all: bool = False
    """Whether every list is treated as one of these examples, as far as the tables answer."""
    services: AbstractSet[str] = frozenset()
    """The services of master.cf that mail from other hosts passes on its way."""

    @property
    def all_delivered(self) -> bool:
        """Whether it is certain that mail for every list goes to its Mailman now."""
        found = [one.verdict for several in self.answers.values() for one in several]
        return self.stands_for_all and {*found} == {Verdict.DELIVERED}

    def step(self, name: str) -> Step | None:
        """Return an example of a step: the first one of this name."""
        every = (one for several in self.answers.values() for one in several)
        return next((step for one in every for step in one.steps if step.step == name), None)


async def explain_lists(config: "Config", tables: Tables, domains: AbstractSet[str]) -> ListMail:
    """Explain examples of all lists. Raises SyncError.

    `tables` are those of main.cf, as far as they were queried; `domains` are all of the lists'.
    """
    if not tables.postfix.processes.master:
        return ListMail({})
    view = await view_of(config, tables.postfix, tables.unreadable)
    installed = [view.installed[RECIPIENTS], view.installed[ALIASES]]
    samples = [name for table in installed for name in samples_of(table)]
    if not samples:
        return ListMail({})
    names = sorted({name for table in installed for name in table.names()})
    treated = await _treatments(view, tables, names[:MOST])
    special = _special(samples[:DOMAINS], treated)
    answers = await _explained(view, [*samples[:DOMAINS], *special])
    return ListMail(
        answers,
        special=frozenset(special),
        domains=len(samples),
        stands_for_all=len(names) <= MOST
        and {treated.get(name) for name in answers} >= {*treated.values()}
        and {domain_of(name) for name in answers} >= domains
        and all(map(view.list_entry, answers))
        and not (tables.unreadable or view.tables.unreadable),
        services=_passed(view),
    )


def _special(samples: Sequence[str], treated: Mapping[str, Treatment]) -> list[str]:
    """Return lists that are treated unlike the sample of their domain, one for each treatment."""
    domains = {domain_of(name) for name in samples}
    found = {treated[name]: name for name in samples if name in treated}
    for name, treatment in treated.items():
        if domain_of(name) in domains:
            found.setdefault(treatment, name)
    return [name for name in found.values() if name not in samples][:EXCEPTIONS]


async def _explained(view: View, names: Iterable[str]) -> Mapping[str, Sequence[Explanation]]:
    addresses = {name: [*addresses_of(name), *_extended(name)] for name in names}
    every = [address for several in addresses.values() for address in several]
    found = {one.address: one for one in await explain(view, every, probing=False)}
    return {
        name: [found[view.postfix.fold(address)] for address in several]
        for name, several in addresses.items()
    }


async def _treatments(view: View, tables: Tables, names: Iterable[str]) -> Mapping[str, Treatment]:
    """Return how each list is treated: by its domain, its route, and its entries in tables."""
    entries = {name: view.list_entry(name) for name in names}
    found = {name: [domain_of(name), entry and entry[1]] for name, entry in entries.items()}
    keys = {name: list(_keys(view, name)) for name in found}
    every = [key for several in keys.values() for key in several]
    for table, parameter in _tables(view).items():
        own = tables.name(table)
        # What the maps have now counts: main.cf may name another type, or a file of Mailman's.
        source = tables if parameter in ROLES and not own else view.tables
        held = await source.query(table, every)
        view.tables.unreadable.update(source.unreadable)
        expected = view.installed[own] if own else {}
        for name, several in keys.items():
            found[name] += [_said(held.get(key), key, parameter, expected) for key in several]
    return {name: tuple(treatment) for name, treatment in found.items()}


def _said(value: str | None, key: str, parameter: str, expected: Mapping[str, str]) -> str | None:
    """Return an entry's value as it is compared with that of another list; None without an entry.

    `expected` are the entries of a map of ours.
    """
    if value is None:
        return None
    alike = parameter in _LISTING or value.lower() == key or value == expected.get(key)
    return "" if alike else value


def _keys(view: View, name: str) -> Iterator[str]:
    """Yield the addresses of a list, as tables may have them: local parts alone, too."""
    mydestination = {item.lower() for item in items(view.postfix.parameters["mydestination"])}
    local, _, domain = name.rpartition("@")
    for address in (*addresses_of(name), f"{local}-bounces+1a2b3c@{domain}"):
        yield address
        if domain in mydestination:
            yield address.rpartition("@")[0]


def _tables(view: View) -> Mapping[str, str]:
    """Return the tables that may treat one list unlike another, each with a parameter naming it.

    Those of ROLES come first, because they are the ones that every check of doctor queries.
    """
    found: dict[str, str] = {}
    for name in sorted({*_DIVERTING, *_LISTING}, key=lambda name: name not in ROLES):
        values = [view.postfix.parameters[name]]
        values += [service.overrides.get(name, "") for service in view.services]
        for item in (item for value in values for item in items(value)):
            if ":" in item:
                found.setdefault(item, name)
    access = paths.access_tables(view.services, view.parameters)
    return {**found, **dict.fromkeys((table for table in access if ":" in table), _ACCESS)}


def _extended(name: str) -> Iterator[str]:
    """Yield addresses with extensions, as Mailman makes them for VERP and for confirmations."""
    local, _, domain = name.rpartition("@")
    yield f"{local}-bounces+member=example.org@{domain}"
    yield f"{local}-confirm+0a1b2c@{domain}"


def _passed(view: View) -> AbstractSet[str]:
    """Return the services that decide on mail from other hosts, as far as they are known."""
    listener = paths.public(view.listeners)
    if listener is None:
        return frozenset()
    path = paths.path_from(listener, view.services, view.parameters)
    cleanups = {passage.cleanup for passage in path.passages}
    return {listener.service.name, view.rewrite_socket.name, *cleanups}
