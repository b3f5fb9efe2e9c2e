"""Check that Postfix neither slows list mail down nor accepts what Mailman's server refuses."""

from collections.abc import AsyncIterator

from postfix_sync.doctor.findings import ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.postfix.time_value import seconds_of

DELAYS = {
    "lmtp_destination_rate_delay": "one Mailman",
    "lmtp_transport_rate_delay": "all Mailmans together",
}
"""The parameters by which qmgr(8) delays deliveries, and for what it counts them (postconf(5))."""


async def delays(host: Host) -> AsyncIterator[Finding]:
    """Check that qmgr(8) does not wait between two messages for Mailman."""
    values = await host.postfix.values(*DELAYS)
    manager = next((service for service in host.services if service.command == "qmgr"), None)
    overrides = manager.overrides if manager else {}
    own = {**values, **{name: overrides[name] for name in DELAYS if name in overrides}}
    for name, value in own.items():  # without a service lmtp, Postfix has neither parameter
        if not seconds_of(value, "s"):
            yield ok(name, f"{name} = {value}")
            continue
        there = f"{manager.name}/{manager.kind}/" if manager and name in overrides else ""
        yield warning(
            name,
            f"{name} = {value}",
            f"qmgr(8) waits {value} after each message before it delivers the next one to"
            f" {DELAYS[name]}: mail to lists waits in the queue when several messages come. The"
            " command ends that for the transport lmtp only",
            host.edit(f"{there}{name}=0s", "-P") if there else host.edit(f"{name} = 0s"),
        )


async def sizes(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix accepts no message that is larger than what Mailman's server accepts."""
    name = "message_size_limit"
    accepted = int(host.postfix.parameters[name])
    small = [
        (limit, result.destination.endpoint)
        for result in host.probes
        if (limit := _size(result)) and not 0 < accepted <= limit
    ]
    if not small:
        yield ok(name, f"{name} = {accepted}{_unlimited(accepted)}")
        return
    limit, endpoint = min(small)
    yield warning(
        name,
        f"{name} = {accepted}{_unlimited(accepted)}, and {endpoint} accepts {limit} bytes at most",
        "Postfix accepts a larger message to a list, and returns it to its sender later (message"
        f" size exceeds size limit of server), instead of refusing it. {name} = {limit} would"
        " refuse it, but also larger mail to all other recipients",
    )


def _unlimited(size: int) -> str:
    return "" if size else " (no limit)"


def _size(result: ProbeResult) -> int:
    """Return the size in bytes that a server accepts (RFC 1870); 0 if it names none."""
    for offer in result.offers:
        keyword, _, limit = offer.partition(" ")
        if keyword == "SIZE" and limit.isascii() and limit.isdigit():
            return int(limit)
    return 0


async def smtputf8(host: Host) -> AsyncIterator[Finding]:
    """Report whether mail with addresses that are not ASCII can get to Mailman.

    It is no problem of this host: Mailman's server does not offer SMTPUTF8 (RFC 6531), and the
    sender gets the message back with the reason.
    """
    name = "smtputf8_enable"
    present = host.postfix.parameters[name]
    lacking = [
        result.destination.endpoint
        for result in host.probes
        if result.offers and "SMTPUTF8" not in result.offers
    ]
    note = ""
    if present == "yes" and lacking:
        note = (
            f"; {min(lacking)} does not offer SMTPUTF8, so mail to its lists with an address that"
            " is not ASCII is returned to its sender"
        )
    yield ok(name, f"{name} = {present}{note}")
