"""setup, and what doctor and --once print, on a Postfix that takes mail: whatever was accepted
before is accepted afterwards, and no list is accepted whose mail would go elsewhere.

The replies to RCPT before and after are what counts, and where mail then goes.
"""

import shutil
import smtplib
import socketserver
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from subprocess import CompletedProcess

import pytest

from postfix_sync.postfix.main_cf.classes import BY_CLASS
from tests.parts.common import PATIENCE, free_port, public_directory, wait_for
from tests.parts.doctor import Report, examine
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import send
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import SENDER, SENDER_DOMAIN, PostfixInstance
from tests.parts.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS = "ants@example.net"
BOB = "bob@example.net"
"""Another user of the list's domain."""


class Host:
    """A running Postfix, which knows nothing of lists, with a site and a Mailman beside it."""

    def __init__(self, site: Site, postfix: PostfixInstance, sink: LmtpSink) -> None:
        self.site = site
        self.postfix = postfix
        self.sink = sink
        self.hop = f"lmtp:[127.0.0.1]:{sink.port}"
        self.files = {
            path: path.read_text()
            for path in (postfix.config_directory / name for name in ("main.cf", "master.cf"))
        }

    def begin(self, *lists: str, **parameters: str) -> None:
        """Sets main.cf to what it was, and these parameters; Mailman has these lists."""
        for path, text in self.files.items():
            path.write_text(text)
        shutil.rmtree(self.site.state, ignore_errors=True)
        shutil.rmtree(self.site.maps, ignore_errors=True)
        self.site.files.write(*lists, hop=self.hop)
        self.sink.accept(address for name in lists for address in nine(name))
        if parameters:
            self.postfix.postconf(**parameters)
        self.postfix.age()
        self.postfix.reload()

    def value(self, parameter: str) -> str:
        """What main.cf says now."""
        return self.postfix.command("postconf", "-h", parameter).strip()

    @property
    def main_cf(self) -> str:
        """The text of main.cf."""
        return (self.postfix.config_directory / "main.cf").read_text()

    def replies(self, *recipients: str) -> dict[str, int]:
        """The code of smtpd(8)'s reply to RCPT for each recipient."""
        codes = {}
        for one in recipients:
            with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=60) as smtp:
                smtp.ehlo("client.example")
                smtp.mail(SENDER)
                codes[one], _ = smtp.rcpt(one)
        return codes

    def expect(self, expected: Mapping[str, int]) -> None:
        """Waits until smtpd(8) says so; it is asked until every process has read main.cf."""
        wait_for(
            lambda: self.replies(*expected) == expected,
            PATIENCE,
            f"{expected}, not {self.replies(*expected)}",
        )

    def relays(self, recipient: str) -> str:
        """Sends a message, which must be accepted; the program that had it in the end."""
        before = len(self.postfix.outcomes())
        assert send(self.postfix.port, recipient).accepted
        wait_for(lambda: self.postfix.outcomes()[before:], PATIENCE, f"an outcome of {recipient}")
        outcome = self.postfix.outcomes()[before]
        return f"{outcome.daemon.rpartition('/')[2]} {outcome.status}"

    def setup(self, *arguments: str, expect: int = 0) -> CompletedProcess[str]:
        """Runs it."""
        done = self.site.call("setup", *arguments)
        assert done.returncode == expect, done
        self.postfix.age()
        return done


@pytest.fixture(scope="module")
def started() -> Iterator[Host]:
    """Started once."""
    with public_directory() as directory, LmtpSink() as sink:
        site = Site(directory, directory / "postfix/etc")
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        with PostfixInstance(directory / "postfix") as postfix:
            yield Host(site, postfix, sink)


@pytest.fixture
def host(started: Host) -> Host:
    """The same; each test begins with `begin`."""
    return started


def commands(report: Report) -> list[str]:
    """All commands that doctor prints."""
    return [one["fix"] for one in report.checks.values() if one["fix"]]


