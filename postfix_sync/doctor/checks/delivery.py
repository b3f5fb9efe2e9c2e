"""Check where mail for lists really goes, by asking Postfix (`postfix-sync explain`).

For each list domain, one list is examined with all nine addresses, and with extensions, as Mailman
uses them for bounces and confirmations. The other checks find the causes, and print the fixes.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.explain.explain import explain
from postfix_sync.explain.steps import Explanation, Step, Verdict
from postfix_sync.explain.view import samples_of, view_of
from postfix_sync.model.finding import Finding
from postfix_sync.model.list_addresses import addresses_of, domain_of
from postfix_sync.model.map_names import ALIASES, RECIPIENTS
from postfix_sync.text import counted

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
    addresses = {name: [*addresses_of(name), *_extended(name)] for name in samples[:DOMAINS]}
    every = [address for several in addresses.values() for address in several]
    found = {one.address: one for one in await explain(view, every, probing=False)}
    for name, several in addresses.items():
        yield _finding(host, name, [found[host.postfix.fold(address)] for address in several])
    if len(samples) > DOMAINS:
        yield warning(
            "delivery",
            f"{counted(len(samples), 'list domain')}, {DOMAINS} examined",
            f"see each of the others with: {host.command('explain')} ADDRESS",
        )


def _extended(name: str) -> Iterator[str]:
    """Yield addresses with extensions, as Mailman makes them for VERP and for confirmations."""
    local, _, domain = name.rpartition("@")
    yield f"{local}-bounces+member=example.org@{domain}"
    yield f"{local}-confirm+0a1b2c@{domain}"


def _finding(host: Host, name: str, found: Sequence[Explanation]) -> Finding:
    called = f"delivery:{domain_of(name)}"
    bad = [(one, step) for one in found if (step := one.obstacle)]
    if bad:
        first, step = bad[0]
        cause = first.rewritten_by or step
        ends = "" if cause is step else f", so {step.step}: {step.found}"
        others = f", as of {len(bad)} of {len(found)} addresses of the list" if bad[1:] else ""
        meaning = _MEANINGS.get(step.outcome, "")
        return failure(
            called,
            f"{first.address}: {cause.step}: {cause.found}{_by(cause)}{ends}",
            f"{meaning}{others}; all steps: {host.command('explain', first.address)}",
        )
    if unknown := next((one for one in found if one.verdict is Verdict.UNKNOWN), None):
        step = next(step for step in unknown.steps if step.outcome is Verdict.UNKNOWN)
        return warning(
            called,
            f"{unknown.address}: {step.step}: {step.found}",
            "it is unknown whether its mail reaches Mailman;"
            f" all steps: {host.command('explain', unknown.address)}",
        )
    destinations = ", ".join(_unique(one.destination for one in found))
    return ok(called, f"all {len(found)} addresses of {name} lead to {destinations}")


def _by(step: Step) -> str:
    return f" ({step.by})" if step.by else ""


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
