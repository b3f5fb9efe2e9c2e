"""setup on a Postfix that accepts mail: every address accepted before is accepted afterwards.

No list is accepted if its mail would be routed elsewhere. The same holds for the commands that
doctor and --once print. The tests compare the replies to RCPT, and where mail is delivered.
"""

import socketserver
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from postfix_sync.postfix.main_cf.classes import BY_CLASS
from tests.parts.common import free_port
from tests.parts.doctor import Report, examine
from tests.parts.mail_host import Host, started_host
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import SENDER, SENDER_DOMAIN

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS = "ants@example.net"
BOB = "bob@example.net"
"""Another user in the list's domain."""


@pytest.fixture(scope="module")
def started() -> Iterator[Host]:
    """A host that is started once for all tests of this file."""
    with started_host() as host:
        yield host


@pytest.fixture
def host(started: Host) -> Host:
    """The same host; each test calls `begin` first."""
    return started


def commands(report: Report) -> list[str]:
    """Return all commands that doctor prints."""
    return [check["fix"] for check in report.checks.values() if check["fix"]]


NOT_SHARED = "cats@lists.example.org"
"""A list in a domain that only the maps name."""


@pytest.mark.parametrize(
    ("parameters", "others"),
    [
        (
            {"relay_domains": "example.net", "transport_maps": "inline:{example.net=discard:}"},
            [BOB],
        ),
        ({"relay_domains": "example.net", "relay_transport": "discard:"}, [BOB]),
        # Another host has the whole domain, or Mailman 2 has lists that are not migrated yet.
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
def test_other_users_of_a_list_domain_are_still_accepted_after_setup(
    host: Host, parameters: dict[str, str], others: list[str]
) -> None:
    """The commands of doctor and --once do not reject any address either."""
    host.begin(ANTS, **parameters)
    accepted = dict.fromkeys([SENDER, *others, ANTS], 250)
    host.expect(accepted)
    hints = host.site.once()
    assert "relay_recipient_maps" not in hints
    assert not [command for command in commands(examine(host.site)) if "recipient_maps" in command]

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


def test_unknown_addresses_are_rejected_only_in_domains_of_lists_alone(host: Host) -> None:
    """Both kinds of domain at once: unknown addresses are rejected if only the maps name it."""
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
    # In a domain with other users, a new list does not change which addresses are accepted.
    host.site.files.write(ANTS, NOT_SHARED, "bees@example.edu", hop=host.hop)
    host.postfix.postconf(relay_domains=f"example.edu {host.value('relay_domains')}")
    assert "relay_recipient_maps" not in host.site.once()
    host.postfix.reload()
    assert "relay_recipient_maps" not in " ".join(commands(examine(host.site)))
    host.setup("--yes")
    host.expect({"eve@example.edu": 250, "bees@example.edu": 250, nobody: 550})


def test_relayed_subdomain_of_a_virtual_list_domain_is_still_accepted(host: Host) -> None:
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
        # The value is empty: every address is accepted.
        (("relay_recipient_maps = inline:{ann@example.net=x}", "relay_recipient_maps ="), False),
        # A relayed domain would become a local one.
        (("mydestination = example.net, localhost", "mydestination = localhost"), False),
        (("transport_maps = inline:{x.example=discard:}", "transport_maps ="), True),
    ],
)
def test_overridden_value_is_not_restored_if_that_would_reject_mail(
    host: Host, lines: tuple[str, str], has_command: bool
) -> None:
    """Postfix is not reloaded with this main.cf: master(8) might wait for its own postlogd(8)."""
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


@pytest.mark.parametrize(
    ("parameter", "value", "others"),
    [
        ("smtpd_reject_unlisted_recipient", "no", ""),
        ("relay_recipient_maps", "static:all", "example.org"),
        ("relay_recipient_maps", "inline:{{@example.net=x}}", "example.org"),
    ],
)
def test_plan_says_that_unknown_addresses_of_a_new_domain_will_be_accepted(
    host: Host, parameter: str, value: str, others: str
) -> None:
    """Whether to refuse them is the operator's decision: doctor warns, and has no command."""
    host.begin(ANTS, relay_domains=others, virtual_alias_domains="", **{parameter: value})
    notes = [line for line in host.setup("--dry-run").stdout.splitlines() if "unchanged:" in line]
    assert len(notes) == 1
    assert f"unchanged: {parameter} " in notes[0]
    assert "returned to" in notes[0]
    assert "apparent sender" in notes[0]
    host.setup("--yes")
    host.expect({ANTS: 250, BOB: 250})
    found = examine(host.site)
    assert (found.status(parameter), found[parameter]["fix"]) == ("warning", None)
    assert f"unchanged: {found[parameter]['why']}" in notes[0]