NOT_SHARED = "cats@lists.example.org"
"""A list in a domain that the maps alone name."""


@pytest.mark.parametrize(
    ("parameters", "others"),
    [
        (
            {"relay_domains": "example.net", "transport_maps": "inline:{example.net=discard:}"},
            [BOB],
        ),
        ({"relay_domains": "example.net", "relay_transport": "discard:"}, [BOB]),
        # Another host sees to the whole of it; Mailman 2 to lists that are not moved yet.
        ({"relay_domains": "example.org example.net", "relay_transport": "discard:"}, [BOB]),
        ({"relay_domains": "inline:{example.net=x}", "relay_transport": "discard:"}, [BOB]),
        ({"relay_domains": "net", "relay_transport": "discard:"}, [BOB, "eve@far.example.net"]),
        ({"mydestination": "localhost example.net", "local_recipient_maps": ""}, [BOB]),
        (
            {
                "virtual_mailbox_domains": f"{SENDER_DOMAIN} example.net",
                "virtual_mailbox_maps": "",
            },
            [BOB, f"nobody@{SENDER_DOMAIN}"],
        ),
    ],
)
def test_who_shares_a_domain_with_a_list_goes_on_getting_mail(
    host: Host, parameters: dict[str, str], others: list[str]
) -> None:
    """And what doctor and --once print refuses nobody either."""
    host.begin(ANTS, **parameters)
    accepted = dict.fromkeys([SENDER, *others, ANTS], 250)
    host.expect(accepted)
    hints = host.site.once()
    assert "relay_recipient_maps" not in hints
    assert not [one for one in commands(examine(host.site)) if "recipient_maps" in one]

    shown = host.setup("--dry-run").stdout
    assert "recipient_maps:" not in shown
    done = host.setup("--yes")
    assert host.replies(*accepted) == accepted
    assert host.relays(ANTS) == "lmtp sent"
    relayed = "relay_domains" in parameters
    for printed in (shown, done.stdout):
        assert ("address of it is still accepted" in " ".join(printed.split())) == relayed
    found = examine(host.site)
    assert found.status("list_domains:example.net") == ("warning" if relayed else "")
    assert commands(found) == []
    assert "relay_recipient_maps" not in host.site.once()

    host.setup("--undo", "--yes")
    assert host.replies(*accepted) == accepted


def test_only_domains_that_nobody_else_has_are_closed(host: Host) -> None:
    """Both at once: unknown addresses are refused in the domain that the maps alone bring in."""
    host.begin(ANTS, NOT_SHARED, relay_domains="example.net", relay_transport="discard:")
    nobody = NOT_SHARED.replace("cats", "nobody")
    host.expect({BOB: 250, NOT_SHARED: 554, nobody: 554})
    host.setup("--yes")
    assert host.replies(BOB, ANTS, NOT_SHARED, nobody) == {
        BOB: 250,
        ANTS: 250,
        NOT_SHARED: 250,
        nobody: 550,
    }
    assert host.relays(NOT_SHARED) == host.relays(ANTS) == "lmtp sent"
    assert host.relays(BOB) == "discard sent"
    # A list that is new in a domain of others closes nothing there.
    host.site.files.write(ANTS, NOT_SHARED, "bees@example.edu", hop=host.hop)
    host.postfix.postconf(relay_domains=f"example.edu {host.value('relay_domains')}")
    assert "relay_recipient_maps" not in host.site.once()
    host.postfix.reload()
    assert "relay_recipient_maps" not in " ".join(commands(examine(host.site)))
    host.setup("--yes")
    host.expect({"eve@example.edu": 250, "bees@example.edu": 250, nobody: 550})


def test_subdomains_that_are_relayed_beside_a_virtual_list_domain(host: Host) -> None:
    host.begin(
        ANTS,
        NOT_SHARED,
        relay_domains="sub.example.net",
        relay_transport="discard:",
        virtual_mailbox_domains=f"{SENDER_DOMAIN} example.net",
    )
    accepted = {"eve@sub.example.net": 250, BOB: 250, ANTS: 250}
    host.expect(accepted)
    host.setup("--yes")
    assert host.replies(*accepted, NOT_SHARED) == {**accepted, NOT_SHARED: 250}
    assert "in BOTH" not in host.postfix.log


