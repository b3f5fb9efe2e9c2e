"""Host names as this instance's lmtp(8) resolves them, which is seldom as ping(8) does.

lmtp(8) runs as another user, on Debian in a chroot, and asks what lmtp_host_lookup says: the DNS by
a client of its own that knows no hosts file, or getaddrinfo(3) with the chroot's files, or the
first and then the second. Guessing at that from outside is how people lose a day; so it is done,
in a process that is put where lmtp(8) is (name_lookup.py).
"""

import asyncio
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from postfix_sync.errors import SyncError
from postfix_sync.model import BOTH_FAMILIES, Destination, family_of
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.fixes import command, reloaded
from postfix_sync.postfix.master_cf import LMTP, Service
from postfix_sync.postfix.match_list import items
from postfix_sync.system.commands import run
from postfix_sync.system.interfaces import has_ipv6

DNS, NATIVE = "dns", "native"

TIMEOUT = 15.0
"""Seconds for one lookup. libc asks a name server that is mute twice, for 5 s each."""

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
"""The resolver options with which the DNS is asked for more than the name as it is."""

_FAMILY = {frozenset({4}): int(socket.AF_INET), frozenset({6}): int(socket.AF_INET6)}
"""The address family, where it is a single one."""

_PROGRAM = Path(__file__).with_name("name_lookup.py")


@dataclass(frozen=True)
class Answer:
    """What comes of looking a name up."""

    addresses: tuple[str, ...] = ()
    unanswered: bool = False
    """No answer, for now: Postfix keeps the mail. Where the answer is that there is no such name,
    it bounces."""
    said: str = ""
    """Why there is no address."""
    denied: str = ""
    """Why it can't be looked up here: nothing is known then."""


@dataclass(frozen=True)
class Resolver:
    """How names are looked up: by whom, where from, and whom is asked."""

    mechanisms: tuple[str, ...]
    """"dns" always comes before "native" (postconf(5), smtp_host_lookup)."""
    user: str | None
    root: Path | None
    family: int = 0
    search: bool = False

    async def look_up(self, name: str) -> Answer:
        """Asks one mechanism after the other, as smtp_addr.c does: the next where one answers that
        there is no such name, but not where it does not answer.
        """
        answer = Answer(denied="lmtp_host_lookup names neither dns nor native")
        for mechanism in self.mechanisms:
            answer = await self._ask(name, mechanism)
            if answer.addresses or answer.unanswered or answer.denied:
                break
        return answer

    async def _ask(self, name: str, mechanism: str) -> Answer:
        asked = {
            "name": name,
            "dns": mechanism == DNS,
            "search": self.search,
            "family": self.family,
            "user": self.user,
            "root": str(self.root) if self.root else None,
        }
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), json.dumps(asked)]
        try:
            done = await run(argv, timeout=TIMEOUT)
        except SyncError:
            return Answer(unanswered=True, said=f"no answer within {TIMEOUT:g} s")
        if done.status:
            return Answer(denied=done.complaint.rpartition("; ")[2])
        found = json.loads(done.stdout)
        return Answer(**{**found, "addresses": tuple(found.get("addresses", ()))})


def mechanisms(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """What lmtp(8) asks, by main.cf; without the DNS, getaddrinfo(3) is what is left."""
    level = parameters["lmtp_dns_support_level"]
    if (level or parameters["disable_dns_lookups"]) in {"disabled", "yes"}:
        return (NATIVE,)
    named = items(parameters["lmtp_host_lookup"])
    return tuple(mechanism for mechanism in (DNS, NATIVE) if mechanism in named)


async def resolver(postfix: Postfix, service: Service | None) -> Resolver:
    """As the lmtp service of this instance resolves names, or would if there were one."""
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
    """The hosts that lmtp(8) would return mail for, as each has only addresses of a family that
    inet_protocols keeps it from using; with these addresses.

    Some `hosts` are addresses themselves, some names have one in `addresses`, others are looked up.
    """
    asked = set(hosts)
    named = {host for host in asked if Destination(host, 0).is_name}
    known = {host: addresses.get(host, "") if host in named else host for host in asked}
    found: dict[str, tuple[str, ...]] = {
        host: (address,)
        for host, address in known.items()
        if address and family_of(address) not in postfix.families
    }
    unknown = {host for host, address in known.items() if not address}
    if unknown:
        services = await postfix.services()
        service = next(
            (service for service in services if (service.name, service.kind) == LMTP), None
        )
        by = await resolver(postfix, service)
        answers = await look_up_all(by, unknown)
        nothing = Answer()
        lacking = [name for name, answer in answers.items() if replace(answer, said="") == nothing]
        others = await look_up_all(replace(by, family=0), lacking)
        found |= {name: answer.addresses for name, answer in others.items() if answer.addresses}
    return found


def barred_families(postfix: Postfix) -> str:
    """`IPv6`, where lmtp(8) may use only IPv4, and so on; for messages."""
    return " and ".join(f"IPv{version}" for version in sorted(BOTH_FAMILIES - postfix.families))


def permit_both_families(postfix: Postfix) -> str | None:
    """The command that lets lmtp(8), and no other service, use both families; None: it can't be.

    The parameter of main.cf takes a stop and a start, and is smtp(8)'s and smtpd(8)'s as well.
    """
    if not has_ipv6():
        return None
    change = f"{'/'.join(LMTP)}/inet_protocols = all"
    return reloaded(postfix, command(postfix, "postconf", "-P", change))


async def look_up_all(by: Resolver, names: Iterable[str]) -> dict[str, Answer]:
    """The answers for all names."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(name: str) -> tuple[str, Answer]:
        async with turn:
            return name, await by.look_up(name)

    return dict(await asyncio.gather(*map(in_turn, sorted(names))))