def test_doctor_has_no_fix_for_smtpd_reject_unlisted_recipient(host: Host) -> None:
    host.begin(ANTS, relay_domains="example.net", smtpd_reject_unlisted_recipient="no")
    host.setup("--yes")
    found = examine(host.site)
    assert found.status("smtpd_reject_unlisted_recipient") == "warning"
    assert found["smtpd_reject_unlisted_recipient"]["fix"] is None


# Tables that cannot be queried


class Socketmap(socketserver.StreamRequestHandler):
    """A table with one domain (socketmap_table(5))."""

    def handle(self) -> None:
        """Answer each request, a netstring."""
        while size := b"".join(iter(lambda: self.rfile.read(1).strip(b":"), b"")):
            request = self.rfile.read(int(size) + 1)
            known = request.rstrip(b",").endswith(b" example.net")
            self.wfile.write(b"4:OK x," if known else b"9:NOTFOUND ,")


class SocketmapServer(socketserver.ThreadingTCPServer):
    """A server for this table."""

    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def socketmap(port: int) -> Iterator[None]:
    """Run the server of a table."""
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
        # In such a domain, only aliases are accepted, with those of the lists.
        ("virtual_alias_domains", "{table}", {BOB: 550}),
        # relay_domains names this table beside the map, so the domain may have other users.
        ("relay_domains", "{domains}, {table}", {BOB: 250}),
    ],
)
def test_setup_changes_nothing_while_a_table_of_domains_does_not_answer(
    host: Host, parameter: str, value: str, replies: dict[str, int]
) -> None:
    """An SQL server may be down: setup refuses to guess, and succeeds once it is up again."""
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
def test_setup_changes_nothing_while_a_file_of_domains_is_missing(host: Host, kind: str) -> None:
    """Postfix then defers mail for every domain that no earlier item of the list has."""
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


def test_table_that_does_not_decide_the_class_of_a_domain_is_not_needed(host: Host) -> None:
    """mydestination is matched first: doctor reports the table, but knows the domain's class."""
    table = f"socketmap:inet:127.0.0.1:{free_port()}:domains"
    host.begin(ANTS, mydestination="example.net, localhost", relay_domains=table)
    host.site.once()
    found = examine(host.site)
    assert found.status(f"table:{table}") == "failure"
    assert found.status("list_domains") == "ok"
    assert found.status("local_recipient_maps") == "failure"
    assert found["local_recipient_maps"]["fix"]


@pytest.mark.parametrize("parameter", ["transport_maps", "virtual_alias_maps"])
def test_setup_changes_nothing_while_a_table_of_routes_does_not_answer(
    host: Host, parameter: str
) -> None:
    """The table may route the list's mail elsewhere."""
    table = f"socketmap:inet:127.0.0.1:{free_port()}:domains"
    host.begin(ANTS, **{parameter: table, "virtual_alias_domains": ""})
    text = host.main_cf
    assert table in host.setup("--yes", expect=75).stderr
    assert host.main_cf == text
    found = examine(host.site)
    check = "routes" if parameter == "transport_maps" else "aliases"
    assert (found.status(check), found[check]["fix"]) == ("warning", None)