@pytest.mark.parametrize(
    ("lines", "has_command"),
    [
        # Nobody is listed: every address is accepted.
        (("relay_recipient_maps = inline:{ann@example.net=x}", "relay_recipient_maps ="), False),
        # A relayed domain would become a local one.
        (("mydestination = example.net, localhost", "mydestination = localhost"), False),
        (("transport_maps = inline:{x.example=discard:}", "transport_maps ="), True),
    ],
)
def test_a_lost_value_is_not_put_back_where_that_refuses_mail(
    host: Host, lines: tuple[str, str], has_command: bool
) -> None:
    """Postfix is not reloaded with it: master(8) may wait for its own postlogd(8) then."""
    host.begin(ANTS, relay_domains="example.net")
    host.site.once()
    parameter = lines[0].partition(" ")[0]
    host.postfix.command("postconf", "-X", parameter)
    with (host.postfix.config_directory / "main.cf").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    host.postfix.age()
    found = examine(host.site)
    assert found.status(f"repeated:{parameter}") == "warning"
    assert bool(found[f"repeated:{parameter}"]["fix"]) == has_command


def test_that_unlisted_recipients_are_accepted_is_the_operators_decision(host: Host) -> None:
    host.begin(ANTS, relay_domains="example.net", smtpd_reject_unlisted_recipient="no")
    host.setup("--yes")
    found = examine(host.site)
    assert found.status("smtpd_reject_unlisted_recipient") == "warning"
    assert found["smtpd_reject_unlisted_recipient"]["fix"] is None


# Tables that can't be asked


class Socketmap(socketserver.StreamRequestHandler):
    """Knows one domain (socketmap_table(5))."""

    def handle(self) -> None:
        """Answers each request, a netstring."""
        while size := b"".join(iter(lambda: self.rfile.read(1).strip(b":"), b"")):
            request = self.rfile.read(int(size) + 1)
            known = request.rstrip(b",").endswith(b" example.net")
            self.wfile.write(b"4:OK x," if known else b"9:NOTFOUND ,")


class SocketmapServer(socketserver.ThreadingTCPServer):
    """Serves it."""

    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def socketmap(port: int) -> Iterator[None]:
    """The server of a table, which answers."""
    with SocketmapServer(("127.0.0.1", port), Socketmap) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("parameter", "value", "replies"),
    [
        ("virtual_mailbox_domains", f"{SENDER_DOMAIN}, {{table}}", {BOB: 250}),
        ("mydestination", "localhost, {table}", {BOB: 550}),
        # Of no other addresses but aliases in such a domain, the lists' among them.
        ("virtual_alias_domains", "{table}", {BOB: 550}),
        # It has the domain as well as the map, so others may be there.
        ("relay_domains", "{domains}, {table}", {BOB: 250}),
    ],
)
def test_a_table_of_domains_that_does_not_answer(
    host: Host, parameter: str, value: str, replies: dict[str, int]
) -> None:
    """As an SQL server that is down: nothing is guessed, and all is right when it is back."""
    port = free_port()
    table = f"socketmap:inet:127.0.0.1:{port}:domains"
    host.begin(ANTS)
    host.site.once()
    domains = f"lmdb:{host.site.maps}/postfix_domains"
    host.postfix.postconf(**{parameter: value.format(table=table, domains=domains)})
    host.postfix.reload()
    host.expect({ANTS: 250 if parameter == "relay_domains" else 451})
    text = host.main_cf

    for argument in ("--dry-run", "--yes"):
        done = host.setup(argument, expect=75)
        assert f"{table}: query error: Connection refused" in done.stderr
        assert "nothing was changed" in done.stderr
        assert host.main_cf == text
    found = examine(host.site)
    assert found.status(f"table:{table}") == "failure"
    assert found.status("list_domains:example.net") == "warning"
    assert "can't tell" in found["list_domains:example.net"]["why"]
    assert found.status("list_domains") == ""
    for name in BY_CLASS & found.checks.keys():
        assert (found.status(name), found[name]["fix"]) == ("warning", None)
        assert "can't tell" in found[name]["why"]
    hints = host.site.once()
    assert "transport_maps = " in hints
    assert not [name for name in BY_CLASS if f"{name} = " in hints], hints

    with socketmap(port):
        host.postfix.reload()
        host.expect(replies)
        found = examine(host.site)
        assert f"table:{table}" not in found.checks
        assert "can't tell" not in str(found.checks)
        host.setup("--yes")
        assert host.replies(ANTS, *replies) == {ANTS: 250, **replies}
        assert host.relays(ANTS) == "lmtp sent"


