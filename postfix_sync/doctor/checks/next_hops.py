"""Check the addresses of next hops: lmtp(8) may use each, and each leads to only one Mailman."""

from collections import defaultdict
from collections.abc import AsyncIterator

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.lmtp_families import barred, barred_families, permit_both_families


async def families(host: Host) -> AsyncIterator[Finding]:
    """Check that lmtp(8) may use the family of each next hop that is an IP address."""
    name, postfix = "family", host.postfix
    hops = {*host.destinations, *(hop for named in host.named.values() for hop in named)}
    found = await barred(postfix, {hop.host for hop in hops if not hop.is_name}, {})
    family = barred_families(postfix)
    for hop in sorted(hops):
        if hop.host in found:
            yield failure(
                f"{name}:{hop.endpoint}",
                f"{hop.endpoint}: inet_protocols keeps lmtp(8) from using {family}",
                "Postfix accepts mail for its lists and returns it (Address family for hostname not"
                " supported). The command lets lmtp(8) use both; or give the source an address: or"
                " a destination: that Postfix may use",
                permit_both_families(postfix),
            )
    if not found:
        yield ok(name, f"lmtp(8) may use IPv{' and IPv'.join(map(str, sorted(postfix.families)))}")


async def distinct(host: Host) -> AsyncIterator[Finding]:
    """Check that no two Mailmans are reached at the same address and port."""
    parties = defaultdict(set)
    for source in host.config.sources:
        for hop in host.named.get(source.name, ()):
            for address in _addresses_of(host, hop.host):
                parties[address, hop.port].add(source.cluster or source.name)
    for (address, port), names in sorted(parties.items()):
        if len(names) > 1:
            yield warning(
                "next_hops",
                f"{address} port {port} is the next hop of {' and '.join(sorted(names))}",
                "one Mailman listens there, and answers 550 for the lists of the other. Two"
                " container networks may use the same addresses: give one of the sources another"
                " address:, or destination:",
            )
            return
    if len(host.config.sources) > 1:
        yield ok("next_hops", "each Mailman has a next hop of its own")


def _addresses_of(host: Host, name: str) -> tuple[str, ...]:
    if answer := host.lookups.get(name):
        return answer.addresses
    return (name,)
