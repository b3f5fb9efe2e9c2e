"""Check where mail for lists really goes, by asking Postfix (`postfix-sync explain`).

For each list domain, one list is examined with all nine addresses, and with extensions, as Mailman
uses them for bounces and confirmations. The other checks find the causes, and print the fixes.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from postfix_sync.doctor.checks.lookups import sample_addresses
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.explain import paths
from postfix_sync.explain.explain import explain
from postfix_sync.explain.steps import Explanation, Step, Verdict
from postfix_sync.explain.view import View, samples_of, view_of
from postfix_sync.explain.ways import tables_of_services
from postfix_sync.model.finding import Finding
from postfix_sync.model.list_addresses import addresses_of, domain_of, list_with
from postfix_sync.model.map_names import ALIASES, RECIPIENTS
from postfix_sync.postfix.match_list import items
from postfix_sync.text import counted

EXCEPTIONS = 10
"""Lists to examine at most because a table has an entry for them."""

_DIVERTING = (
    "canonical_maps",
    "recipient_canonical_maps",
    "relocated_maps",
    "transport_maps",
    "virtual_alias_maps",
)
"""The parameters whose tables may send mail for a list elsewhere."""

DOMAINS = 50
"""List domains to examine at most."""

_MEANINGS: Mapping[Verdict | None, str] = {
    Verdict.REFUSED: "mail to it is refused, or returned to its sender",
    Verdict.DEFERRED: "mail to it is deferred",
    Verdict.DIVERTED: "mail to it does not go to the list's Mailman",
}


async def delivery(host: Host) -> AsyncIterator[Finding]:
    """Check that mail for a list of each domain is accepted, and goes to its Mailman."""
    samples = [*samples_of(host.table(RECIPIENTS)), *samples_of(host.table(ALIASES))]
    if not samples or not host.postfix.processes.master:
        return  # "running" reports that nothing is delivered
    view = await view_of(host.config, host.postfix, host.tables.unreadable)
    special = [name for name in await _exceptions(host, view) if name not in samples]
    examined = [*samples[:DOMAINS], *special]
    addresses = {name: [*addresses_of(name), *_extended(name)] for name in examined}
    every = [address for several in addresses.values() for address in several]
    found = {one.address: one for one in await explain(view, every, probing=False)}
    good = 0
    for name, several in addresses.items():
        called = f"delivery:{name}" if name in special else f"delivery:{domain_of(name)}"
        answers = [found[host.postfix.fold(address)] for address in several]
        if problem := _problem(host, called, answers):
            yield problem
        else:
            good += 1
    if good:
        lists = examined[0] if good == 1 else f"{good} lists, at least one in each domain,"
        yield ok("delivery", f"all addresses of {lists} lead to Mailman")
    if len(samples) > DOMAINS:
        yield warning(
            "delivery:others",
            f"{counted(len(samples), 'list domain')}, {DOMAINS} examined",
            f"see each of the others with: {host.command('explain')} ADDRESS",
        )


async def _exceptions(host: Host, view: View) -> list[str]:
    """Return lists with an entry in a table of main.cf or master.cf that may treat them specially.

    One list for each entry's value; a table of patterns has the same value for many lists.
    """
    addresses = sample_addresses(host)
    value = " ".join(host.postfix.parameters[name] for name in _DIVERTING)
    value = " ".join([value, *tables_of_services(view)])
    tables = [*items(value), *paths.access_tables(view.services, view.parameters)]
    found: dict[tuple[str, str], str] = {}
    for table in dict.fromkeys(table for table in tables if ":" in table):
        if host.tables.name(table):
            continue
        entries = await host.tables.query(table, addresses)
        for address in addresses:
            if address in entries:
                name = list_with(address) or address
                found.setdefault((table, entries[address]), name)
    known = host.table(RECIPIENTS).names()
    return [name for name in dict.fromkeys(found.values()) if name in known][:EXCEPTIONS]


def _extended(name: str) -> Iterator[str]:
    """Yield addresses with extensions, as Mailman makes them for VERP and for confirmations."""
    local, _, domain = name.rpartition("@")
    yield f"{local}-bounces+member=example.org@{domain}"
    yield f"{local}-confirm+0a1b2c@{domain}"


def _problem(host: Host, called: str, found: Sequence[Explanation]) -> Finding | None:
    """Return what is wrong with the mail of a list; None if all its addresses lead to Mailman."""
    bad = [(one, step) for one in found if (step := one.obstacle)]
    if bad:
        first, step = bad[0]
        cause = step if step.service else first.rewritten_by or step
        subject = step.asked if step.service else first.address
        where = f" if it arrives at {step.service}" if step.service else ""
        ends = "" if cause is step else f", so {step.step}: {step.found}"
        others = f", as of {len(bad)} of {len(found)} addresses of the list" if bad[1:] else ""
        meaning = _MEANINGS.get(step.outcome, "")
        return failure(
            called,
            f"{subject}: {cause.step}: {cause.found}{_by(cause)}{ends}",
            f"{meaning}{where}{others}; all steps: {host.command('explain', first.address)}",
        )
    if unknown := next((one for one in found if one.verdict is Verdict.UNKNOWN), None):
        step = next(step for step in unknown.steps if step.outcome is Verdict.UNKNOWN)
        return warning(
            called,
            f"{unknown.address}: {step.step}: {step.found}",
            "it is unknown whether its mail reaches Mailman;"
            f" all steps: {host.command('explain', unknown.address)}",
        )
    return None


def _by(step: Step) -> str:
    return f" ({step.by})" if step.by else ""