@pytest.mark.parametrize("kind", ["", "texthash:"])
def test_a_file_of_domains_that_is_not_there(host: Host, kind: str) -> None:
    """Postfix has no answer then for what nothing before it in the list has decided."""
    path = host.site.directory / "domains"
    path.unlink(missing_ok=True)
    host.begin(ANTS, virtual_mailbox_domains=f"{SENDER_DOMAIN}, {kind}{path}")
    host.expect({SENDER: 250, ANTS: 451})
    done = host.setup("--yes", expect=75)
    assert f"{path}: No such file or directory" in done.stderr
    assert examine(host.site).status("list_domains:example.net") == "warning"
    path.write_text("example.net x\n" if kind else "example.net\n")
    host.postfix.reload()
    host.expect({ANTS: 250})
    host.setup("--yes")
    assert host.replies(SENDER, ANTS, BOB) == {SENDER: 250, ANTS: 250, BOB: 250}
    assert host.relays(ANTS) == "lmtp sent"


def test_a_table_that_has_no_say_in_a_domains_class(host: Host) -> None:
    """mydestination comes first: doctor tells of the table, and knows all of the domain."""
    table = f"socketmap:inet:127.0.0.1:{free_port()}:domains"
    host.begin(ANTS, mydestination="example.net, localhost", relay_domains=table)
    host.site.once()
    found = examine(host.site)
    assert found.status(f"table:{table}") == "failure"
    assert found.status("list_domains") == "ok"
    assert found.status("local_recipient_maps") == "failure"
    assert found["local_recipient_maps"]["fix"]


@pytest.mark.parametrize("parameter", ["transport_maps", "virtual_alias_maps"])
def test_a_table_of_routes_that_does_not_answer(host: Host, parameter: str) -> None:
    """It may lead a list's mail elsewhere."""
    table = f"socketmap:inet:127.0.0.1:{free_port()}:domains"
    host.begin(ANTS, **{parameter: table, "virtual_alias_domains": ""})
    text = host.main_cf
    assert table in host.setup("--yes", expect=75).stderr
    assert host.main_cf == text
    found = examine(host.site)
    check = "routes" if parameter == "transport_maps" else "aliases"
    assert (found.status(check), found[check]["fix"]) == ("warning", None)


# Routes that lead elsewhere

TOKEN = "ants-confirm+1a2b3c@example.net"


