"""Next hops of a protocol that Postfix must not use (inet_protocols) are refused.

A real Postfix shows that it would return their mail to the sender.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from postfix_sync.model.map_names import RECIPIENTS, ROUTES
from tests.conftest import need
from tests.parts.common import PATIENCE, wait_for
from tests.parts.doctor import examine
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import send
from tests.parts.mailman_files import MailmanFiles, lists_of, nine
from tests.parts.postfix_instance import Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
MANY = [f"list{number}@lists.example.net" for number in range(8)]
NOT_SUPPORTED = "Address family for hostname not supported"


@dataclass
class Host:
    """A running Postfix, a Mailman's LMTP server, and a site between them."""

    postfix: PostfixInstance
    sink: LmtpSink
    site: Site

    def restrict(self, where: str, protocols: str) -> None:
        """Remove one protocol from Postfix, or only from its service lmtp."""
        if where == "main.cf":
            self.postfix.postconf(inet_protocols=protocols)
            self.postfix.stop()
            self.postfix.start()
        else:
            self.postfix.command("postconf", "-P", f"lmtp/unix/inet_protocols={protocols}")
            self.postfix.reload()

    def deliver(self, to: str) -> Outcome:
        """Send a message and return its outcome."""
        seen = len(self.postfix.outcomes())
        send(self.postfix.port, to)
        return wait_for(lambda: self.postfix.outcomes()[seen:], PATIENCE, f"mail for {to}")[0]


@pytest.fixture(params=["::1", "127.0.0.1"])
def host(
    request: pytest.FixtureRequest, make_site: Callable[..., Site], public: Path
) -> Iterator[Host]:
    """A host that delivers to an address of this family."""
    need(Path("/proc/net/if_inet6").exists(), "IPv6")
    site = make_site()
    postfix = PostfixInstance(
        public / "running", main_cf=mailman_parameters(site.maps, "lmdb"), hosts=site.hosts
    )
    running = Site(site.directory, postfix.config_directory)
    with LmtpSink([ANTS, BEES], host=request.param) as sink:
        running.files.write(ANTS, hop=f"lmtp:[{sink.host}]:{sink.port}")
        running.once()
        with postfix:
            yield Host(postfix, sink, running)


OTHER = {"::1": "ipv4", "127.0.0.1": "ipv6"}


@pytest.mark.parametrize(
    ("host", "where"),
    [("::1", "main.cf"), ("::1", "master.cf"), ("127.0.0.1", "master.cf")],
    indirect=["host"],
)
def test_lists_whose_next_hop_has_a_disabled_protocol_are_refused(host: Host, where: str) -> None:
    assert host.deliver(ANTS).status == "sent"
    host.restrict(where, OTHER[host.sink.host])
    bounced = host.deliver(ANTS)
    assert (bounced.status, bounced.dsn[0]) == ("bounced", "5")
    assert NOT_SUPPORTED in bounced.text

    installed = host.site.installed(ROUTES)
    host.site.files.write(ANTS, BEES, hop=next(iter(installed.values())))
    message, hint = host.site.once(expect=65).splitlines()
    family = "IPv6" if host.sink.host == "::1" else "IPv4"
    assert f"lists: {host.sink.host} is {family}, which inet_protocols keeps Postfix" in message
    assert f"2 lists: {ANTS}, {BEES}; what is installed stays" in message
    assert "lmtp/unix/inet_protocols = all" in hint
    assert host.site.installed(ROUTES) == installed
    assert host.site.status()["sources"]["lists"]["state"] == "refused"
    assert host.site.call("--once", "--dry-run").returncode == 65

    report = examine(host.site)
    called = f"family:{'[::1]' if host.sink.host == '::1' else host.sink.host}:{host.sink.port}"
    assert report.status(called) == "failure"
    report.run_fix(called)
    assert host.site.once() == ""
    assert host.site.installed(ROUTES).keys() == {*nine(ANTS), *nine(BEES)}
    assert host.deliver(BEES).status == "sent"
    assert examine(host.site).status("family") == "ok"


