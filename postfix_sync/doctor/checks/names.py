"""Check host names: to what lmtp(8) resolves those of destinations, by what, and if not, why.

The answers are those of lmtp(8) itself (lmtp_resolver.py). The hosts file, the chroot's copies and
lmtp_host_lookup explain them.
"""

import ipaddress
import re
import shlex
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from postfix_sync.containers.engine import copied_into_containers
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError, why
from postfix_sync.hosts_file.block import BEGIN, END, parse
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.model.destination import family_of
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.lmtp_resolver import (
    DNS,
    NATIVE,
    Answer,
    Resolver,
    barred,
    barred_families,
    permit_both_families,
)
from postfix_sync.system.files import read_file
from postfix_sync.system.interfaces import is_own
from postfix_sync.system.mounts import mount_of, without_links

NSSWITCH, RESOLV = Path("/etc/nsswitch.conf"), Path("/etc/resolv.conf")


class Cause(NamedTuple):
    """Why a name does not resolve as it should, and the command that fixes it, None without one."""

    why: str
    fix: str | None


async def hosts_file(host: Host) -> AsyncIterator[Finding]:
    """Check that the hosts file has the configured addresses for our names."""
    path, wanted = host.config.hosts.file, host.addresses
    configured = any(source.address for source in host.config.sources)
    once = host.command("--once")
    try:
        read = HostsFiles(path, None).read()
    except SyncError as error:
        finding = failure if configured else warning
        if not path.is_file():
            yield finding("hosts", error.message, "names of Mailman hosts can't be entered there")
            return
        entries = [rf"/^[0-9a-fA-F.:]*\t{re.escape(name)}$/d" for name in sorted(wanted)]
        marks = [f"/^{mark.decode()}$/d" for mark in (BEGIN, END)]
        edits = " ".join(f"-e {shlex.quote(script)}" for script in [*marks, *entries])
        yield finding(
            "hosts",
            error.message,
            "names of Mailman hosts can't be entered; without the two lines, and what postfix-sync"
            " wrote between them, it writes its block anew",
            f"sed -i {edits} {shlex.quote(str(path))} && {once}",
        )
        return
    foreign = read.foreign()
    for name, address in sorted(wanted.items()):
        if (there := foreign.get(name, address)) != address:
            line = rf"/^[[:space:]]*{re.escape(there)}[[:space:]]/"
            edit = rf"{line}s/[[:space:]]{re.escape(name)}([[:space:]]|$)/\1/I"
            yield failure(
                "hosts",
                f"{path}: {name} is {there} on a line that is not postfix-sync's",
                f"sources.address says {address}; the line of whoever wrote it stays, and mail goes"
                " where it says",
                f"sed -i -E {shlex.quote(edit)} {shlex.quote(str(path))} && {once}",
            )
            return
        if read.lookup().get(name) != address:
            yield failure(
                "hosts",
                f"{path}: {name} is not {address}, which sources.address says",
                "the next pass enters it; does postfix-sync run?",
                once,
            )
            return
    if wanted:
        entries_text = ", ".join(f"{name} is {address}" for name, address in sorted(wanted.items()))
        mount = ", a mount that is written in place" if _is_mount(path) else ""
        yield ok("hosts", f"{path}{mount}: {entries_text}")
    elif configured and copied_into_containers(path):
        yield ok("hosts", f"{path}: podman copies it into its containers, so no name is entered")
    else:
        yield ok("hosts", f"{path}: no address is configured that would have to be there")


async def host_lookup(host: Host) -> AsyncIterator[Finding]:
    """Check that lmtp(8) reads the hosts file if only that has the name of a destination."""
    name, resolver, hosts = "lmtp_host_lookup", _resolver(host), host.config.hosts.file
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
        yield ok(name, f"lmtp(8) asks: {mechanisms}, so it reads {hosts}")
    else:
        yield ok(name, f"lmtp(8) asks: {mechanisms}; it needs no name that is only in {hosts}")


def lost(host: Host) -> list[str]:
    """Return the names that lmtp(8) does not resolve as the hosts file, which it never reads."""
    if NATIVE in _resolver(host).mechanisms:
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
                "to take on lmtp(8)'s user and its chroot needs root, and to ask as it does, glibc",
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
            "that is no address of a host: whoever connects to it reaches this host itself."
            " Mailman was told to listen there, not to be found there: give the source an address:"
            " or a destination:",
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


