"""Resolve host names as this instance's lmtp(8) does, which often differs from ping(8).

lmtp(8) runs as another user, on Debian in a chroot, and follows lmtp_host_lookup: it queries the
DNS with a client of its own that ignores the hosts file, or calls getaddrinfo(3) with the chroot's
files, or does the first and then the second. A lookup outside of that environment may have another
result, so each lookup runs in a process with lmtp(8)'s user and root (name_lookup.py).
"""

import asyncio
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from postfix_sync.errors import SyncError
from postfix_sync.model.destination import BOTH_FAMILIES, Destination, family_of
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.fixes import command, reloaded
from postfix_sync.postfix.master_cf import LMTP, Service, lmtp_service
from postfix_sync.postfix.match_list import items
from postfix_sync.system.commands import run
from postfix_sync.system.interfaces import has_ipv6

DNS, NATIVE = "dns", "native"

TIMEOUT = 15.0
"""Seconds for one lookup. libc queries a name server that does not answer twice, for 5 s each."""

AT_ONCE = 8
"""Lookups under way at the same time, each a process."""

PARAMETERS = (
    "disable_dns_lookups",
    "lmtp_dns_resolver_options",
    "lmtp_dns_support_level",
    "lmtp_host_lookup",
    "mail_owner",
)

_SEARCHES = frozenset({"res_defnames", "res_dnsrch"})
"""The resolver options with which the DNS is queried for more than the name as written."""

_FAMILY = {frozenset({4}): int(socket.AF_INET), frozenset({6}): int(socket.AF_INET6)}
"""The address family, if lmtp(8) may use only one."""

_PROGRAM = Path(__file__).with_name("name_lookup.py")


@dataclass(frozen=True)
class Answer:
    """The result of a lookup of a host name."""

    addresses: tuple[str, ...] = ()
    unanswered: bool = False
    """Whether no name server has answered: Postfix then defers the mail. If the answer is that
    there is no such name, the mail bounces."""
    said: str = ""
    """Why there is no address."""
    denied: str = ""
    """Why the lookup is not possible here; the name's addresses are then unknown."""


@dataclass(frozen=True)
class Resolver:
    """How lmtp(8) looks names up: its mechanisms, its user, and its root directory."""

    mechanisms: tuple[str, ...]
    """"dns" always comes before "native" (postconf(5), smtp_host_lookup)."""
    user: str | None
    root: Path | None
    family: int = 0
    search: bool = False

    async def look_up(self, name: str) -> Answer:
        """Look a name up by one mechanism after the other, as smtp_addr.c does.

        The next mechanism is used if the answer is that there is no such name, but not if there is
        no answer.
        """
        answer = Answer(denied="lmtp_host_lookup names neither dns nor native")
        for mechanism in self.mechanisms:
            answer = await self._look_up_by(mechanism, name)
            if answer.addresses or answer.unanswered or answer.denied:
                break
        return answer

    async def _look_up_by(self, mechanism: str, name: str) -> Answer:
        request = {
            "name": name,
            "dns": mechanism == DNS,
            "search": self.search,
            "family": self.family,
            "user": self.user,
            "root": str(self.root) if self.root else None,
        }
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), json.dumps(request)]
        try:
            done = await run(argv, timeout=TIMEOUT)
        except SyncError:
            return Answer(unanswered=True, said=f"no answer within {TIMEOUT:g} s")
        if done.status:
            return Answer(denied=done.complaint.rpartition("; ")[2])
        found = json.loads(done.stdout)
        return Answer(**{**found, "addresses": tuple(found.get("addresses", ()))})


def mechanisms(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return lmtp(8)'s mechanisms by main.cf: only getaddrinfo(3) if DNS lookups are disabled."""
    level = parameters["lmtp_dns_support_level"]
    if (level or parameters["disable_dns_lookups"]) in {"disabled", "yes"}:
        return (NATIVE,)
    named = items(parameters["lmtp_host_lookup"])
    return tuple(mechanism for mechanism in (DNS, NATIVE) if mechanism in named)


async def resolver(postfix: Postfix, service: Service | None) -> Resolver:
    """Return the resolver of this instance's lmtp service, or of a default service if it has none.

    Raises ConfigError.
    """
    parameters = await postfix.values(*PARAMETERS)
    if service:
        parameters |= service.overrides
    unprivileged = service is None or service.unprivileged
    return Resolver(
        mechanisms=mechanisms(parameters),
        user=parameters["mail_owner"] if unprivileged else None,
        root=postfix.queue_directory if service and service.chrooted else None,
        family=_FAMILY.get(postfix.families, 0),
        search=not _SEARCHES.isdisjoint(items(parameters["lmtp_dns_resolver_options"].lower())),
    )


async def barred(
    postfix: Postfix, hosts: Iterable[str], addresses: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return the hosts that resolve only to IP addresses that inet_protocols excludes, with these.

    lmtp(8) would return mail for them to its sender. A host may be an IP address; `addresses` has
    the address of some names, and the others are looked up. Raises ConfigError.
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
        service = lmtp_service(await postfix.services())
        by = await resolver(postfix, service)
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


async def look_up_all(by: Resolver, names: Iterable[str]) -> dict[str, Answer]:
    """Look up all names, AT_ONCE of them at the same time; return the answers by name."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(name: str) -> tuple[str, Answer]:
        async with turn:
            return name, await by.look_up(name)

    return dict(await asyncio.gather(*map(in_turn, sorted(names))))
