"""doctor on what main.cf says: each problem set up, named, mended by the command that is printed.

Instances that are not started are enough to see what doctor says; that it is right is shown with
one that runs, which takes or refuses mail, and whose log is read.
"""

import asyncio
import itertools
import os
import re
import shutil
import smtplib
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from postfix_sync.doctor.checks.main_cf import double
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.main_cf.advice import advice
from postfix_sync.postfix.main_cf.classes import CLASSES, Classes
from postfix_sync.postfix.main_cf.fixes import remedy
from postfix_sync.postfix.main_cf.parameter import Installation
from tests.conftest import need
from tests.parts.common import public_directory, wait_for
from tests.parts.doctor import Report, examine
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import SENDER, Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS = "ants@lists.example.net"
STOPPED = {"running": "warning"}
PATIENCE = 60.0
"""Seconds: Postfix starts all its processes anew at each reload."""
MakeSite = Callable[..., Site]


class Desk:
    """A site beside a Postfix whose main.cf can be written anew."""

    def __init__(self, site: Site, postfix: PostfixInstance) -> None:
        self.site = site
        self.postfix = postfix
        self.wired = mailman_parameters(site.maps, site.map_type)
        self.lmtp, self.domains, self.recipients, self.vmap = (
            f"{site.map_type}:{site.maps}/{name}"
            for name in ("postfix_lmtp", "postfix_domains", "postfix_recipients", "postfix_vmap")
        )

    def table(self, name: str, *lines: str, kind: str = "hash") -> str:
        """A table of somebody else's, as main.cf names it."""
        path = self.site.directory / name
        path.write_text("".join(f"{line}\n" for line in lines))
        if kind in ("hash", "lmdb"):
            self.postfix.command("postmap", f"{kind}:{path}")
        return f"{kind}:{path}"

    def set(self, **parameters: str) -> None:
        """Wires the maps, but for these parameters; `{lmtp}` stands for a map, and so on."""
        places = {**vars(self), "maps": self.site.maps, "volume": self.site.files.directory}
        given = {
            name: value.replace("inline:{", "inline:{{").replace("=x}", "=x}}")
            for name, value in parameters.items()
        }
        self.postfix.postconf(
            **{**self.wired, **{name: value.format(**places) for name, value in given.items()}}
        )

    def value(self, parameter: str) -> str:
        """What main.cf says now."""
        return self.postfix.command("postconf", "-h", parameter).strip()


@pytest.fixture
def desk(make_site: MakeSite, idle_postfix: PostfixInstance) -> Desk:
    """One list, installed; main.cf names the maps."""
    site = make_site()
    made = Desk(site, idle_postfix)
    made.set()
    site.files.write(ANTS)
    site.once()
    return made


def mend_all(report: Report) -> Report:
    """Runs every command of one report, one after another, and asks again."""
    for name in report.troubles:
        if report[name]["fix"] and name != "running":
            report.run_fix(name)
    return examine(report.site)


def test_a_host_that_is_well(desk: Desk) -> None:
    found = examine(desk.site)
    assert found.troubles == STOPPED
    for name in (
        *("transport_maps", "relay_domains", "relay_recipient_maps", "local_recipient_maps"),
        *("virtual_alias_maps", "virtual_mailbox_maps", "virtual_alias_domains"),
        *("recipient_delimiter", "owner_request_special", "unknown_local_recipient_reject_code"),
        *("soft_bounce", "smtpd_reject_unlisted_recipient", "routes", "aliases", "list_domains"),
    ):
        assert found.status(name) == "ok", name
        assert found[name]["seen"]


class Socketmap(socketserver.StreamRequestHandler):
    """Knows nothing (socketmap_table(5))."""

    def handle(self) -> None:
        """Answers each request, a netstring."""
        while size := b"".join(iter(lambda: self.rfile.read(1).strip(b":"), b"")):
            self.rfile.read(int(size) + 1)
            self.wfile.write(b"9:NOTFOUND ,")


