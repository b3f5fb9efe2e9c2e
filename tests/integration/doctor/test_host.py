"""doctor's checks of the host: Postfix itself, host names, the hosts file, and the networks.

Each test causes a problem with real parts, runs doctor as an operator does, runs the printed
command in a shell, and runs doctor again. The tests of host names compare doctor's result with that
of a real lmtp(8), which delivers a message in each of them.
"""

import asyncio
import json
import os
import shutil
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from postfix_sync.config.reading import load
from postfix_sync.doctor import examination
from postfix_sync.model.finding import Finding, Verdict
from postfix_sync.postfix import lmtp_resolver
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.mynetworks import matches
from postfix_sync.system import commands
from postfix_sync.system.commands import find_command
from postfix_sync.system.interfaces import is_own
from tests.conftest import need
from tests.parts import namespaces
from tests.parts.common import PATIENCE, public_directory, run, wait_for
from tests.parts.disk import mounted
from tests.parts.doctor import Report, examine
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import MailmanFiles
from tests.parts.namespaces import Network
from tests.parts.postfix_instance import SENDER, Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import COMMAND, Site

pytestmark = pytest.mark.slow

ANTS = "ants@lists.example.net"
NAME = "mailman-core"
HOP = f"lmtp:[{NAME}]:8024"
MakeSite = Callable[..., Site]


@pytest.fixture
def site(make_site: MakeSite, idle_postfix: PostfixInstance) -> Site:
    """A site whose maps main.cf names, with one list, beside a stopped Postfix."""
    made = make_site()
    idle_postfix.postconf(**mailman_parameters(made.maps, made.map_type))
    made.files.write(ANTS)
    return made


MakeWorld = Callable[[str], "World"]


def named(site: Site, address: str | None = None, hop: str = HOP) -> Site:
    """Give the site's list a next hop that is a host name, with its address if there is one."""
    given = {"address": address} if address else {}
    site.configure(
        sources=[{"name": "lists", "path": str(site.files.directory), **given}],
    )
    site.files.write(ANTS, hop=hop)
    site.once()
    return site


def main_cf(postfix: PostfixInstance) -> str:
    return (postfix.config_directory / "main.cf").read_text()


# Postfix itself


def test_healthy_host_has_no_findings_but_the_stopped_postfix(site: Site) -> None:
    site.once()
    assert examine(site).troubles == {"running": "warning"}


def test_missing_main_cf_is_reported(site: Site, idle_postfix: PostfixInstance) -> None:
    (idle_postfix.config_directory / "main.cf").unlink()
    found = examine(site)
    assert found.troubles == {"postfix": "failure"}
    assert f"{idle_postfix.config_directory}/main.cf: No such file" in found["postfix"]["seen"]
    assert "postfix.config_directory" in found["postfix"]["why"]


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("main.cf", "nonsense", "missing '=' after attribute name"),
        ("master.cf", "nonsense", "bad field count"),
    ],
)
def test_unreadable_postfix_configuration_is_reported(
    site: Site, idle_postfix: PostfixInstance, name: str, line: str, complaint: str
) -> None:
    with (idle_postfix.config_directory / name).open("a") as file:
        file.write(f"{line}\n")
    found = examine(site)
    assert found.troubles == {"postfix": "failure"}
    assert complaint in found["postfix"]["seen"]
    assert f"postconf -c {idle_postfix.config_directory} -n" in found["postfix"]["why"]


