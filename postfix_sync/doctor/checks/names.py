"""Check host names: to what lmtp(8) resolves those of destinations, by what, and if not, why.

The answers are those of lmtp(8) itself (lmtp_resolver.py). The hosts file, the chroot's copies and
lmtp_host_lookup explain them.
"""

import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from postfix_sync.doctor.checks.chroot import NSSWITCH, RESOLV, copying
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.hosts_file.block import parse
from postfix_sync.model.destination import family_of
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.lmtp_families import permit_both_families
from postfix_sync.postfix.lmtp_resolver import DNS, NATIVE, Answer
from postfix_sync.system.files import read_file
from postfix_sync.system.interfaces import is_own


class Cause(NamedTuple):
    """Why a name does not resolve as it should, and the command that fixes it, None without one."""

    why: str
    fix: str | None


async def host_lookup(host: Host) -> AsyncIterator[Finding]:
    """Check that lmtp(8) reads the hosts file if only that has the name of a destination."""
    name, resolver, hosts = "lmtp_host_lookup", host.postfix.lmtp.resolver, host.config.hosts.file
    mechanisms = ", ".join(resolver.mechanisms)
    needing = lost(host)
    if not resolver.mechanisms:
        yield failure(
            name,
            "lmtp_host_lookup names neither dns nor native",
            "lmtp(8) ends as soon as it is started, and all mail that it should deliver waits",
            host.set_lmtp(name, NATIVE),
        )
    elif needing:
        yield failure(
            name,
            f"lmtp(8) asks the {mechanisms.upper()} alone, and {needing[0]} is in {hosts}",
            "it never reads the hosts file: mail bounces (Host or domain name not found), or waits,"
            " although ping(8) finds the host",
            host.set_lmtp(name, NATIVE),
        )
    elif NATIVE in resolver.mechanisms:
        yield ok(name, f"lmtp(8) uses {mechanisms}, so it reads {hosts}")
    else:
        yield ok(name, f"lmtp(8) uses {mechanisms}; it needs no name that is only in {hosts}")


def lost(host: Host) -> list[str]:
    """Return the names that lmtp(8) does not resolve as the hosts file, which it never reads."""
    if NATIVE in host.postfix.lmtp.resolver.mechanisms:
        return []
    known = {**_in_hosts(host), **host.addresses}
    return sorted(
        name
        for name in host.host_names & known.keys()
        if known[name] not in host.lookups.get(name, Answer()).addresses
    )


async def resolved(host: Host) -> AsyncIterator[Finding]:
    """Check that lmtp(8) resolves the name of each destination, and to the right address."""
    for name, answer in sorted(host.lookups.items()):
        wanted = host.addresses.get(name)
        if answer.denied:
            yield warning(
                f"name:{name}",
                f"can't be looked up the way lmtp(8) does: {answer.denied}",
                "taking on lmtp(8)'s user and its chroot needs root, and looking names up as it"
                " does, glibc",
            )
        elif not answer.addresses:
            async with aclosing(_why_unknown(host, name, answer)) as causes:
                cause = await anext(causes)
            bounces = "waits in the queue" if answer.unanswered else "bounces"
            yield failure(
                f"name:{name}",
                f"lmtp(8) finds no address: {answer.said}",
                f"mail for its lists {bounces}. {cause.why}",
                cause.fix,
            )
        elif wanted and set(answer.addresses) != {wanted}:
            cause = _why_other(host, name)
            yield failure(
                f"name:{name}",
                f"is {_listed(answer)} for lmtp(8); sources.address says {wanted}",
                f"mail for its lists goes to a place where Mailman is not. {cause.why}",
                cause.fix,
            )
        else:
            yield _judged(name, answer)


def _judged(name: str, answer: Answer) -> Finding:
    """Make the finding of a name whose addresses do not contradict the configuration."""
    finding, seen = f"name:{name}", f"is {_listed(answer)} for lmtp(8)"
    addresses = [ipaddress.ip_address(address.partition("%")[0]) for address in answer.addresses]
    if any(address.is_unspecified for address in addresses):
        return failure(
            finding,
            seen,
            "that is not the address of another host: a connection to it reaches this host itself."
            " Mailman listens there, but is not found there: give the source an address: or a"
            " destination:",
        )
    own = [address for address in addresses if address.is_global and is_own(str(address))]
    if own:
        return warning(
            finding,
            f"{seen}, a public address of this host",
            "a container can't listen on it (Mailman's log then says: error while attempting to"
            " bind on address), and LMTP should not be open to the world: publish the port on"
            " 127.0.0.1, and give the source address: 127.0.0.1",
        )
    return ok(finding, seen)