@pytest.mark.parametrize(
    ("parameters", "override", "finding", "has_command"),
    [
        ({"transport_maps": "regexp:{pattern}"}, "", "routes", True),
        ({"transport_maps": "randmap:{{discard:, discard:}}"}, "", "routes", False),
        ({"transport_maps": "static:discard:"}, "", "routes", False),
        ({}, "transport_maps=", "override:rewrite/unix/transport_maps", True),
        (
            {},
            "transport_maps=inline:{a.example=discard:}",
            "override:rewrite/unix/transport_maps",
            True,
        ),
        ({"lmtp_tls_security_level": "encrypt"}, "", "lmtp_tls_security_level", True),
        ({"defer_transports": "lmtp"}, "", "defer_transports", True),
        ({"virtual_alias_maps": "inline:{{@example.net={sender}}}"}, "", "aliases", False),
    ],
)
def test_no_list_is_accepted_whose_mail_would_go_elsewhere(
    host: Host, parameters: dict[str, str], override: str, finding: str, has_command: bool
) -> None:
    pattern = host.site.directory / "pattern"
    pattern.write_text("/./ discard:\n")
    places = {"pattern": pattern, "sender": SENDER}
    values = {name: value.format(**places) for name, value in parameters.items()}
    host.begin(ANTS, **{"virtual_alias_domains": "", **values})
    if override:
        host.postfix.command("postconf", "-P", f"rewrite/unix/{override}")
        host.postfix.reload()
    before = {SENDER: 250, ANTS: 554, TOKEN: 554, BOB: 554}
    host.expect(before)
    text = host.main_cf
    for argument in ("--dry-run", "--yes"):
        done = host.setup(argument, expect=1)
        assert f"error: {finding}: " in done.stderr
        assert "main.cf is unchanged" in done.stderr
        assert host.main_cf == text
        assert host.replies(*before) == before

    # What it says is done: then it goes on.
    found = examine(host.site)
    fix = found[finding]["fix"]
    assert bool(fix) == has_command
    if fix:
        assert f"hint: {fix}" in done.stderr
        found.run_fix(finding)
    elif finding == "aliases":
        itself = ", ".join(f"{{{one}={one}}}" for one in nine(ANTS))
        present = host.value("virtual_alias_maps")
        host.postfix.postconf(virtual_alias_maps=f"inline:{{{itself}}}, {present}")
    else:
        host.postfix.postconf(transport_maps="")
    host.postfix.age()
    host.setup("--yes")
    catch_all = 250 if finding == "aliases" else 550
    assert host.replies(*before) == {SENDER: 250, ANTS: 250, TOKEN: 250, BOB: catch_all}
    assert host.relays(ANTS) == host.relays(TOKEN) == "lmtp sent"
    assert host.relays(SENDER) == "discard sent"


def test_a_table_that_names_a_list_comes_after_the_map(host: Host) -> None:
    table = host.site.directory / "transport"
    table.write_text(f"{ANTS} discard:\nexample.org discard:\n")
    host.postfix.command("postmap", f"hash:{table}")
    host.begin(ANTS, tables=str(table.parent), transport_maps="hash:$tables/transport")
    ours = f"lmdb:{host.site.maps}/postfix_lmtp"
    for argument in ("--dry-run", "--yes"):
        shown = host.setup(argument).stdout
        assert f"hash:$tables/transport -> {ours}, hash:$tables/transport\n" in shown
    assert host.replies(ANTS, TOKEN) == {ANTS: 250, TOKEN: 250}
    assert host.relays(ANTS) == host.relays(TOKEN) == "lmtp sent"
    host.setup("--undo", "--yes")
    assert host.value("transport_maps") == "hash:$tables/transport"


def test_no_list_is_accepted_whose_mail_would_bounce_for_want_of_a_name(host: Host) -> None:
    host.begin(ANTS)
    host.site.files.write(ANTS, hop=host.hop.replace("127.0.0.1", "mailman-test"))
    text = host.main_cf
    assert "error: name:mailman-test: " in host.setup("--yes", expect=1).stderr
    assert host.main_cf == text
    assert host.replies(ANTS) == {ANTS: 554}
    # Once lmtp(8) may look where the name is, which setup sees to.
    known, entry = "127.0.0.1 localhost\n", "127.0.0.1 localhost mailman-test\n"
    places = (host.site.hosts, host.postfix.chroot_hosts)
    for path in places:
        path.write_text(entry)
    host.postfix.postconf(lmtp_host_lookup="dns")
    try:
        host.setup("--yes")
        assert host.relays(ANTS) == "lmtp sent"
    finally:
        for path in places:
            path.write_text(known)


