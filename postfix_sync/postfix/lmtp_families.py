"""Find destinations with no IP address that lmtp(8) may use, because inet_protocols excludes it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from postfix_sync.model.destination import BOTH_FAMILIES, Destination, family_of
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.lmtp_resolver import Answer, look_up_all
from postfix_sync.postfix.main_cf.fixes import command, reloaded
from postfix_sync.postfix.master_cf import LMTP
from postfix_sync.system.interfaces import has_ipv6


async def barred(
    postfix: Postfix, hosts: Iterable[str], addresses: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return the hosts that resolve only to IP addresses that inet_protocols excludes, with these.

    lmtp(8) would return mail for them to its sender. A host may be an IP address; `addresses` has
    the address of some names, and the others are looked up.
    """
    every = set(hosts)
    named = {host for host in every if Destination(host, 0).is_name}
    known = {host: addresses.get(host, "") if host in named else host for host in every}
    found: dict[str, tuple[str, ...]] = {
        host: (address,)
        for host, address in known.items()
        if address and family_of(address) not in postfix.families
    }
    unknown = {host for host, address in known.items() if not address}
    if unknown:
        by = postfix.lmtp.resolver
        answers = await look_up_all(by, unknown)
        nothing = Answer()
        lacking = [name for name, answer in answers.items() if replace(answer, said="") == nothing]
        others = await look_up_all(replace(by, family=0), lacking)
        found |= {name: answer.addresses for name, answer in others.items() if answer.addresses}
    return found


def barred_families(postfix: Postfix) -> str:
    """Return the versions of IP that lmtp(8) must not use, such as `IPv6`, for messages."""
    return " and ".join(f"IPv{version}" for version in sorted(BOTH_FAMILIES - postfix.families))


def permit_both_families(postfix: Postfix) -> str | None:
    """Return the command that permits both families to lmtp(8) alone; None if the host has no IPv6.

    A change of the parameter in main.cf would need a stop and a start of Postfix, and apply to
    smtp(8) and smtpd(8), too.
    """
    if not has_ipv6():
        return None
    change = f"{'/'.join(LMTP)}/inet_protocols = all"
    return reloaded(postfix, command(postfix, "postconf", "-P", change))