def test_a_host_that_is_well_in_its_own_way(desk: Desk) -> None:
    """Rare, but healthy: of none of it a word."""
    private = desk.postfix.queue_directory / "private"
    private.mkdir()
    tables = desk.table("transport", "example.org smtp:[192.0.2.1]").removesuffix("transport")
    desk.set(
        # A name for the beginning of tables' names.
        indexed=tables,
        # Its path begins in the queue directory.
        transport_maps="${{indexed}}transport, socketmap:unix:private/routes:transport, {lmtp}",
        # What is local is not relayed, so relay_recipient_maps need not have it.
        relay_domains="$mydestination, {domains}",
        smtpd_reject_unlisted_recipient="no",
        smtpd_recipient_restrictions="reject_unlisted_recipient, permit",
    )
    with desk.postfix.config_directory.joinpath("master.cf").open("a") as file:
        file.write(
            "localhost:2587 inet n - n - - smtpd\n"
            "  -o smtpd_client_restrictions=$mua_client_restrictions\n"
        )
    with socketserver.ThreadingUnixStreamServer(str(private / "routes"), Socketmap) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            assert examine(desk.site).troubles == STOPPED
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("parameters", "troubles", "mended"),
    [
        # Nothing was done yet (3, 4: names come before maps only where somebody writes them).
        (
            {
                "transport_maps": "",
                "relay_domains": "",
                "relay_recipient_maps": "",
                "virtual_alias_maps": "",
                "recipient_delimiter": "",
            },
            {
                "transport_maps": "failure",
                "relay_domains": "failure",
                "relay_recipient_maps": "warning",
                "virtual_alias_maps": "warning",
                "recipient_delimiter": "failure",
                "list_domains:lists.example.net": "failure",
            },
            {"recipient_delimiter": "+", "transport_maps": "{lmtp}", "relay_domains": "{domains}"},
        ),
        # 16: another type than the one that is built.
        (
            {"transport_maps": "hash:{maps}/postfix_lmtp"},
            {"transport_maps": "failure"},
            {"transport_maps": "{lmtp}"},
        ),
        # 17: Mailman's own files, its pattern ones as hash among them.
        (
            {
                "transport_maps": "hash:{volume}/postfix_lmtp",
                "relay_domains": "regexp:{volume}/postfix_domains",
                "relay_recipient_maps": "hash:{volume}/postfix_lmtp",
            },
            {
                "transport_maps": "failure",
                "relay_domains": "failure",
                "relay_recipient_maps": "failure",
            },
            {"relay_recipient_maps": "{recipients}", "relay_domains": "{domains}"},
        ),
        # 18: confirmations.
        ({"recipient_delimiter": ""}, {"recipient_delimiter": "failure"}, {}),
        # 28: maps in the wrong place.
        (
            {"virtual_alias_maps": "{lmtp}", "alias_maps": "{lmtp}"},
            {"virtual_alias_maps": "failure", "alias_maps": "failure"},
            {"virtual_alias_maps": "{vmap}", "alias_maps": ""},
        ),
        (
            {"transport_maps": "{recipients}"},
            {"transport_maps": "failure"},
            {"transport_maps": "{lmtp}"},
        ),
        (
            {"transport_maps": "{vmap}, {lmtp}", "canonical_maps": "{vmap}"},
            {"transport_maps": "failure", "canonical_maps": "failure"},
            {"transport_maps": "{lmtp}", "canonical_maps": ""},
        ),
        # 37: a virtual mailbox domain.
        (
            {
                "relay_domains": "",
                "relay_recipient_maps": "",
                "virtual_mailbox_domains": "example.com, lists.example.net",
                "virtual_mailbox_maps": "inline:{ann@example.com=x}",
            },
            {"virtual_mailbox_maps": "failure"},
            {"virtual_mailbox_maps": "inline:{ann@example.com=x}, {recipients}"},
        ),
        # 38: a local domain.
        (
            {
                "mydestination": "localhost, lists.example.net",
                "local_recipient_maps": "proxy:unix:passwd.byname $alias_maps",
            },
            {"local_recipient_maps": "failure"},
            {"local_recipient_maps": "proxy:unix:passwd.byname $alias_maps, {recipients}"},
        ),
        # Mailman's own files make it a local one, which it stays.
        (
            {
                "mydestination": "localhost, texthash:{volume}/postfix_domains",
                "local_recipient_maps": "inline:{root=x}, texthash:{volume}/postfix_lmtp",
                "relay_domains": "",
            },
            {"mydestination": "failure", "local_recipient_maps": "failure"},
            {
                "mydestination": "localhost, {domains}",
                "local_recipient_maps": "inline:{root=x}, {recipients}",
            },
        ),
        # 39: nothing but lists are local.
        (
            {
                "mydestination": "localhost, lists.example.net",
                "local_recipient_maps": "regexp:{volume}/postfix_lmtp",
            },
            {"local_recipient_maps": "failure"},
            {"local_recipient_maps": "proxy:unix:passwd.byname, $alias_maps, {recipients}"},
        ),
        (
            {
                "mydestination": "localhost, lists.example.net",
                "local_recipient_maps": "{recipients}",
            },
            {"local_recipient_maps": "warning"},
            {"local_recipient_maps": "proxy:unix:passwd.byname, $alias_maps, {recipients}"},
        ),
        # 40: in two of them.
        (
            {
                "mydestination": "localhost, lists.example.net",
                "local_recipient_maps": "",
                "virtual_mailbox_domains": "lists.example.net, example.com",
                "relay_domains": "",
            },
            {"list_domains:lists.example.net": "warning", "virtual_mailbox_domains": "warning"},
            {"virtual_mailbox_domains": "!lists.example.net, lists.example.net, example.com"},
        ),
        (
            {"virtual_mailbox_domains": "lists.example.net", "virtual_mailbox_maps": ""},
            {"list_domains:lists.example.net": "warning", "relay_domains": "warning"},
            {"relay_domains": "!lists.example.net, {domains}"},
        ),
        (
            {"virtual_alias_domains": "lists.example.net"},
            {"list_domains:lists.example.net": "warning", "virtual_alias_domains": "failure"},
            {"virtual_alias_domains": "!lists.example.net, lists.example.net"},
        ),
        # 41: every address of a list domain is accepted.
        (
            {"relay_recipient_maps": ""},
            {"relay_recipient_maps": "warning"},
            {"relay_recipient_maps": "{recipients}"},
        ),
        (
            {"relay_domains": "example.org, {domains}"},
            {"relay_recipient_maps": "warning"},
            {},
        ),
        # In none.
        (
            {"relay_domains": "!lists.example.net, {domains}"},
            {"relay_domains": "failure", "list_domains:lists.example.net": "failure"},
            {"relay_domains": "{domains}"},
        ),
        # What is refused for days.
        (
            {
                "mydestination": "localhost, lists.example.net",
                "local_recipient_maps": "inline:{root=x}, {recipients}",
                "unknown_local_recipient_reject_code": "450",
                "soft_bounce": "yes",
            },
            {"unknown_local_recipient_reject_code": "warning", "soft_bounce": "warning"},
            {"unknown_local_recipient_reject_code": "550", "soft_bounce": "no"},
        ),
    ],
)
def test_each_problem_is_named_and_mended(
    desk: Desk, parameters: dict[str, str], troubles: dict[str, str], mended: dict[str, str]
) -> None:
    desk.set(**parameters)
    found = examine(desk.site)
    assert found.troubles == {**troubles, **STOPPED}
    assert all(found[name]["why"] and found[name]["fix"] for name in troubles)
    assert mend_all(found).troubles == STOPPED
    for parameter, value in mended.items():
        expected = value.replace("inline:{", "inline:{{").replace("=x}", "=x}}")
        assert desk.value(parameter) == expected.format(**vars(desk))


