"""doctor's checks of main.cf: each problem is reported, and fixed by the printed command.

The tests of doctor's findings use a Postfix that is not started. The tests that a finding is right
use a running one: whether it accepts or refuses mail, and what it logs.
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
from tests.parts.postfix_instance import SENDER, Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS = "ants@lists.example.net"
STOPPED = {"running": "warning"}
PATIENCE = 60.0
"""Seconds: Postfix starts all its processes again at each reload."""
MakeSite = Callable[..., Site]


class Desk:
    """A site beside a Postfix whose main.cf a test can change."""

    def __init__(self, site: Site, postfix: PostfixInstance) -> None:
        self.site = site
        self.postfix = postfix
        self.wired = mailman_parameters(site.maps, site.map_type)
        self.lmtp, self.domains, self.recipients, self.vmap = (
            f"{site.map_type}:{site.maps}/{name}"
            for name in ("postfix_lmtp", "postfix_domains", "postfix_recipients", "postfix_vmap")
        )

    def table(self, name: str, *lines: str, kind: str = "hash") -> str:
        """Write a table of the operator's; return its `type:path` as in main.cf."""
        path = self.site.directory / name
        path.write_text("".join(f"{line}\n" for line in lines))
        if kind in ("hash", "lmdb"):
            self.postfix.command("postmap", f"{kind}:{path}")
        return f"{kind}:{path}"

    def set(self, **parameters: str) -> None:
        """Name the maps in main.cf and set these parameters; `{lmtp}` and so on stand for maps."""
        places = {**vars(self), "maps": self.site.maps, "volume": self.site.files.directory}
        given = {
            name: value.replace("inline:{", "inline:{{").replace("=x}", "=x}}")
            for name, value in parameters.items()
        }
        self.postfix.postconf(
            **{**self.wired, **{name: value.format(**places) for name, value in given.items()}}
        )

    def value(self, parameter: str) -> str:
        """Return the current value in main.cf."""
        return self.postfix.command("postconf", "-h", parameter).strip()


@pytest.fixture
def desk(make_site: MakeSite, idle_postfix: PostfixInstance) -> Desk:
    """A site with one list, installed; main.cf names the maps."""
    site = make_site()
    made = Desk(site, idle_postfix)
    made.set()
    site.files.write(ANTS)
    site.once()
    return made


def fix_all(report: Report) -> Report:
    """Run the command of each finding, one after another; return doctor's next report."""
    for name in report.troubles:
        if report[name]["fix"] and name != "running":
            report.run_fix(name)
    return examine(report.site)


def test_healthy_host_has_only_ok_findings(desk: Desk) -> None:
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
    """Answers NOTFOUND to every query (socketmap_table(5))."""

    def handle(self) -> None:
        """Answer each request, a netstring."""
        while size := b"".join(iter(lambda: self.rfile.read(1).strip(b":"), b"")):
            self.rfile.read(int(size) + 1)
            self.wfile.write(b"9:NOTFOUND ,")