def test_unused_parameter_in_main_cf_is_commented_out_by_the_fix(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    site.once()
    text = main_cf(idle_postfix)
    (idle_postfix.config_directory / "main.cf").write_text(
        f"{text}lmtp_host_lokup = native\nbiff = yes\n"
    )
    found = examine(site)
    assert found.status("main_cf_warnings") == "warning"
    assert "unused parameter: lmtp_host_lokup=native" in found["main_cf_warnings"]["seen"]
    assert "overriding earlier entry: biff=no" in found["main_cf_warnings"]["seen"]
    found = found.fix("main_cf_warnings")
    assert "#lmtp_host_lokup = native" in main_cf(idle_postfix)
    assert "unused" not in found["main_cf_warnings"]["seen"]
    assert found["main_cf_warnings"]["fix"] is None, (
        "only an operator knows which of the two values is meant"
    )


# Problem 15: the library of a map type is installed, but not loaded.
@pytest.mark.parametrize("map_type", ["lmdb", "auto"])
def test_map_type_whose_library_is_not_loaded_is_fixed(
    site: Site, idle_postfix: PostfixInstance, map_type: str
) -> None:
    site.once()
    site.configure(postfix={"map_type": map_type})
    meta = site.directory / "meta"
    shutil.copytree("/etc/postfix", meta)
    os.chown(meta / "dynamicmaps.cf", 65534, 65534)
    idle_postfix.postconf(meta_directory=str(meta))
    found = examine(site)
    assert found.status("map_type") == "failure"
    assert "owned or writable by non-root users" in found["map_type"]["why"]
    assert found.fix("map_type").status("map_type") == "ok"


# Problem 16: main.cf names a type that this build does not support, such as dbm.
def test_unsupported_map_type_is_replaced_by_the_fix(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    site.once()
    idle_postfix.postconf(alias_maps=f"dbm:{site.directory}/aliases")
    found = examine(site)
    assert found.status("map_type") == "failure"
    assert f"alias_maps = dbm:{site.directory}/aliases" in found["map_type"]["seen"]
    assert found["map_type"]["fix"] is None, "there is no text to build it from"
    texts = [site.directory / name for name in ("aliases", "virtual")]
    for text in texts:
        text.write_text("postmaster: root\n" if text.name == "aliases" else "a@example.org b\n")
    aliases, virtual = (f"dbm:{text}" for text in texts)
    present = idle_postfix.command("postconf", "-h", "virtual_alias_maps").strip()
    idle_postfix.postconf(
        alias_maps=aliases,
        alias_database=aliases,
        virtual_alias_maps=f"{virtual}, {present}".removesuffix(", "),
        address_verify_map=f"dbm:{site.directory}/verify_cache",
    )
    found = examine(site).fix("map_type")
    assert found.status("map_type") == "ok"
    assert not [name for name in found.troubles if name.startswith("other_maps")]
    changed = main_cf(idle_postfix)
    assert "dbm:" not in changed
    assert f"alias_maps = lmdb:{site.directory}/aliases" in changed


def test_stopped_postfix_is_started_by_the_fix(site: Site, idle_postfix: PostfixInstance) -> None:
    site.once()
    try:
        found = examine(site)
        assert found.troubles == {"running": "warning"}
        assert found.fix("running").status("running") == "ok"
    finally:
        idle_postfix.stop()


def test_fix_for_stopped_postfix_has_no_reload(site: Site, idle_postfix: PostfixInstance) -> None:
    """`postfix reload` would fail, so the command does not contain it."""
    site.once()
    idle_postfix.postconf(transport_maps="")
    found = examine(site)
    assert found.status("transport_maps") == "failure"
    assert found.fix("transport_maps").troubles == {"running": "warning"}


def test_host_without_postfix_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.configure()
    monkeypatch.setattr(commands, "SEARCH_PATH", str(site.directory))
    find_command.cache_clear()
    try:
        found = asyncio.run(in_process(site))
    finally:
        monkeypatch.undo()
        find_command.cache_clear()
    assert [(finding.name, finding.verdict) for finding in found] == [("postfix", Verdict.FAILURE)]
    assert found[0].seen.startswith("postconf: no such command in ")
    assert "install Postfix" in found[0].why


async def in_process(site: Site) -> list[Finding]:
    return [finding async for finding in examination.examine(load(site.config))]


def test_user_other_than_root_gets_a_warning_and_no_traceback(site: Site) -> None:
    can_run = ["setpriv", "--reuid=nobody", "--clear-groups", "test", "-x", sys.executable]
    reachable = subprocess.run(can_run, check=False).returncode == 0
    need(reachable, "a clone that every user can read")
    named(site, "127.0.0.9")
    command = [*COMMAND, "-c", str(site.config), "doctor", "--json"]
    done = subprocess.run(
        command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks[f"name:{NAME}"]["status"] == "warning"
    assert "Operation not permitted" in checks[f"name:{NAME}"]["seen"]


def test_cluster_without_short_connect_timeout_gets_a_warning(site: Site) -> None:
    sources = [
        {"name": name, "path": str(site.files.directory), "cluster": "lists"} for name in "ab"
    ]
    site.configure(sources=sources)
    site.once()
    found = examine(site)
    assert found.status("lmtp_connect_timeout") == "warning"
    assert "lmtp_connect_timeout = 5s" in found["lmtp_connect_timeout"]["fix"]


# What lmtp(8) requires of Mailman, with an LMTP server as Mailman has it


@dataclass
class World:
    """A running Postfix, and a site with a list that it delivers for."""

    postfix: PostfixInstance
    site: Site
    sent: int = 0

    @property
    def etc(self) -> Path:
        """The /etc in lmtp(8)'s chroot."""
        return self.postfix.queue_directory / "etc"

    def restore(self) -> None:
        """Undo all changes of a test; the hosts file has the next hop's name."""
        self.site.hosts.write_text(f"127.0.0.1 localhost\n127.0.0.9 {NAME}\n")
        self.postfix.command("postconf", "-X", *WITH_DEFAULTS)
        self.postfix.postconf(lmtp_host_lookup="native", inet_protocols="all")
        self.postfix.command("postconf", "-M", "lmtp/unix=lmtp unix - - y - - lmtp")
        self.postfix.dns.names.clear()
        self.postfix._fill_chroot()

    def deliver(self) -> Outcome:
        """Send a message to the list; return its outcome."""
        self.sent += 1
        self.postfix.reload()
        recipient = f"ants+{self.sent}@lists.example.net"
        command = ["/usr/sbin/sendmail", "-C", str(self.postfix.config_directory), "-f", SENDER]
        subprocess.run([*command, recipient], input=b"Subject: x\n\nx\n", check=True)
        return wait_for(
            lambda: [
                outcome for outcome in self.postfix.outcomes() if outcome.recipient == recipient
            ],
            PATIENCE,
            f"an outcome for {recipient}",
        )[0]


WITH_DEFAULTS = (
    *("disable_dns_lookups", "lmtp_dns_support_level", "lmtp_dns_resolver_options"),
    *("defer_transports", "lmtp_sasl_auth_enable", "lmtp_tls_security_level"),
)


@contextmanager
def world_with(hop: str) -> Iterator[World]:
    """Start a World whose list has this next hop."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    with public_directory() as directory:
        hosts = directory / "hosts"
        hosts.write_text("127.0.0.1 localhost\n")
        parameters = mailman_parameters(directory / "maps", "lmdb")
        with PostfixInstance(directory / "postfix", main_cf=parameters, hosts=hosts) as postfix:
            site = Site(directory, postfix.config_directory)
            site.files.write(ANTS, hop=hop)
            site.once()
            yield World(postfix, site)


@pytest.fixture(scope="module")
def with_mailman() -> Iterator[World]:
    """A Postfix that delivers to a server that speaks LMTP like Mailman's."""
    with LmtpSink({ANTS}) as sink, world_with(f"lmtp:[127.0.0.1]:{sink.port}") as made:
        yield made


@pytest.mark.parametrize(
    ("name", "spoil", "symptom"),
    [
        # Problem 43: the transport that all routes name does not exist.
        ("transport", ("-MX", "lmtp/unix"), "mail transport unavailable"),
        # Problem 29: the transport has that name, but speaks another protocol.
        (
            "transport",
            ("-M", "lmtp/unix=lmtp unix - - y - - smtp"),
            'refused to talk to me: 500 Error: command "HELO" not recognized',
        ),
        (
            "lmtp_tls_security_level",
            ("-e", "lmtp_tls_security_level=encrypt"),
            "TLS is required, but was not offered",
        ),
        (
            "lmtp_tls_security_level",
            ("-P", "lmtp/unix/lmtp_tls_security_level=encrypt"),
            "TLS is required, but was not offered",
        ),
        ("defer_transports", ("-e", "defer_transports=lmtp uucp"), "deferred transport"),
    ],
)
def test_setting_that_prevents_lmtp_delivery_is_fixed(
    with_mailman: World, name: str, spoil: tuple[str, str], symptom: str
) -> None:
    with_mailman.restore()
    with_mailman.postfix.command("postconf", *spoil)
    found = examine(with_mailman.site)
    assert found.troubles == {name: "failure"}
    assert symptom in with_mailman.deliver().text
    assert found.fix(name).troubles == {}
    assert with_mailman.deliver().status == "sent"


# Problem 16 with our own map, which can be built as another type.
def test_our_map_with_unsupported_type_is_named_by_another_type(with_mailman: World) -> None:
    with_mailman.restore()
    maps = with_mailman.site.maps
    with_mailman.postfix.postconf(transport_maps=f"dbm:{maps}/postfix_lmtp")
    found = examine(with_mailman.site)
    assert found.troubles == {"map_type": "failure", "transport_maps": "failure"}
    assert found.fix("transport_maps").troubles == {}
    assert with_mailman.deliver().status == "sent"


def test_sasl_login_without_passwords_is_disabled_by_the_fix(with_mailman: World) -> None:
    with_mailman.restore()
    with_mailman.postfix.postconf(lmtp_sasl_auth_enable="yes")
    found = examine(with_mailman.site)
    assert found.troubles == {"lmtp_sasl_auth_enable": "failure"}
    assert found.fix("lmtp_sasl_auth_enable").troubles == {}
    assert with_mailman.deliver().status == "sent"


# Host names, compared with a real lmtp(8)


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    """One Postfix for all tests of names; nothing listens at the next hop of its list."""
    with world_with(f"lmtp:[{NAME}]:9") as made:
        yield made


@pytest.fixture
def make_world(running: World) -> Iterator[MakeWorld]:
    """Return a function that restores the World and sets sources.address."""

    def make(address: str) -> World:
        running.site.configure(
            sources=[
                {"name": "lists", "path": str(running.site.files.directory), "address": address}
            ]
        )
        running.site.hosts.write_text("127.0.0.1 localhost\n")
        running.site.once()
        return running

    running.restore()
    yield make
    running.site.configure()


@pytest.fixture
def world(running: World) -> World:
    """The restored World; a test may change only main.cf, the hosts file and the chroot."""
    running.restore()
    return running


def as_postfix(outcome: Outcome) -> str:
    """Return the name's address according to a delivery to a port without a listener."""
    if outcome.text.startswith("connect to "):
        return outcome.text.partition("[")[2].partition("]")[0]
    return "deferred" if outcome.status == "deferred" else "bounced"


def as_doctor(found: Report) -> str:
    """Return the name's address according to doctor."""
    finding = found[f"name:{NAME}"]
    if finding["seen"].startswith("is "):
        address: str = finding["seen"].split()[1].rstrip(",;")
        return address
    return "deferred" if "waits in the queue" in finding["why"] else "bounced"


def test_name_in_hosts_file_resolves_as_in_lmtp(world: World) -> None:
    found = examine(world.site)
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


# Problem 25.
@pytest.mark.parametrize("options", ["", "res_dnsrch"])
def test_name_in_hosts_file_is_not_found_by_dns_only_lookup(world: World, options: str) -> None:
    world.postfix.postconf(lmtp_host_lookup="dns", lmtp_dns_resolver_options=options)
    found = examine(world.site)
    assert found.troubles == {"lmtp_host_lookup": "failure", f"name:{NAME}": "failure"}
    assert "only the DNS" in found[f"name:{NAME}"]["why"]
    assert as_doctor(found) == as_postfix(world.deliver()) == "bounced"
    found = found.fix(f"name:{NAME}")
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


def test_lookup_overridden_in_master_cf_is_fixed_there(world: World) -> None:
    world.postfix.command("postconf", "-P", "lmtp/unix/lmtp_host_lookup=dns")
    found = examine(world.site)
    assert as_doctor(found) == as_postfix(world.deliver()) == "bounced"
    found = found.fix("lmtp_host_lookup")
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


@pytest.mark.parametrize("name", ["disable_dns_lookups", "lmtp_dns_support_level"])
def test_hosts_file_is_read_if_dns_lookups_are_disabled(world: World, name: str) -> None:
    off = {"disable_dns_lookups": "yes", "lmtp_dns_support_level": "disabled"}
    world.postfix.postconf(lmtp_host_lookup="dns", **{name: off[name]})
    found = examine(world.site)
    # Postfix 3.10 also warns that the older of the two parameters is deprecated.
    assert found.troubles.keys() <= {"main_cf_warnings"}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


def test_name_that_hosts_file_and_dns_have_is_ok(world: World) -> None:
    world.postfix.dns.names[NAME] = "127.0.0.9"
    world.postfix.postconf(lmtp_host_lookup="dns")
    found = examine(world.site)
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


def test_other_host_of_that_name_in_the_dns_is_reported(make_world: MakeWorld) -> None:
    world = make_world("127.0.0.9")
    world.postfix.dns.names[NAME] = "127.0.0.7"
    world.postfix.postconf(lmtp_host_lookup="dns, native")
    found = examine(world.site)
    assert found.troubles == {f"name:{NAME}": "failure"}
    assert "has another host of that name" in found[f"name:{NAME}"]["why"]
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.7"
    found = found.fix(f"name:{NAME}")
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


def test_dns_that_does_not_answer_is_queried_before_hosts_file(world: World) -> None:
    world.postfix.postconf(lmtp_host_lookup="dns, native")
    found = examine(world.site)
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"
    (world.etc / "resolv.conf").write_text("")  # no name server listens on this host
    found = examine(world.site)
    assert found.troubles == {f"name:{NAME}": "failure"}
    assert "The DNS is queried before the hosts file" in found[f"name:{NAME}"]["why"]
    assert as_doctor(found) == as_postfix(world.deliver()) == "deferred"
    found = found.fix(f"name:{NAME}")
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


# Problem 26.
@pytest.mark.parametrize(
    "spoil",
    [Path.unlink, lambda path: path.write_text("127.0.0.1 localhost\n")],
    ids=["none", "older"],
)
def test_chroot_hosts_file_without_the_name_is_fixed(
    world: World, spoil: Callable[[Path], object]
) -> None:
    spoil(world.postfix.chroot_hosts)
    found = examine(world.site)
    assert found.status(f"name:{NAME}") == "failure"
    assert "chrooted, and its copy of" in found[f"name:{NAME}"]["why"]
    assert as_doctor(found) == as_postfix(world.deliver()) == "bounced"
    found = found.fix(f"name:{NAME}")
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


def test_name_that_does_not_resolve_is_reported_without_a_fix(world: World) -> None:
    for path in (world.site.hosts, world.postfix.chroot_hosts):
        path.write_text("127.0.0.1 localhost\n")
    found = examine(world.site)
    assert found.troubles == {f"name:{NAME}": "failure"}
    assert "give the source an address:" in found[f"name:{NAME}"]["why"]
    assert found[f"name:{NAME}"]["fix"] is None
    assert as_doctor(found) == as_postfix(world.deliver()) == "bounced"


def test_stale_resolv_conf_in_chroot_is_fixed(world: World) -> None:
    for path in (world.site.hosts, world.postfix.chroot_hosts):
        path.write_text("127.0.0.1 localhost\n")
    copy = world.etc / "resolv.conf"
    copy.write_text("nameserver 127.0.0.1\n")  # no name server listens there
    os.utime(copy, (0, 0))
    found = examine(world.site)
    assert found.troubles == {f"name:{NAME}": "failure", "chroot:resolv.conf": "warning"}
    assert f"{copy} names 127.0.0.1, " in found[f"name:{NAME}"]["why"]
    assert as_doctor(found) == as_postfix(world.deliver()) == "deferred"
    found = found.fix("chroot:resolv.conf")
    assert found.status("chroot") == "ok"
    assert copy.read_bytes() == Path("/etc/resolv.conf").read_bytes()


# libc uses the nsswitch.conf outside the chroot: Postfix has read it before it enters the chroot.
@pytest.mark.parametrize("content", [None, "hosts: dns\n"])
def test_nsswitch_conf_in_chroot_does_not_affect_lookups(world: World, content: str | None) -> None:
    copy = world.etc / "nsswitch.conf"
    copy.unlink()
    if content:
        copy.write_text(content)
        os.utime(copy, (0, 0))
    found = examine(world.site)
    assert found.troubles == {"chroot:nsswitch.conf": "warning"}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"
    assert found.fix("chroot:nsswitch.conf").troubles == {}


def test_lmtp_outside_the_chroot_does_not_use_the_chroot_hosts_file(world: World) -> None:
    world.postfix.command("postconf", "-M", "lmtp/unix=lmtp unix - - n - - lmtp")
    found = examine(world.site)
    assert "not chrooted" in found["chroot"]["seen"]
    assert as_doctor(found) == as_postfix(world.deliver()) == "bounced"


def test_address_of_a_disabled_protocol_is_reported(world: World) -> None:
    for path in (world.site.hosts, world.postfix.chroot_hosts):
        path.write_text(f"2001:db8::9 {NAME}\n")
    found = examine(world.site)
    assert found[f"name:{NAME}"]["seen"] == "is 2001:db8::9 for lmtp(8)"
    world.postfix.postconf(inet_protocols="ipv4")
    found = examine(world.site)
    assert found.status(f"name:{NAME}") == "failure"
    assert "It has only 2001:db8::9, which inet_protocols" in found[f"name:{NAME}"]["why"]


def test_invalid_lmtp_host_lookup_is_fixed(world: World) -> None:
    world.postfix.postconf(lmtp_host_lookup="nativ")
    found = examine(world.site)
    assert found.status("lmtp_host_lookup") == "failure"
    assert found.fix("lmtp_host_lookup").troubles == {}


# Problem 23: 0.0.0.0 is the address that Mailman is configured to listen on.
def test_name_that_resolves_to_a_wildcard_address_is_reported(world: World) -> None:
    for path in (world.site.hosts, world.postfix.chroot_hosts):
        path.write_text(f"0.0.0.0 {NAME}\n")
    found = examine(world.site)
    assert found.troubles == {f"name:{NAME}": "failure"}
    assert as_doctor(found) == as_postfix(world.deliver()) == "0.0.0.0"


# Problem 21: the configuration has Mailman's current address, and lmtp(8) finds its previous one.
def test_stale_address_in_chroot_hosts_file_is_fixed(make_world: MakeWorld) -> None:
    world = make_world("127.0.0.9")
    world.postfix.chroot_hosts.write_text(f"127.0.0.8 {NAME}\n")
    found = examine(world.site)
    assert found.troubles == {f"name:{NAME}": "failure"}
    assert found[f"name:{NAME}"]["seen"] == (
        "is 127.0.0.8 for lmtp(8); sources.address says 127.0.0.9"
    )
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.8"
    found = found.fix(f"name:{NAME}")
    assert found.troubles == {}
    assert as_doctor(found) == as_postfix(world.deliver()) == "127.0.0.9"


# The hosts file: problems 46 and 47.


def test_address_missing_in_hosts_file_is_entered_by_the_fix(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    named(site, "127.0.0.9")
    site.hosts.write_text("127.0.0.1 localhost\n")
    found = examine(site)
    assert found.status("hosts") == "failure"
    found = found.fix("hosts")
    assert found.troubles == {"running": "warning"}
    assert found["hosts"]["seen"] == f"{site.hosts}: {NAME} is 127.0.0.9"


def test_foreign_line_of_hosts_file_loses_only_our_name(site: Site) -> None:
    site.hosts.write_text(f"127.0.0.1 localhost\n127.0.0.8\tother {NAME} {NAME}2 # old\n")
    named(site, "127.0.0.9")
    found = examine(site)
    assert found.status("hosts") == "failure"
    assert f"{NAME} is 127.0.0.8 on a line that is not" in found["hosts"]["seen"]
    assert found.status(f"name:{NAME}") == "failure"
    found = found.fix("hosts")
    assert found.troubles == {"running": "warning"}
    assert site.hosts.read_text().startswith(
        f"127.0.0.1 localhost\n127.0.0.8\tother {NAME}2 # old\n# BEGIN"
    )


def test_damaged_markers_in_hosts_file_are_restored(site: Site) -> None:
    named(site, "127.0.0.9")
    whole = site.hosts.read_text()
    site.hosts.write_text(whole.replace("# END postfix-sync\n", ""))
    found = examine(site)
    assert found.status("hosts") == "failure"
    assert "do not enclose one block" in found["hosts"]["seen"]
    assert found.fix("hosts").troubles == {"running": "warning"}
    assert site.hosts.read_text() == whole


def test_hosts_file_that_is_a_mount_point_is_ok(site: Site) -> None:
    image = site.directory / "image"
    image.write_bytes(site.hosts.read_bytes())
    with mounted(site.hosts, "--bind", str(image)):
        named(site, "127.0.0.9")
        found = examine(site)
        assert found.troubles == {"running": "warning"}
        assert "a mount that is written in place" in found["hosts"]["seen"]


def test_two_sources_with_one_next_hop_get_a_warning(site: Site) -> None:
    sources = [
        {"name": "one", "path": str(site.files.directory)},
        {"name": "two", "path": str(site.directory / "two"), "address": "127.0.0.1"},
    ]
    MailmanFiles(site.directory / "two").write("bees@b.example", hop=HOP)
    site.configure(sources=sources)
    site.once()
    found = examine(site)
    assert found.troubles == {"running": "warning", "next_hops": "warning"}
    assert found["next_hops"]["seen"] == "127.0.0.1 port 8024 is the next hop of one and two"
    sources[1]["address"] = "127.0.0.2"
    site.configure(sources=sources)
    site.once()
    assert examine(site).status("next_hops") == "ok"


# Networks: a Mailman at an address of its own


@pytest.fixture
def network(root: None) -> Iterator[Network]:
    """A host for Postfix and one for Mailman; the commands for each run on it."""
    need(namespaces.available(), "network namespaces")
    with Network("mx", "mm") as made:
        yield made


def test_mynetworks_matches_addresses_as_postfix_does(
    public: Path, idle_postfix: PostfixInstance
) -> None:
    (public / "file").write_text("# 10.0.0.0/30\n127.0.0.0/8\n10.77.0.0/30\n")
    (public / "table").write_text("10.77.0.0/29 ok\n")
    postfix = asyncio.run(inspect(idle_postfix.config_directory))
    for address, value, expected in [
        ("10.77.0.2", "127.0.0.0/8, 10.77.0.0/24", True),
        ("10.77.0.2", "!10.77.0.2 10.77.0.0/24", False),
        ("10.77.0.2", "10.77.0.0/24 !10.77.0.2", True),
        ("10.77.0.2", f"[::1]/128 {public}/file", True),
        ("10.77.0.4", f"{public}/file", False),
        ("10.77.0.2", f"!{public}/file 0.0.0.0/0", False),
        ("10.77.0.2", f"{public}/nothing", False),
        ("10.77.0.4", f"cidr:{public}/table", True),
        ("10.77.0.8", f"cidr:{public}/table", False),
        ("2001:db8::2", "[2001:db8::]/32", True),
        ("2001:db8::2", "10.0.0.0/8 [::1]/128 nonsense", False),
    ]:
        found = asyncio.run(matches(postfix, ip_address(address), value))
        assert found is expected, (address, value)


def test_mynetworks_with_all_addresses_is_narrowed_by_the_fix(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    site.once()
    idle_postfix.postconf(mynetworks="127.0.0.0/8, 0.0.0.0/0, 10.0.0.0/8")
    named(site, hop="lmtp:[198.51.100.2]:8024")
    found = examine(site)
    assert found.status("mynetworks") == "failure"
    assert found.fix("mynetworks").status("mynetworks") == "ok"
    private = "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"
    assert f"mynetworks = {private} 198.51.100.2\n" in main_cf(idle_postfix)


def test_mynetworks_style_class_gets_a_warning_and_is_fixed(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    site.once()
    idle_postfix.command("postconf", "-X", "mynetworks")
    idle_postfix.postconf(mynetworks_style="class")
    found = examine(site)
    assert found.status("mynetworks") == "warning"
    assert found.fix("mynetworks").status("mynetworks") == "ok"


def test_mailman_excluded_from_mynetworks_is_added_by_the_fix(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    idle_postfix.postconf(mynetworks="!198.51.100.0/24 127.0.0.0/8")
    named(site, hop="lmtp:[198.51.100.2]:8024")
    found = examine(site)
    assert found.status("mynetworks") == "failure"
    assert found.fix("mynetworks").status("mynetworks") == "ok"
    assert "mynetworks = 198.51.100.2 !198.51.100.0/24 127.0.0.0/8\n" in main_cf(idle_postfix)


def test_mailman_on_another_host_can_relay_after_the_fixes(
    site: Site, idle_postfix: PostfixInstance, network: Network
) -> None:
    """Problems 34 and 35: Postfix does not listen on that network, or refuses Mailman's mail."""
    idle_postfix.postconf(
        mynetworks="127.0.0.0/8",
        smtpd_relay_restrictions="permit_mynetworks, reject_unauth_destination",
    )
    master = idle_postfix.config_directory / "master.cf"
    master.write_text(master.read_text().replace("127.0.0.1:", ""))
    named(site, hop=f"lmtp:[{network['mm'].address}]:8024")

    def send() -> int:
        """Return the reply code that Mailman's host gets for a recipient at another domain."""
        server = network["mx"].address, idle_postfix.port
        with network["mm"].inside(), smtplib.SMTP(*server, timeout=PATIENCE) as smtp:
            smtp.ehlo("mm")
            smtp.mail("ants-bounces@lists.example.net")
            return smtp.rcpt("member@elsewhere.example")[0]

    with network["mx"].inside(), idle_postfix:
        found = examine(site)
        assert found.troubles == {"inet_interfaces": "failure", "mynetworks": "failure"}
        assert "does not listen on 10.77.0.1" in found["inet_interfaces"]["why"]
        assert "without 10.77.0.2, the Mailman of lists" in found["mynetworks"]["seen"]
        with pytest.raises(ConnectionRefusedError):
            send()
        found = found.fix("inet_interfaces")
        assert found.troubles == {"mynetworks": "failure"}
        assert send() == 554  # Relay access denied
        assert found.fix("mynetworks").troubles == {}
        assert wait_for(lambda: send() == 250, PATIENCE, "mail from Mailman taken")
    assert "mynetworks = 127.0.0.0/8 10.77.0.2\n" in main_cf(idle_postfix)


@pytest.mark.parametrize("nonlocal_bind", ["0", "1"])
def test_is_own_recognizes_only_addresses_of_this_host(
    network: Network, nonlocal_bind: str
) -> None:
    """Also with ip_nonlocal_bind, which hosts set that take over each other's address."""
    with network["mx"].inside():
        Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text(nonlocal_bind)
        own = [is_own(network[name].address) for name in ("mx", "mm")]
        assert (own, is_own("127.0.0.1"), is_own("::1")) == ([True, False], True, True)


def test_public_address_of_this_host_as_next_hop_gets_a_warning(
    site: Site, network: Network
) -> None:
    """Problem 27: a container can't listen on it."""
    run(*network["mx"].prefix, "ip", "address", "add", "9.9.9.9/32", "dev", "lo")
    named(site, "9.9.9.9")
    with network["mx"].inside():
        found = examine(site)
    assert found.troubles == {"running": "warning", f"name:{NAME}": "warning"}
    assert "a container can't listen on it" in found[f"name:{NAME}"]["why"]


def test_name_server_without_answer_times_out(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmtp_resolver, "TIMEOUT", 1.0)
    (public / "etc").mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.53.53", 53))
        (public / "etc/resolv.conf").write_text("nameserver 127.0.53.53\n")
        by = lmtp_resolver.Resolver((lmtp_resolver.DNS, lmtp_resolver.NATIVE), "postfix", public)
        found = asyncio.run(by.look_up("mailman.example.net"))
    assert found == lmtp_resolver.Answer(unanswered=True, said="no answer within 1 s")