async def _why_unknown(host: Host, name: str, answer: Answer) -> AsyncGenerator[Cause, None]:
    """Yield the causes that explain why a name is not found, in the order in which to fix them."""
    resolver, known = _resolver(host), _in_hosts(host)
    path = host.config.hosts.file
    address = host.addresses.get(name)
    if address and family_of(address) not in host.postfix.families:
        yield _barred(host, address)
    if name in host.addresses and name not in known:
        yield Cause(f"It is not in {path}: the next pass enters it.", host.command("--once"))
    native = host.set_lmtp("lmtp_host_lookup", NATIVE)
    if NATIVE not in resolver.mechanisms:
        outside = await replace(resolver, mechanisms=(NATIVE,), user=None, root=None).look_up(name)
        if name in known or outside.addresses:
            yield Cause("This host knows the name, but lmtp(8) asks the DNS alone.", native)
    elif answer.unanswered and name in known and DNS in resolver.mechanisms:
        yield Cause("The DNS is asked before the hosts file, and does not answer.", native)
    inside = RESOLV
    if resolver.root:
        copy, inside = resolver.root / "etc/hosts", resolver.root / "etc/resolv.conf"
        if name in known and name not in _names_in(copy):
            lacking = f"lmtp(8) is chrooted, and its copy of {path} does not have the name."
            yield Cause(lacking, _copy(path, copy))
        if answer.unanswered and _servers(inside) != _servers(RESOLV):
            other = f"{inside} names {_listed_servers(inside)}, {RESOLV} {_listed_servers(RESOLV)}"
            yield Cause(f"lmtp(8) is chrooted, and {other}.", _copy(RESOLV, inside))
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
    resolver, known = _resolver(host), _in_hosts(host)
    path, wanted = host.config.hosts.file, host.addresses[name]
    if known.get(name) != wanted:
        there = f"says {known[name]}" if name in known else "does not have it"
        return Cause(f"{path} {there}: see the check hosts, which mends it.", None)
    if DNS in resolver.mechanisms:
        return Cause(
            "The DNS is asked before the hosts file, and has another host of that name.",
            host.set_lmtp("lmtp_host_lookup", NATIVE),
        )
    if resolver.root and _names_in(resolver.root / "etc/hosts").get(name) != wanted:
        return Cause(
            f"lmtp(8) is chrooted, and its copy of {path} is from another day.",
            _copy(path, resolver.root / "etc/hosts"),
        )
    return Cause(f"{path} is right; see what {NSSWITCH} says to ask before it.", None)


async def chroot(host: Host) -> AsyncIterator[Finding]:
    """Check that the files that lmtp(8) reads in its chroot equal those outside."""
    root = _resolver(host).root
    if not root:
        yield ok("chroot", "lmtp(8) is not chrooted")
        return
    used = bool(host.host_names)
    stale = [finding for finding in _stale(host, root) if used]
    for finding in stale:
        yield finding
    if not stale:
        yield ok("chroot", f"what lmtp(8) reads in {root}/etc is no older than outside")


def _stale(host: Host, root: Path) -> Iterator[Finding]:
    """Yield a finding for each copy that is missing, unreadable, or different and older.

    A copy that is different and newer was changed on purpose.
    """
    for original in (host.config.hosts.file, NSSWITCH, RESOLV):
        name = "hosts" if original == host.config.hosts.file else original.name
        copy = root / "etc" / name
        try:
            outside, changed = read_file(original), original.stat()
        except OSError:
            continue  # without an original, no copy is needed
        fix = _copy(original, copy)
        try:
            inside, made = read_file(copy), copy.stat().st_mtime
        except OSError as error:
            if host.postfix.processes.master:  # else the start of Postfix makes the copy
                yield warning(f"chroot:{name}", f"{copy}: {why(error)}", _USED[name], fix)
            continue
        if not copy.stat().st_mode & 0o004:
            seen = f"{copy}: lmtp(8)'s user may not read it"
            yield warning(f"chroot:{name}", seen, _USED[name], fix)
        elif inside != outside and made < max(changed.st_mtime, changed.st_ctime):
            ages = f"is of {_day(made)}, {original} of {_day(changed.st_mtime)}"
            seen = f"{copy} {ages}, and they differ"
            yield warning(f"chroot:{name}", seen, _USED[name], fix)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


_USED = {
    "hosts": "lmtp(8) is chrooted and finds names of the hosts file in this copy alone",
    "nsswitch.conf": "an lmtp(8) that reads this copy asks for names in another order than all else"
    " here",
    "resolv.conf": "lmtp(8) is chrooted and asks the name servers that this copy names",
}


async def next_hops(host: Host) -> AsyncIterator[Finding]:
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


def _resolver(host: Host) -> Resolver:
    return host.resolver or Resolver((), None, None)


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


def _is_mount(path: Path) -> bool:
    """Return whether a file itself is a mount; Path.is_mount() finds only other file systems."""
    mount = mount_of(path)
    return mount is not None and mount.point == without_links(path)


def _listed_servers(path: Path) -> str:
    """Return the name servers of a resolv.conf(5), for a message."""
    return " ".join(_servers(path)) or "no name server"


def _copy(original: Path, copy: Path) -> str:
    return shlex.join(["install", "-D", "-m", "644", str(original), str(copy)])