# What Postfix really does


LISTS = (
    "ants@local.example",
    "bees@box.example",
    "cats@relay.example",
    "dogs@alias.example",
    "dev-team@relay.example",
    "owner@relay.example",
)


class Live(Desk):
    """A Postfix that runs, and an LMTP server that has the lists."""

    def __init__(self, directory: Path, sink: LmtpSink) -> None:
        self.hop = f"lmtp:[127.0.0.1]:{sink.port}"
        self.sink = sink
        site = Site(directory, directory / "postfix/etc")
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        super().__init__(site, PostfixInstance(directory / "postfix"))
        self.main_cf = self.postfix.config_directory / "main.cf"
        self.original = self.main_cf.read_text()
        self.master_cf = self.postfix.config_directory / "master.cf"
        self.services = self.master_cf.read_text()
        site.files.write(*LISTS, hop=self.hop)
        site.once()

    def begin(self, **parameters: str) -> None:
        """main.cf as it was at first, with the maps, and with these parameters."""
        self.main_cf.write_text(self.original)
        self.master_cf.write_text(self.services)
        self.set(**parameters)
        self.postfix.reload()

    def reply(self, recipient: str) -> str:
        """What smtpd(8) says to it."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=PATIENCE) as smtp:
            smtp.helo("client.example")
            smtp.mail(SENDER)
            code, text = smtp.rcpt(recipient)
        return f"{code} {text.decode()}"

    def expect(self, recipient: str, said: str) -> None:
        """smtpd(8) says so, once all its processes know main.cf."""
        wait_for(
            lambda: said in self.reply(recipient),
            PATIENCE,
            f"{said} to {recipient} (last: {self.reply(recipient)})",
        )

    def send(self, recipient: str) -> Outcome:
        """Sends a message, which must be accepted; what became of it."""
        before = len(self.postfix.outcomes())
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=PATIENCE) as smtp:
            smtp.sendmail(SENDER, recipient, "Subject: x\n\nx\n")

        def outcome() -> Outcome | None:
            new = self.postfix.outcomes()[before:]
            return next((one for one in new if one.recipient.partition("+")[0]), None)

        found = wait_for(outcome, PATIENCE, f"an outcome for {recipient}")
        assert found
        return found


@pytest.fixture(scope="module")
def started() -> Iterator[Live]:
    """Started once."""
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    need(os.geteuid() == 0, "root")
    with public_directory() as directory, LmtpSink(LISTS) as sink:
        made = Live(directory, sink)
        with made.postfix:
            yield made


@pytest.fixture
def live(started: Live) -> Live:
    """With nothing but the maps."""
    started.begin()
    return started


def test_lists_of_each_class_get_mail_and_all_others_go_on(live: Live) -> None:
    """37, 38, 41, and a domain in each class: after the commands, each gets what it needs.

    What was accepted before still is, in domains of nobody's lists, too.
    """
    boxes = live.table("boxes", "ann@box.example x")
    live.begin(
        **dict.fromkeys(live.wired, ""),
        mydestination="localhost, local.example",
        local_recipient_maps="proxy:unix:passwd.byname $alias_maps",
        virtual_mailbox_domains="box.example",
        virtual_mailbox_maps=boxes,
        virtual_alias_domains="alias.example",
        recipient_delimiter="",
    )
    live.postfix.postconf(
        virtual_alias_maps="inline:{info@alias.example=ann@box.example}",
        relay_domains="example.org",
    )
    live.postfix.reload()
    others = (
        *("root@local.example", "ann@box.example", "info@alias.example"),
        *("eve@example.org", "eve@far.example.org"),
    )
    for address in others:
        live.expect(address, "250")
    live.expect("ants@local.example", "User unknown in local recipient table")
    live.expect("bees@box.example", "User unknown in virtual mailbox table")
    live.expect("cats@relay.example", "Relay access denied")
    live.expect("dogs@alias.example", "User unknown in virtual alias table")

    found = examine(live.site)
    assert found.status("local_recipient_maps") == "failure"
    assert found.status("virtual_mailbox_maps") == "failure"
    assert found.status("virtual_alias_domains") == "failure"
    assert found.status("relay_domains") == "failure"
    assert mend_all(found).troubles == {}

    for name in LISTS:
        live.expect(name, "250")
        live.expect(name.replace("@", "-confirm+1a2b3c@"), "250")
    for address in others:
        live.expect(address, "250")
    live.expect("nemo@local.example", "User unknown in local recipient table")
    live.expect("nemo@box.example", "User unknown in virtual mailbox table")
    live.expect("nemo@relay.example", "User unknown in relay recipient table")
    live.expect("nemo@alias.example", "User unknown in relay recipient table")
    for name in LISTS:
        outcome = live.send(name)
        assert (outcome.daemon, outcome.status) == ("lmtp", "sent"), outcome
    assert "in BOTH" not in live.postfix.log


def test_which_two_classes_postfix_warns_of(live: Live) -> None:
    """40: all pairs, but mydestination and relay_domains; doctor says the same."""
    pairs = list(itertools.combinations(CLASSES, 2))
    domains = {f"d{number}.example": pair for number, pair in enumerate(pairs)}
    live.begin(
        **{
            parameter: " ".join(name for name, pair in domains.items() if parameter in pair)
            for parameter in CLASSES
        },
        local_recipient_maps="",
        virtual_mailbox_maps="",
        relay_recipient_maps="",
    )
    before = len(live.postfix.log)
    live.expect("x@d0.example", "250")
    for domain in domains:
        live.reply(f"x@{domain}")
    # postlogd(8) writes a moment later.
    wait_for(
        lambda: live.postfix.log[before:].count("do not list domain") >= 5, 20, "five warnings"
    )
    warned = {
        domain: [name for name in pair if re.search(rf"\b{name}\b", line)]
        for domain, pair in domains.items()
        for line in live.postfix.log[before:].splitlines()
        if f"do not list domain {domain} in BOTH" in line
    }
    told = {domain: double(list(pair)) for domain, pair in domains.items()}
    assert warned == {domain: pair for domain, pair in told.items() if pair}
    assert len(warned) == 5


def test_backscatter(live: Live) -> None:
    """41: without relay_recipient_maps anything is accepted, and bounces."""
    live.begin(relay_recipient_maps="")
    live.expect("nemo@relay.example", "250")
    assert live.send("nemo@relay.example").status == "bounced"
    found = examine(live.site)
    assert found.troubles == {"relay_recipient_maps": "warning"}
    assert found.mend("relay_recipient_maps").troubles == {}
    live.expect("nemo@relay.example", "550")
    live.expect("cats@relay.example", "250")


@pytest.mark.parametrize(
    ("delimiters", "special", "refused", "finding"),
    [
        # 18: no delimiter, no confirmation.
        ("", "yes", ["cats-confirm+1a2b3c@relay.example"], "recipient_delimiter"),
        # `dev-team-bounces+…` is cut to `dev`.
        ("-+", "no", ["dev-team-bounces+x@relay.example"], "recipient_delimiter"),
        ("+", "yes", [], ""),
        ("+=", "no", [], ""),
    ],
)
def test_extensions(
    live: Live, delimiters: str, special: str, refused: list[str], finding: str
) -> None:
    live.begin(recipient_delimiter=delimiters, owner_request_special=special)
    for address in refused:
        live.expect(address, "User unknown")
    found = examine(live.site)
    assert found.troubles == ({finding: "failure"} if finding else {})
    if finding:
        assert found.mend(finding).troubles == {}
    for name in LISTS:
        for address in ("-confirm+1a2b3c", "-bounces+ann=example.com", "-request", "-owner"):
            live.expect(name.replace("@", f"{address}@"), "250")


def test_what_owner_request_special_is_about(live: Live) -> None:
    """It keeps `owner-…` from being cut, but only where `-` is a delimiter."""
    live.site.files.write("owner@relay.example", hop=live.hop)
    live.site.once("--force")
    try:
        live.begin(recipient_delimiter="-+", owner_request_special="yes")
        live.expect("owner-bounces+x@relay.example", "User unknown")
        found = examine(live.site)
        assert found.troubles == {"owner_request_special": "failure"}
        assert found.mend("owner_request_special").troubles == {}
        live.expect("owner-bounces+x@relay.example", "250")
        live.begin(recipient_delimiter="+", owner_request_special="yes")
        live.expect("owner-bounces+x@relay.example", "250")
        assert examine(live.site).troubles == {}
    finally:
        live.site.files.write(*LISTS, hop=live.hop)
        live.site.once()


def test_before_a_table_can_stand_in_main_cf(live: Live) -> None:
    """Other relay domains beside lists: the command for a Postfix before 3.7 works with any."""
    live.begin(relay_domains="example.org, {domains}", relay_recipient_maps="")
    live.expect("nemo@relay.example", "250")
    old = replace(asyncio.run(inspect(live.postfix.config_directory)), version="3.6.4")
    ours = Installation(live.site.maps, live.site.map_type)
    relayed = Classes(frozenset({"relay.example"}))
    (setting,) = advice(old, ours, relayed, frozenset())
    subprocess.run(remedy(old, setting), shell=True, check=True)
    live.expect("nemo@relay.example", "550")
    live.expect("cats@relay.example", "250")
    live.expect("anybody@example.org", "250")


def test_a_table_that_answers_first(live: Live) -> None:
    """Entries for a domain and `*` do not, wherever they are; an address, and patterns, do."""
    wide = live.table("wide", "relay.example smtp:[192.0.2.1]", "* smtp:[192.0.2.2]")
    live.begin(transport_maps=f"{wide}, {{lmtp}}")
    assert examine(live.site).troubles == {}
    live.expect("cats@relay.example", "250")
    assert live.send("cats@relay.example").daemon == "lmtp"

    old = live.table("old", "cats@relay.example error:gone")
    live.begin(transport_maps=f"{old}, {{lmtp}}")
    live.expect("cats@relay.example", "gone")
    found = examine(live.site)
    assert found.troubles == {"routes": "failure"}
    assert "cats@relay.example" in found["routes"]["seen"]
    assert found.mend("routes").troubles == {}
    live.expect("cats@relay.example", "250")

    pattern = live.table("pattern", r"/@relay\.example$/ error:gone", kind="regexp")
    live.begin(transport_maps=f"{{lmtp}}, {pattern}")
    live.expect("cats@relay.example", "250")
    live.expect("cats-bounces+x@relay.example", "gone")
    found = examine(live.site)
    assert found.troubles == {"routes": "failure"}
    assert found.mend("routes").troubles == {}
    live.expect("cats-bounces+x@relay.example", "250")
    live.expect("nemo@relay.example", "gone")


def test_an_alias_for_the_whole_domain(live: Live) -> None:
    catch_all = live.table(
        "virtual", "info@relay.example ann@sender.example", "@relay.example  ann@sender.example"
    )
    live.begin(virtual_alias_maps=f"{{vmap}}, {catch_all}")
    live.expect("nemo@relay.example", "250")
    assert live.send("cats@relay.example").recipient == "ann@sender.example"
    found = examine(live.site)
    assert found.troubles == {"aliases": "failure"}
    assert found["aliases"]["fix"] is None, "others get their mail by that entry"
    own = [address for name in LISTS for address in nine(name)]
    itself = live.table("itself", *(f"{one} {one}" for one in own))
    live.begin(virtual_alias_maps=f"{{vmap}}, {catch_all}, {itself}")
    assert examine(live.site).troubles == {}
    live.expect("nemo@relay.example", "250")
    wait_for(lambda: live.send("cats@relay.example").daemon == "lmtp", PATIENCE, "delivery")


def test_an_alias_of_a_list_for_somebody_else(live: Live) -> None:
    table = live.table(
        "virtual", "info@relay.example ann@sender.example", "cats@relay.example ann@sender.example"
    )
    live.begin(virtual_alias_maps=f"{{vmap}}, {table}")
    live.expect("cats@relay.example", "250")
    assert live.send("cats@relay.example").recipient == "ann@sender.example"
    found = examine(live.site)
    assert found.troubles == {"aliases": "failure"}
    assert found.mend("aliases").troubles == {}
    live.expect("info@relay.example", "250")
    assert live.send("cats@relay.example").daemon == "lmtp"


@pytest.mark.parametrize(
    ("index", "check"),
    [(None, "other_maps"), (b"x" * 4096, "table")],
    ids=["not there", "damaged"],
)
def test_a_table_that_can_not_be_read(live: Live, index: bytes | None, check: str) -> None:
    """3, 4: then every address is deferred, and one that is built is not seen before a reload."""
    table = live.table("relay", "relay.example smtp:[192.0.2.1]")
    built = live.site.directory / "relay.db"
    built.unlink()
    if index:
        built.write_bytes(index)
    live.begin(transport_maps=f"{table}, {{lmtp}}")
    live.expect("cats@relay.example", "451")
    found = examine(live.site)
    assert found.troubles == {f"{check}:{table}": "failure", "routes": "warning"}
    assert found.mend(f"{check}:{table}").troubles == {}
    live.expect("cats@relay.example", "250")


def test_a_transport_map_as_virtual_aliases(live: Live) -> None:
    """28: the next hop is taken for an address."""
    live.begin(virtual_alias_maps="{lmtp}")
    live.expect("cats@relay.example", "250")
    outcome = live.send("cats@relay.example")
    assert outcome.status == "bounced"
    assert "lmtp" in outcome.recipient
    found = examine(live.site)
    assert found.troubles["virtual_alias_maps"] == "failure"
    assert mend_all(found).troubles == {}
    wait_for(lambda: live.send("cats@relay.example").daemon == "lmtp", PATIENCE, "delivery")


def test_a_service_with_a_value_of_its_own(live: Live) -> None:
    own = live.table("own", "eve@example.org OK")
    live.begin()
    smtpd = live.services.splitlines()[0]
    changed = f"{smtpd}\n  -o relay_recipient_maps={own}"
    live.master_cf.write_text(live.services.replace(smtpd, changed))
    live.postfix.reload()
    live.expect("cats@relay.example", "User unknown in relay recipient table")
    found = examine(live.site)
    name = f"override:127.0.0.1:{live.postfix.port}/inet/relay_recipient_maps"
    assert found.troubles == {name: "failure"}
    assert found.mend(name).troubles == {}
    live.expect("cats@relay.example", "250")
    # An empty one, as behind a content filter, takes every address.
    live.master_cf.write_text(live.services.replace(smtpd, f"{smtpd}\n  -o relay_recipient_maps="))
    assert examine(live.site).troubles == {}


def test_a_parameter_that_stands_twice(desk: Desk) -> None:
    """39: a recipe's second line takes the first one's place.

    Postfix is stopped: a master(8) that logs through its own postlogd(8) may wait for itself when
    it has to warn of such a line.
    """
    with (desk.postfix.config_directory / "main.cf").open("a") as file:
        file.write("transport_maps = inline:{example.org=smtp:[192.0.2.1]}\n")
    found = examine(desk.site)
    assert found.troubles == {
        **STOPPED,
        "transport_maps": "failure",
        "repeated:transport_maps": "warning",
        "main_cf_warnings": "warning",
    }
    assert mend_all(found).troubles == STOPPED
    assert desk.lmtp in desk.value("transport_maps")
    assert "example.org" in desk.value("transport_maps")
    assert "overriding" not in desk.postfix.command("postconf", "-n")