# A domain that gets an alias_domain


ALIAS, OTHER_ALIAS = "alias.example.net", "alias.example.org"
RELAYED = "eve@relayed.example"
"""A user of a domain that is relayed for others."""


@contextmanager
def asking(host: Host, recipients: Iterable[str]) -> Iterator[set[tuple[str, int]]]:
    """Ask smtpd(8) of these recipients all the time; what it replied."""
    seen: set[tuple[str, int]] = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            seen.update(host.replies(*recipients).items())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("others", [{}, {"relay_domains": "relayed.example"}], ids=["", "others"])
@pytest.mark.parametrize("begins_with", ["", ALIAS], ids=["list", "alias"])
def test_alias_domain_that_comes_and_goes_needs_no_setup(
    host: Host, others: dict[str, str], begins_with: str
) -> None:
    """It is set, changed and unset in Mailman, and a --once after that is all.

    Beside other relay domains, a table in main.cf says in which domains unknown addresses are
    refused: it has to be changed for those of a new alias domain, but for none that was accepted.
    """
    host.begin(ANTS, **{**others, "relay_transport": "discard:", "virtual_alias_domains": ""})
    bring(host, begins_with)
    host.setup("--yes")
    always = {ANTS: 250, BOB: 550, **({RELAYED: 250} if others else {})}
    host.expect(always)
    for alias in (begins_with, ALIAS, OTHER_ALIAS, "", ALIAS, ""):
        with asking(host, always) as seen:
            bring(host, alias)
            hints = host.site.once()
            host.expect({**always, **({ANTS.replace("example.net", alias): 250} if alias else {})})
            found = examine(host.site)
            assert "failure" not in [one["status"] for one in found.checks.values()]
            proposed = {name for name, one in found.checks.items() if one["fix"]}
            assert proposed <= ({"relay_recipient_maps"} if others else set())
            assert ("main.cf: " in hints) == bool(proposed)
            for name in proposed:
                found.run_fix(name)
                host.postfix.age()
            nothing_to_do = host.setup("--dry-run").stdout
            assert "names all maps; nothing to do" in nothing_to_do
            if alias:
                host.expect({f"bob@{alias}": 550})
        assert seen == set(always.items())
        assert host.relays(ANTS) == "lmtp sent"


def test_mail_host_in_virtual_alias_domains_from_an_earlier_setup(host: Host) -> None:
    """Nothing is to be done as long as it has an alias_domain; then doctor keeps it out."""
    host.begin(ANTS, virtual_alias_domains="example.net")
    bring(host, ALIAS)
    host.setup("--yes")
    always = {ANTS: 250, BOB: 550}
    with asking(host, always) as seen:
        for alias in (ALIAS, OTHER_ALIAS):
            bring(host, alias)
            assert "main.cf: " not in host.site.once()
            host.expect({**always, ANTS.replace("example.net", alias): 250, f"bob@{alias}": 550})
            found = examine(host.site)
            assert "failure" not in [one["status"] for one in found.checks.values()]
            assert commands(found) == []
            assert "nothing to do" in host.setup("--dry-run").stdout
    assert seen == set(always.items())
    assert "in BOTH" not in host.postfix.log
    bring(host, "")
    assert "!example.net, example.net" in host.site.once()
    found = examine(host.site)
    assert found.status("virtual_alias_domains") == "failure"
    found.run_fix("virtual_alias_domains")
    host.postfix.age()
    host.expect(always)
    assert host.relays(ANTS) == "lmtp sent"


def bring(host: Host, alias: str) -> None:
    """Has Mailman write its list, in a domain with this alias_domain, if any."""
    lists = {ANTS: ANTS.replace("example.net", alias)} if alias else {}
    host.site.files.write(*([] if alias else [ANTS]), hop=host.hop, aliases=lists)
    host.sink.accept(address for name in (ANTS, *lists.values()) for address in nine(name))