async def _why_unknown(host: Host, name: str, answer: Answer) -> AsyncGenerator[Cause, None]:
    """Yield the causes that explain why a name is not found, in the order in which to fix them."""
    resolver, known = host.postfix.lmtp.resolver, _in_hosts(host)
    path = host.config.hosts.file
    address = host.addresses.get(name)
    if address and family_of(address) not in host.postfix.families:
        yield _barred(host, address)
    if name in host.addresses and name not in known:
        yield Cause(f"It is not in {path}: the next sync enters it.", host.command("--once"))
    native = host.set_lmtp("lmtp_host_lookup", NATIVE)
    if NATIVE not in resolver.mechanisms:
        outside = await replace(resolver, mechanisms=(NATIVE,), user=None, root=None).look_up(name)
        if name in known or outside.addresses:
            yield Cause("This host knows the name, but lmtp(8) queries only the DNS.", native)
    elif answer.unanswered and name in known and DNS in resolver.mechanisms:
        yield Cause("The DNS is queried before the hosts file, and does not answer.", native)
    inside = RESOLV
    if resolver.root:
        copy, inside = resolver.root / "etc/hosts", resolver.root / "etc/resolv.conf"
        if name in known and name not in _names_in(copy):
            lacking = f"lmtp(8) is chrooted, and its copy of {path} does not have the name."
            yield Cause(lacking, copying(path, copy))
        if answer.unanswered and _servers(inside) != _servers(RESOLV):
            other = f"{inside} names {_listed_servers(inside)}, {RESOLV} {_listed_servers(RESOLV)}"
            yield Cause(f"lmtp(8) is chrooted, and {other}.", copying(RESOLV, inside))
    if answer.unanswered:
        yield Cause(f"No name server answers; {inside} names {_listed_servers(inside)}.", None)
    elif resolver.family:
        others = await replace(resolver, family=0).look_up(name)
        if others.addresses:
            yield _barred(host, _listed(others))
    yield Cause(
        "Nobody here knows the name: give the source an address: (which is then entered in"
        f" {path}), or a destination: lmtp:[IP ADDRESS]:PORT, which needs no name.",
        None,
    )


def _barred(host: Host, addresses: str) -> Cause:
    return Cause(
        f"It has only {addresses}, which inet_protocols keeps Postfix from using.",
        permit_both_families(host.postfix),
    )


def _why_other(host: Host, name: str) -> Cause:
    """Find the cause of a name's wrong address."""
    resolver, known = host.postfix.lmtp.resolver, _in_hosts(host)
    path, wanted = host.config.hosts.file, host.addresses[name]
    if known.get(name) != wanted:
        there = f"says {known[name]}" if name in known else "does not have it"
        return Cause(f"{path} {there}: see the check hosts, which fixes it.", None)
    if DNS in resolver.mechanisms:
        return Cause(
            "The DNS is queried before the hosts file, and has another host of that name.",
            host.set_lmtp("lmtp_host_lookup", NATIVE),
        )
    if resolver.root and _names_in(resolver.root / "etc/hosts").get(name) != wanted:
        return Cause(
            f"lmtp(8) is chrooted, and its copy of {path} is from another day.",
            copying(path, resolver.root / "etc/hosts"),
        )
    return Cause(f"{path} is right; see what {NSSWITCH} says to ask before it.", None)


def _listed(answer: Answer) -> str:
    return ", ".join(answer.addresses)


def _in_hosts(host: Host) -> Mapping[str, str]:
    return _names_in(host.config.hosts.file)


def _names_in(path: Path) -> Mapping[str, str]:
    """Return the names of a hosts file with their addresses; none if it cannot be read."""
    try:
        return parse(read_file(path), str(path)).lookup()
    except (OSError, SyncError):
        return {}


def _servers(path: Path) -> list[str]:
    """Return the name servers of a resolv.conf(5)."""
    try:
        lines = read_file(path).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    fields = (line.split() for line in lines)
    return [field[1] for field in fields if field[:1] == ["nameserver"] and len(field) > 1]


def _listed_servers(path: Path) -> str:
    """Return the name servers of a resolv.conf(5), for a message."""
    return " ".join(_servers(path)) or "no name server"
