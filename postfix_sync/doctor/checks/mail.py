"""Check the lists' mail: whether Mailman accepts it, and whether any is deferred."""

from collections.abc import AsyncIterator

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import quote
from postfix_sync.model.destination import Destination
from postfix_sync.model.finding import Finding
from postfix_sync.model.map_names import ROUTES
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.queue import DeferredMail, deferred_by_destination
from postfix_sync.probe.notice import describe
from postfix_sync.text import counted

LATE = 3600.0
"""Seconds for which mail may be deferred before that counts as a failure."""

NAMED_AT_MOST = 20
"""Messages that a command names individually."""

REASON_LENGTH = 300
"""Characters of Postfix's reason that a finding quotes."""


async def probe(host: Host) -> AsyncIterator[Finding]:
    """Report for each destination whether it accepts mail for one of its lists."""
    for result in host.probes:
        called = f"probe:{result.destination.endpoint}"
        said = describe(result)
        if result.warning:
            yield warning(called, said.message, said.hint)
        elif result.up:
            yield ok(called, said.message)
        else:
            yield failure(called, said.message, said.hint)
    if host.config.probe.level == "off":
        yield ok("probe", "destinations are not probed (probe.level: off)")
    elif not host.probes:
        yield ok("probe", "no list leads to any destination yet")


async def deferred(host: Host) -> AsyncIterator[Finding]:
    """Check that no mail is deferred for a destination; else report how much, how long, and why."""
    postfix = host.postfix
    delimiters = postfix.parameters["recipient_delimiter"]
    found = deferred_by_destination(
        await postfix.queue.messages(), host.table(ROUTES), postfix.fold, delimiters
    )
    for destination, held in sorted(found.items()):
        yield _deferred(host, destination, held)
    if not found:
        yield ok("deferred", "no mail for the lists is deferred")


def _deferred(host: Host, destination: Destination, held: DeferredMail) -> Finding:
    age = host.now - held.oldest
    reason = max(held.reasons, key=lambda text: held.reasons[text])
    number = len(held.queue_ids)
    fix = None
    if not host.postfix.processes.master:
        meaning = "Postfix is stopped: nothing is delivered before it is started"
    elif any(result.destination == destination and not result.up for result in host.probes):
        meaning = f"the destination does not take mail: see probe:{destination.endpoint}"
    else:
        meaning = (
            "Postfix tries again by itself, after five minutes at first and after more than an hour"
            " later on; this makes it try now"
        )
        fix = _retry(host, held)
    return (failure if age > LATE else warning)(
        f"deferred:{destination.endpoint}",
        f"{counted(number, 'message')} {'waits' if number == 1 else 'wait'}, the oldest for"
        f" {age / 60:.0f} min; Postfix says: {quote(reason, REASON_LENGTH)}",
        meaning,
        fix,
    )


def _retry(host: Host, held: DeferredMail) -> str:
    """Return the command that retries these messages, or all mail if they are too many to name.

    `postqueue -s` is no alternative: it works only for domains in fast_flush_domains.
    """
    if len(held.queue_ids) > NAMED_AT_MOST:
        return command(host.postfix, "postqueue", "-f")
    if len(held.queue_ids) == 1:
        return command(host.postfix, "postqueue", "-i", held.queue_ids[0])
    again = command(host.postfix, "postqueue", "-i")
    return f"for id in {' '.join(held.queue_ids)}; do {again} $id; done"