@pytest.mark.parametrize("host", ["::1"], indirect=True)
@pytest.mark.parametrize("whose", ["address:", "an operator's line"])
def test_lists_whose_next_hop_resolves_to_a_disabled_protocol_only_are_refused(
    host: Host, whose: str
) -> None:
    """The operator's line cannot be ::1: for IPv4, libc returns 127.0.0.1 instead of it."""
    address = "::1" if whose == "address:" else "2001:db8::9"
    if whose == "address:":
        path = str(host.site.files.directory)
        host.site.configure(sources=[{"name": "lists", "path": path, "address": address}])
    else:
        for file in (host.site.hosts, host.postfix.chroot_hosts):
            file.write_text(f"127.0.0.1 localhost\n{address} mm\n")
    host.restrict("master.cf", "ipv4")
    installed = host.site.installed(ROUTES)
    host.site.files.write(ANTS, BEES, hop=f"lmtp:[mm]:{host.sink.port}")
    assert f"lists: mm ({address}) is IPv6, which inet_protocols" in host.site.once(expect=65)
    assert host.site.installed(ROUTES) == installed

    report = examine(host.site)
    assert report.status("name:mm") == "failure"
    assert f"It has only {address}, which inet_protocols keeps Postfix" in report["name:mm"]["why"]
    report.run_fix("name:mm")
    assert host.site.once() == ""
    assert set(host.site.installed(ROUTES).values()) == {f"lmtp:[mm]:{host.sink.port}"}
    if whose == "address:":
        assert host.deliver(BEES).status == "sent"


@pytest.mark.parametrize("host", ["::1"], indirect=True)
def test_probe_uses_only_protocols_that_postfix_may_use(host: Host) -> None:
    assert host.site.call("probe").returncode == 0
    host.restrict("master.cf", "ipv4")
    done = host.site.call("probe", "--json")
    assert done.returncode == 69
    [found] = json.loads(done.stdout)
    assert (found["up"], found["phase"]) == (False, "resolve")
    assert (
        found["error"] == "it resolves only to ::1, which inet_protocols keeps Postfix from using"
    )
    assert "Postfix returns mail for it to its sender" in done.stderr


@pytest.mark.parametrize("host", ["::1"], indirect=True)
def test_usable_next_hop_replaces_one_with_a_disabled_protocol(host: Host) -> None:
    """Mail for the list is then delivered again."""
    host.restrict("master.cf", "ipv4")
    with LmtpSink([ANTS], port=host.sink.port) as sink:
        host.site.files.write(ANTS, hop=f"lmtp:[{sink.host}]:{sink.port}")
        assert host.site.once() == ""
        assert host.deliver(ANTS).status == "sent"


@pytest.mark.parametrize("host", ["::1"], indirect=True)
def test_replica_with_a_disabled_protocol_is_accepted_except_in_last_place(host: Host) -> None:
    """Postfix skips such a next hop unless it is the last one."""
    with LmtpSink([ANTS], port=host.sink.port) as sink:
        other = MailmanFiles(host.site.directory / "other")
        replicas = [("a", host.site.files, "::1"), ("b", other, sink.host)]
        host.site.configure(
            sources=[
                {"name": name, "path": str(files.directory), "cluster": "mm"}
                for name, files, _ in replicas
            ]
        )
        for _, files, address in replicas:
            files.write(*MANY, hop=f"lmtp:[{address}]:{sink.port}")
        sink.accept(MANY)
        host.restrict("master.cf", "ipv4")
        host.site.once(expect=65)
        accepted = host.site.installed(RECIPIENTS)
        routes = {key: host.site.installed(ROUTES)[key] for key in accepted}
        usable = {f"lmtp:[::1]:{sink.port}, [127.0.0.1]:{sink.port}"}
        assert {routes[name] for name in MANY if name in routes} == usable
        assert 0 < len(lists_of(routes)) < len(MANY), "their order differs from list to list"
        for name in lists_of(routes):
            assert host.deliver(name).status == "sent"