# Routes of other tables

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
        ({"virtual_alias_maps": "regexp:{{{{/@example/ {sender}}}}}"}, "", "aliases", False),
    ],
)
def test_list_whose_mail_would_be_routed_elsewhere_is_not_accepted(
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

    # After doctor's fix, setup succeeds.
    found = examine(host.site)
    fix = found[finding]["fix"]
    assert bool(fix) == has_command
    if fix:
        assert f"hint: {fix}" in done.stderr
        found.run_fix(finding)
    else:
        host.postfix.postconf(transport_maps="", virtual_alias_maps="")
    host.postfix.age()
    host.setup("--yes")
    assert host.replies(*before) == {SENDER: 250, ANTS: 250, TOKEN: 250, BOB: 550}
    assert host.relays(ANTS) == host.relays(TOKEN) == "lmtp sent"
    assert host.relays(SENDER) == "discard sent"


def test_catch_all_stays_for_others_and_takes_no_mail_of_lists(host: Host) -> None:
    catch_all = f"inline:{{@example.net={SENDER}}}"
    extensions = {"propagate_unmatched_extensions": "canonical"}
    host.begin(ANTS, virtual_alias_domains="", virtual_alias_maps=catch_all, **extensions)
    text = host.main_cf
    host.setup("--yes")
    assert host.replies(ANTS, BOB) == {ANTS: 250, BOB: 250}
    assert [host.relays(address) for address in nine(ANTS)] == ["lmtp sent"] * 9
    assert host.relays(BOB) == "discard sent"
    assert host.relays(TOKEN) == "lmtp sent"
    assert host.value("propagate_unmatched_extensions") == "canonical, virtual"
    assert examine(host.site).status("aliases") == "ok"
    host.setup("--undo", "--yes")
    assert host.main_cf == text


def test_map_precedes_a_table_that_has_a_list(host: Host) -> None:
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


def test_list_whose_next_hop_does_not_resolve_is_not_accepted(host: Host) -> None:
    host.begin(ANTS)
    host.site.files.write(ANTS, hop=host.hop.replace("127.0.0.1", "mailman-test"))
    text = host.main_cf
    assert "error: name:mailman-test: " in host.setup("--yes", expect=1).stderr
    assert host.main_cf == text
    assert host.replies(ANTS) == {ANTS: 554}
    # The name is in the hosts files now, and setup lets lmtp(8) look it up there.
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


# Lists that get an alias_domain


ALIAS, OTHER_ALIAS = "alias.example.net", "alias.example.org"
RELAYED = "eve@relayed.example"
"""A user in another relayed domain."""


@contextmanager
def polling_replies(host: Host, recipients: Iterable[str]) -> Iterator[set[tuple[str, int]]]:
    """Send RCPT for these recipients repeatedly; yield the set of replies."""
    seen: set[tuple[str, int]] = set()
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            seen.update(host.replies(*recipients).items())

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("others", [{}, {"relay_domains": "relayed.example"}], ids=["", "others"])
@pytest.mark.parametrize("begins_with", ["", ALIAS], ids=["list", "alias"])
def test_alias_domain_that_is_added_or_removed_needs_no_setup(
    host: Host, others: dict[str, str], begins_with: str
) -> None:
    """After it is set, changed or unset in Mailman, a --once is sufficient.

    If there are other relay domains, a table in main.cf has the domains in which unknown addresses
    are rejected. A new alias domain must be added to it, but no accepted address depends on it.
    """
    host.begin(ANTS, **{**others, "relay_transport": "discard:", "virtual_alias_domains": ""})
    write_list(host, begins_with)
    host.setup("--yes")
    always = {ANTS: 250, BOB: 550, **({RELAYED: 250} if others else {})}
    host.expect(always)
    for alias in (begins_with, ALIAS, OTHER_ALIAS, "", ALIAS, ""):
        with polling_replies(host, always) as seen:
            write_list(host, alias)
            hints = host.site.once()
            host.expect({**always, **({ANTS.replace("example.net", alias): 250} if alias else {})})
            found = examine(host.site)
            assert "failure" not in [check["status"] for check in found.checks.values()]
            proposed = {name for name, check in found.checks.items() if check["fix"]}
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


def test_mail_host_in_virtual_alias_domains_is_excluded_without_alias_domain(host: Host) -> None:
    """While it has an alias_domain, nothing is to be done; without it, doctor excludes the host."""
    host.begin(ANTS, virtual_alias_domains="example.net")
    write_list(host, ALIAS)
    host.setup("--yes")
    always = {ANTS: 250, BOB: 550}
    with polling_replies(host, always) as seen:
        for alias in (ALIAS, OTHER_ALIAS):
            write_list(host, alias)
            assert "main.cf: " not in host.site.once()
            host.expect({**always, ANTS.replace("example.net", alias): 250, f"bob@{alias}": 550})
            found = examine(host.site)
            assert "failure" not in [check["status"] for check in found.checks.values()]
            assert commands(found) == []
            assert "nothing to do" in host.setup("--dry-run").stdout
    assert seen == set(always.items())
    assert "in BOTH" not in host.postfix.log
    write_list(host, "")
    assert "!example.net, example.net" in host.site.once()
    found = examine(host.site)
    assert found.status("virtual_alias_domains") == "failure"
    found.run_fix("virtual_alias_domains")
    host.postfix.age()
    host.expect(always)
    assert host.relays(ANTS) == "lmtp sent"


def write_list(host: Host, alias: str) -> None:
    """Let Mailman write its list, in a domain with this alias_domain, if any."""
    lists = {ANTS: ANTS.replace("example.net", alias)} if alias else {}
    host.site.files.write(*([] if alias else [ANTS]), hop=host.hop, aliases=lists)
    host.sink.accept(address for name in (ANTS, *lists.values()) for address in nine(name))
