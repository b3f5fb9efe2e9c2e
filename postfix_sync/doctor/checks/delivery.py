"""Check where mail for lists really goes, by asking Postfix (`postfix-sync explain`).

explain/list_mail.py chooses the lists. The other checks find the causes, and print the fixes.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.explain.list_mail import DOMAINS
from postfix_sync.explain.steps import Explanation, Step, Verdict
from postfix_sync.model.finding import Finding
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.text import counted

_MEANINGS: Mapping[Verdict | None, str] = {
    Verdict.REFUSED: "mail to it is refused, or returned to its sender",
    Verdict.DEFERRED: "mail to it is deferred",
    Verdict.DIVERTED: "mail to it does not go to the list's Mailman",
}


async def delivery(host: Host) -> AsyncIterator[Finding]:
    """Check that mail for a list of each domain is accepted, and goes to its Mailman."""
    mail = await host.list_mail()
    if not mail.answers:
        return  # "running" reports that nothing is delivered
    good = 0
    for name, answers in mail.answers.items():
        called = f"delivery:{name}" if name in mail.special else f"delivery:{domain_of(name)}"
        if problem := _problem(host, called, answers):
            yield problem
        else:
            good += 1
    if good:
        lists = (
            next(iter(mail.answers)) if good == 1 else f"{good} lists, at least one in each domain,"
        )
        yield ok("delivery", f"all addresses of {lists} lead to Mailman")
    if mail.domains > DOMAINS:
        yield warning(
            "delivery:others",
            f"{counted(mail.domains, 'list domain')}, {DOMAINS} examined",
            f"see each of the others with: {host.command('explain')} ADDRESS",
        )


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