def test_rare_but_valid_settings_have_no_findings(desk: Desk) -> None:
    private = desk.postfix.queue_directory / "private"
    private.mkdir()
    tables = desk.table("transport", "example.org smtp:[192.0.2.1]").removesuffix("transport")
    desk.set(
        # A parameter for the common prefix of the tables' names.
        indexed=tables,
        # The path of the socket is relative to the queue directory.
        transport_maps="${{indexed}}transport, socketmap:unix:private/routes:transport, {lmtp}",
        # Local domains are not relayed, so relay_recipient_maps need not have their recipients.
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
    ("parameters", "troubles", "fixed"),
    [
        # Before setup (3, 4: main.cf names maps that are not built only if an operator edits it).
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
        # 16: another map type than the one that is built.
        (
            {"transport_maps": "hash:{maps}/postfix_lmtp"},
            {"transport_maps": "failure"},
            {"transport_maps": "{lmtp}"},
        ),
        # 17: Mailman's own files, one of them a file of patterns named as hash.
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
        # 18: confirmation addresses need the delimiter.
        ({"recipient_delimiter": ""}, {"recipient_delimiter": "failure"}, {}),
        # 28: maps in the wrong parameter.
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
        # Mailman's own files make the domain local; the fix keeps it local.
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
        # 39: only lists are local recipients.
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
        # 40: a domain in two address classes.
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
            {
                "virtual_mailbox_domains": "lists.example.net",
                "virtual_mailbox_maps": "{recipients}",
            },
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
        # A domain in no address class.
        (
            {"relay_domains": "!lists.example.net, {domains}"},
            {"relay_domains": "failure", "list_domains:lists.example.net": "failure"},
            {"relay_domains": "{domains}"},
        ),
        # Unknown recipients are refused temporarily, so senders retry for days.
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
def test_each_problem_is_reported_and_fixed(
    desk: Desk, parameters: dict[str, str], troubles: dict[str, str], fixed: dict[str, str]
) -> None:
    desk.set(**parameters)
    found = examine(desk.site)
    assert found.troubles == {**troubles, **STOPPED}
    assert all(found[name]["why"] and found[name]["fix"] for name in troubles)
    assert fix_all(found).troubles == STOPPED
    for parameter, value in fixed.items():
        expected = value.replace("inline:{", "inline:{{").replace("=x}", "=x}}")
        assert desk.value(parameter) == expected.format(**vars(desk))


# The behaviour of a running Postfix


LISTS = (
    "ants@local.example",
    "bees@box.example",
    "cats@relay.example",
    "dogs@alias.example",
    "dev-team@relay.example",
    "owner@relay.example",
)


class Live(Desk):
    """A running Postfix, and an LMTP server that has the lists."""

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
        """Restore main.cf and master.cf, name the maps, and set these parameters."""
        self.main_cf.write_text(self.original)
        self.master_cf.write_text(self.services)
        self.set(**parameters)
        self.postfix.reload()

    def reply(self, recipient: str) -> str:
        """Return smtpd(8)'s reply to RCPT for this recipient."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=PATIENCE) as smtp:
            smtp.helo("client.example")
            smtp.mail(SENDER)
            code, text = smtp.rcpt(recipient)
        return f"{code} {text.decode()}"

    def expect(self, recipient: str, said: str) -> None:
        """Wait until smtpd(8) gives this reply: its processes may not have read main.cf yet."""
        wait_for(
            lambda: said in self.reply(recipient),
            PATIENCE,
            f"{said} to {recipient} (last: {self.reply(recipient)})",
        )

    def send(self, recipient: str) -> Outcome:
        """Send a message, which must be accepted; return its outcome."""
        before = len(self.postfix.outcomes())
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=PATIENCE) as smtp:
            smtp.sendmail(SENDER, recipient, "Subject: x\n\nx\n")

        def first_new() -> Outcome | None:
            new = self.postfix.outcomes()[before:]
            return next((outcome for outcome in new if outcome.recipient.partition("+")[0]), None)

        found = wait_for(first_new, PATIENCE, f"an outcome for {recipient}")
        assert found
        return found


@pytest.fixture(scope="module")
def started() -> Iterator[Live]:
    """One running Postfix for all tests."""
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    need(os.geteuid() == 0, "root")
    with public_directory() as directory, LmtpSink(LISTS) as sink:
        made = Live(directory, sink)
        with made.postfix:
            yield made


@pytest.fixture
def live(started: Live) -> Live:
    """The running Postfix, with the maps as its only settings."""
    started.begin()
    return started


def test_fixes_keep_all_recipients_and_add_lists_in_each_class(live: Live) -> None:
    """37, 38, 41, with a domain in each address class: the lists' mail is delivered.

    Recipients that were accepted before still are, also in domains without lists.
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
    assert fix_all(found).troubles == {}

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


def test_postfix_warns_of_the_same_class_pairs_as_doctor(live: Live) -> None:
    """40: all pairs of classes except mydestination and relay_domains."""
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
    # postlogd(8) writes asynchronously.
    wait_for(
        lambda: live.postfix.log[before:].count("do not list domain") >= 5, 20, "five warnings"
    )
    warned = {
        domain: [name for name in pair if re.search(rf"\b{name}\b", line)]
        for domain, pair in domains.items()
        for line in live.postfix.log[before:].splitlines()
        if f"do not list domain {domain} in BOTH" in line
    }
    reported = {domain: double(list(pair)) for domain, pair in domains.items()}
    assert warned == {domain: pair for domain, pair in reported.items() if pair}
    assert len(warned) == 5


def test_missing_relay_recipient_maps_causes_bounces_until_fixed(live: Live) -> None:
    """41: without relay_recipient_maps every address is accepted, and unknown ones bounce."""
    live.begin(relay_recipient_maps="")
    live.expect("nemo@relay.example", "250")
    assert live.send("nemo@relay.example").status == "bounced"
    found = examine(live.site)
    assert found.troubles == {"relay_recipient_maps": "warning"}
    assert found.fix("relay_recipient_maps").troubles == {}
    live.expect("nemo@relay.example", "550")
    live.expect("cats@relay.example", "250")


@pytest.mark.parametrize(
    ("delimiters", "special", "refused", "finding"),
    [
        # 18: without the delimiter, confirmation addresses are unknown.
        ("", "yes", ["cats-confirm+1a2b3c@relay.example"], "recipient_delimiter"),
        # `dev-team-bounces+…` is cut to `dev`.
        ("-+", "no", ["dev-team-bounces+x@relay.example"], "recipient_delimiter"),
        ("+", "yes", [], ""),
        ("+=", "no", [], ""),
    ],
)
def test_recipient_delimiter_that_rejects_list_addresses_is_fixed(
    live: Live, delimiters: str, special: str, refused: list[str], finding: str
) -> None:
    live.begin(recipient_delimiter=delimiters, owner_request_special=special)
    for address in refused:
        live.expect(address, "User unknown")
    found = examine(live.site)
    assert found.troubles == ({finding: "failure"} if finding else {})
    if finding:
        assert found.fix(finding).troubles == {}
    for name in LISTS:
        for address in ("-confirm+1a2b3c", "-bounces+ann=example.com", "-request", "-owner"):
            live.expect(name.replace("@", f"{address}@"), "250")


def test_owner_request_special_matters_only_if_hyphen_is_a_delimiter(live: Live) -> None:
    """It prevents Postfix from splitting `owner-…`, but only if `-` is a delimiter."""
    live.site.files.write("owner@relay.example", hop=live.hop)
    live.site.once("--force")
    try:
        live.begin(recipient_delimiter="-+", owner_request_special="yes")
        live.expect("owner-bounces+x@relay.example", "User unknown")
        found = examine(live.site)
        assert found.troubles == {"owner_request_special": "failure"}
        assert found.fix("owner_request_special").troubles == {}
        live.expect("owner-bounces+x@relay.example", "250")
        live.begin(recipient_delimiter="+", owner_request_special="yes")
        live.expect("owner-bounces+x@relay.example", "250")
        assert examine(live.site).troubles == {}
    finally:
        live.site.files.write(*LISTS, hop=live.hop)
        live.site.once()


def test_fix_for_postfix_before_3_7_keeps_other_relay_domains(live: Live) -> None:
    """Since Postfix 3.7 main.cf can hold a pattern table; the older command works with any."""
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


def test_table_before_ours_that_routes_list_addresses_is_fixed(live: Live) -> None:
    """Entries for a domain and `*` do not match before ours; addresses and patterns do."""
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
    assert found.fix("routes").troubles == {}
    live.expect("cats@relay.example", "250")

    pattern = live.table("pattern", r"/@relay\.example$/ error:gone", kind="regexp")
    live.begin(transport_maps=f"{{lmtp}}, {pattern}")
    live.expect("cats@relay.example", "250")
    live.expect("cats-bounces+x@relay.example", "gone")
    found = examine(live.site)
    assert found.troubles == {"routes": "failure"}
    assert found.fix("routes").troubles == {}
    live.expect("cats-bounces+x@relay.example", "250")
    live.expect("nemo@relay.example", "gone")


def test_fix_of_a_catch_all_alias_keeps_it_for_other_recipients(live: Live) -> None:
    catch_all = live.table(
        "virtual", "info@relay.example ann@sender.example", "@relay.example  ann@sender.example"
    )
    live.begin(virtual_alias_maps=f"{{vmap}}, {catch_all}")
    live.expect("nemo@relay.example", "250")
    assert live.send("cats@relay.example").recipient == "ann@sender.example"
    found = examine(live.site)
    assert found.troubles == {"aliases": "failure"}
    assert found.fix("aliases").troubles == {}
    live.expect("nemo@relay.example", "250")
    assert live.send("nemo@relay.example").recipient == "ann@sender.example"
    wait_for(lambda: live.send("cats@relay.example").daemon == "lmtp", PATIENCE, "delivery")


def test_alias_of_a_list_address_to_another_recipient_is_fixed(live: Live) -> None:
    table = live.table(
        "virtual", "info@relay.example ann@sender.example", "cats@relay.example ann@sender.example"
    )
    live.begin(virtual_alias_maps=f"{{vmap}}, {table}")
    live.expect("cats@relay.example", "250")
    assert live.send("cats@relay.example").recipient == "ann@sender.example"
    found = examine(live.site)
    assert found.troubles == {"aliases": "failure"}
    assert found.fix("aliases").troubles == {}
    live.expect("info@relay.example", "250")
    assert live.send("cats@relay.example").daemon == "lmtp"


@pytest.mark.parametrize(
    ("index", "check"),
    [(None, "other_maps"), (b"x" * 4096, "table")],
    ids=["not there", "damaged"],
)
def test_unreadable_table_that_defers_all_mail_is_fixed(
    live: Live, index: bytes | None, check: str
) -> None:
    """3, 4: every address gets a 451; Postfix opens a rebuilt table only after a reload."""
    table = live.table("relay", "relay.example smtp:[192.0.2.1]")
    built = live.site.directory / "relay.db"
    built.unlink()
    if index:
        built.write_bytes(index)
    live.begin(transport_maps=f"{table}, {{lmtp}}")
    live.expect("cats@relay.example", "451")
    found = examine(live.site)
    assert found.troubles == {f"{check}:{table}": "failure", "routes": "warning"}
    assert found.fix(f"{check}:{table}").troubles == {}
    live.expect("cats@relay.example", "250")


def test_routes_in_virtual_alias_maps_are_fixed(live: Live) -> None:
    """28: Postfix treats the next hop as an address."""
    live.begin(virtual_alias_maps="{lmtp}")
    live.expect("cats@relay.example", "250")
    outcome = live.send("cats@relay.example")
    assert outcome.status == "bounced"
    assert "lmtp" in outcome.recipient
    found = examine(live.site)
    assert found.troubles["virtual_alias_maps"] == "failure"
    assert fix_all(found).troubles == {}
    wait_for(lambda: live.send("cats@relay.example").daemon == "lmtp", PATIENCE, "delivery")


def test_override_in_master_cf_that_rejects_lists_is_fixed(live: Live) -> None:
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
    assert found.fix(name).troubles == {}
    live.expect("cats@relay.example", "250")
    # An empty value, as behind a content filter, accepts every address.
    live.master_cf.write_text(live.services.replace(smtpd, f"{smtpd}\n  -o relay_recipient_maps="))
    assert examine(live.site).troubles == {}


def test_parameter_set_twice_in_main_cf_is_merged_by_the_fixes(desk: Desk) -> None:
    """39: the second line, as recipes append it, overrides the first.

    Postfix is stopped: a master(8) that logs through its own postlogd(8) may deadlock when it has
    to warn of such a line.
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
    assert fix_all(found).troubles == STOPPED
    assert desk.lmtp in desk.value("transport_maps")
    assert "example.org" in desk.value("transport_maps")
    assert "overriding" not in desk.postfix.command("postconf", "-n")
