"""explain: its verdict is what happens to a message that is really sent; asking harms nobody."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.main_cf import lookup
from postfix_sync.postfix.main_cf.parameter import Installation
from tests.parts.common import PATIENCE, free_port, wait_for
from tests.parts.doctor import Report, examine
from tests.parts.load import send
from tests.parts.mail_host import Host, started_host
from tests.parts.mailman_files import nine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES = "ants@example.net", "bees@example.net"
ELSEWHERE = "someone@elsewhere.example"


@pytest.fixture(scope="module")
def started() -> Iterator[Host]:
    """A host that is started once for all tests of this file."""
    with started_host() as host:
        host.site.configure(probe={"level": "rcpt", "timeout": "5s"})
        host.begin(ANTS, BEES)
        host.setup("--yes")
        host.files = {path: path.read_text() for path in host.files}
        yield host


@pytest.fixture
def host(started: Host) -> Iterator[Host]:
    """The host, set up, with two lists; a test's changes are reverted."""
    started.sink.accept([*nine(ANTS), *nine(BEES)])
    yield started
    changed = {path: text for path, text in started.files.items() if path.read_text() != text}
    for path, text in changed.items():
        path.write_text(text)
    if changed:
        started.postfix.age()
        started.postfix.reload()


@dataclass(frozen=True)
class Answer:
    """What explain printed as JSON."""

    document: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The verdict."""
        return str(self.document["verdict"])

    def step(self, name: str) -> dict[str, Any]:
        """Return the last step of this name."""
        return next(s for s in reversed(self.document["steps"]) if s["step"] == name)


def explained(host: Host, address: str, *, expect: int = 0) -> Answer:
    done = host.site.call("explain", address, "--json")
    assert done.returncode == expect, done
    return Answer(json.loads(done.stdout))


def test_mail_to_a_list_is_delivered(host: Host) -> None:
    found = explained(host, ANTS)
    assert found.verdict == "delivered"
    assert found.document["destination"] == host.hop
    assert found.document["source"] == "lists"
    assert found.document["since"]
    assert found.document["held"] is None
    assert found.document["reply"].startswith("250 ")
    names = [step["step"] for step in found.document["steps"]]
    assert names == ["smtpd", "smtpd", "class", "recipient", "transport", "lmtp"]
    assert {step["how"] for step in found.document["steps"]} == {"asked"}
    assert f"{host.site.maps}/postfix_lmtp has {ANTS}" in found.step("transport")["by"]
    assert "main.cf:" in found.step("transport")["by"]


@pytest.mark.parametrize(
    "address", [*nine(ANTS), "ants-confirm+0a1b@example.net", "Ants@Example.NET"]
)
def test_each_address_of_a_list_leads_to_its_mailman(host: Host, address: str) -> None:
    found = explained(host, address)
    assert (found.verdict, found.document["destination"]) == ("delivered", host.hop)


def test_unknown_address_in_a_list_domain_is_refused(host: Host) -> None:
    found = explained(host, "nobody@example.net")
    assert found.verdict == "refused"
    assert "User unknown in relay recipient table" in found.document["reply"]
    assert found.document["source"] is None


def test_outside_address_is_refused_to_strangers(host: Host) -> None:
    assert explained(host, ELSEWHERE).verdict == "refused"


def test_text_output_ends_with_the_verdict(host: Host) -> None:
    done = host.site.call("explain", ANTS)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("delivered")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_stopped_postfix_can_not_be_asked(host: Host) -> None:
    host.postfix.stop()
    try:
        found = explained(host, ANTS, expect=75)
    finally:
        host.postfix.start()
    assert found.verdict == "unknown"
    assert "Postfix is not running" in found.step("smtpd")["found"]


def test_entry_of_another_table_that_diverts_a_list_is_named(host: Host) -> None:
    present = host.value("transport_maps")
    host.postfix.postconf(transport_maps=f"inline:{{{ANTS}=discard:}} {present}")
    host.postfix.reload()
    found = explained(host, ANTS)
    assert found.verdict == "diverted"
    assert found.step("transport")["found"].startswith("discard:")
    assert f"inline:{{{ANTS}=discard:}} has {ANTS} discard:" in found.step("transport")["by"]


def test_virtual_alias_of_one_address_diverts_that_address_only(host: Host) -> None:
    present = host.value("virtual_alias_maps")
    table = f"inline:{{ants-request@example.net={ELSEWHERE}}}"
    host.postfix.postconf(virtual_alias_maps=f"{present} {table}", default_transport="discard:")
    host.postfix.reload()
    assert explained(host, ANTS).verdict == "delivered"
    found = explained(host, "ants-request@example.net")
    assert found.verdict == "diverted"
    assert found.step("virtual_alias")["found"] == ELSEWHERE


@pytest.mark.parametrize(
    "parameters",
    [
        {"recipient_canonical_maps": f"inline:{{{ANTS}={ELSEWHERE}}}"},
        {"canonical_maps": "regexp:{{/^ants@(.*)$$/ users@$$1}}"},
    ],
)
def test_address_that_is_rewritten_before_routing_is_diverted(
    host: Host, parameters: dict[str, str]
) -> None:
    host.postfix.postconf(**parameters, default_transport="discard:")
    host.postfix.reload()
    found = explained(host, ANTS)
    assert found.verdict == "diverted"
    assert found.step("canonical")["asked"] == ANTS


def test_masquerading_of_recipients_diverts_a_list(host: Host) -> None:
    host.postfix.postconf(
        masquerade_domains="net",
        masquerade_classes="envelope_sender, envelope_recipient",
        default_transport="discard:",
    )
    host.postfix.reload()
    found = explained(host, ANTS)
    assert found.verdict == "diverted"
    assert found.step("masquerade")["found"] == "ants@net"
    assert found.step("masquerade")["how"] == "computed"


def test_lmtp_server_that_is_down_defers(host: Host) -> None:
    host.sink.stop()
    try:
        found = explained(host, ANTS)
    finally:
        host.sink.start()
    assert found.verdict == "deferred"
    assert "Connection refused" in found.step("lmtp")["found"]


def test_list_that_mailman_does_not_know_is_refused(host: Host) -> None:
    host.sink.accept(nine(BEES))
    found = explained(host, ANTS)
    assert found.verdict == "refused"
    assert "550" in found.step("lmtp")["found"]


def test_lmtp_that_requires_tls_defers_mail_for_a_server_without_it(host: Host) -> None:
    host.postfix.postconf(lmtp_tls_security_level="encrypt")
    host.postfix.reload()
    found = explained(host, ANTS)
    assert found.verdict == "deferred"
    assert "STARTTLS" in found.step("lmtp")["found"]
    assert happens(host, ANTS) == "deferred"
    host.postfix.command("postsuper", "-d", "ALL")


def test_transport_of_errors_refuses(host: Host) -> None:
    host.postfix.postconf(transport_maps="inline:{{example.net=error:5.1.1 gone}}")
    host.postfix.reload()
    found = explained(host, ANTS)
    assert found.verdict == "refused"


def test_table_that_can_not_be_read_defers(host: Host) -> None:
    host.postfix.postconf(transport_maps=f"hash:/nonexistent {host.value('transport_maps')}")
    host.postfix.reload()
    assert explained(host, ANTS).verdict == "deferred"


@pytest.mark.parametrize(
    ("restriction", "classes"),
    [
        ("reject_unverified_recipient", {}),
        (
            "careful",
            {"smtpd_restriction_classes": "careful", "careful": "reject_unverified_recipient"},
        ),
    ],
    ids=["itself", "class"],
)
def test_verify_is_not_made_to_look_for_an_unknown_address(
    host: Host, restriction: str, classes: dict[str, str]
) -> None:
    host.postfix.postconf(
        smtpd_recipient_restrictions=f"permit_mynetworks, reject_unauth_destination, {restriction}",
        **classes,
    )
    host.postfix.reload()
    before = host.postfix.log
    found = explained(host, "nobody@example.net", expect=75)
    assert found.verdict == "unknown"
    assert "verify(8)" in found.step("smtpd")["found"] or "unknown" in found.step("smtpd")["found"]
    assert "nobody@example.net" not in host.postfix.log[len(before) :]
    assert explained(host, ANTS).verdict == "delivered"


def test_listener_of_another_protocol_is_not_asked_and_takes_no_time(host: Host) -> None:
    port = free_port()
    master = host.postfix.config_directory / "master.cf"
    line = f"127.0.0.1:{port} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy\n"
    master.write_text(master.read_text() + line)
    host.postfix.reload()
    began = time.monotonic()
    found = explained(host, ANTS)
    assert time.monotonic() - began < PATIENCE / 4
    assert found.verdict == "delivered"
    said = [step for step in found.document["steps"] if str(port) in step["asked"]]
    assert ["smtpd_upstream_proxy_protocol" in step["found"] for step in said] == [True]


def test_filter_that_brings_mail_back_without_mappings_is_followed(host: Host) -> None:
    """The aliases are mapped before the filter, and not again behind it."""
    port = free_port()
    master = host.postfix.config_directory / "master.cf"
    line = (
        f"127.0.0.1:{port} inet n - n - - smtpd -o content_filter="
        " -o receive_override_options=no_address_mappings\n"
    )
    master.write_text(master.read_text() + line)
    host.postfix.postconf(content_filter="smtp:[127.0.0.1]:1")
    host.postfix.reload()
    found = explained(host, ANTS)
    assert found.verdict == "delivered"
    assert found.step("filter")["found"] == "content_filter = smtp:[127.0.0.1]:1"


def test_server_that_does_not_answer_costs_one_timeout_for_all_of_its_tables(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "TIMEOUT", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        named = [f"tcp:127.0.0.1:{port}", f"tcp:localhost:{port}", f"tcp:[127.0.0.1]:{port}"]
        postfix = asyncio.run(inspect(host.postfix.config_directory))
        tables = lookup.Tables(postfix, Installation(host.site.maps, "lmdb"), {})
        began = time.monotonic()
        assert asyncio.run(tables.find(" ".join(named), [ANTS])) is None
        assert time.monotonic() - began < 2 * lookup.TIMEOUT
    assert tables.unreadable.keys() == {*named}


def test_doctor_says_in_one_line_that_all_addresses_lead_to_mailman(host: Host) -> None:
    found = examine(host.site)
    assert found.troubles == {}
    assert "all addresses of" in found["delivery"]["seen"]
    assert [name for name in found.checks if name.startswith("delivery:")] == []


def test_doctor_finds_the_one_list_that_an_access_table_rejects(host: Host) -> None:
    restriction = f"check_recipient_access inline:{{{BEES}=REJECT}}, permit"
    host.postfix.postconf(smtpd_recipient_restrictions=restriction)
    host.postfix.reload()
    found = examine(host.site)
    assert found.status(f"delivery:{BEES}") == "failure"
    assert "Access denied" in found[f"delivery:{BEES}"]["seen"]
    assert found.status("delivery:example.net") == ""


def test_doctor_names_the_entry_that_rewrites_an_address_of_a_list(host: Host) -> None:
    table = "inline:{ants-leave@example.net=gone@elsewhere.example}"
    host.postfix.postconf(canonical_maps=table, default_transport="discard:")
    host.postfix.reload()
    finding = examine(host.site)["delivery:example.net"]
    assert finding["status"] == "failure"
    assert f"{table} has ants-leave@example.net" in finding["seen"]
    assert "explain ants-leave@example.net" in finding["why"]


def without_map(host: Host, **parameters: str) -> None:
    """Have other tables do the work of the maps."""
    maps = dict.fromkeys(("transport_maps", "relay_recipient_maps"), "")
    host.postfix.postconf(**{**maps, "relay_domains": "example.net", **parameters})
    host.postfix.reload()


def failures(report: Report) -> set[str]:
    """Return the names of the checks of doctor that failed."""
    return {name for name in report.checks if report.status(name) == "failure"}


def test_missing_map_is_a_warning_while_another_table_leads_all_lists_to_mailman(
    host: Host,
) -> None:
    before = len(host.postfix.log)
    assert examine(host.site).troubles == {}
    usual = host.postfix.log[before:].count("disconnect from")
    table = f"inline:{{example.net={host.hop}}}"
    without_map(host, transport_maps=table)
    assert happens(host, ANTS) == happens(host, BEES) == "delivered"
    before = len(host.postfix.log)
    found = examine(host.site)
    assert host.postfix.log[before:].count("disconnect from") == usual
    assert failures(found) == set()
    assert found.status("transport_maps") == "warning"
    assert found.status("delivery") == "ok"
    why = found["transport_maps"]["why"]
    assert "delivered to Mailman now" in why
    assert f"{table} has example.net {host.hop}" in why
    # The change is proposed all the same, and doctor's command makes it.
    assert "postfix_lmtp" in host.setup("--dry-run").stdout
    assert found.fix("transport_maps").status("transport_maps") == "ok"


def test_map_of_mailman_itself_is_a_warning_while_it_has_all_lists(host: Host) -> None:
    own = host.site.files.directory / "postfix_lmtp"
    host.postfix.command("postmap", f"hash:{own}")
    without_map(host, transport_maps=f"hash:{own}")
    found = examine(host.site)
    assert failures(found) == set()
    assert "Mailman's own file" in found["transport_maps"]["why"]
    assert found.fix("transport_maps").status("transport_maps") == "ok"


@pytest.mark.parametrize(
    "parameters",
    [
        {"transport_maps": "regexp:{{/^ants[-@+]/ {hop}}}"},
        {"transport_maps": "inline:{example.net={hop}}", "content_filter": "smtp:[127.0.0.1]:1"},
        {
            "transport_maps": "inline:{example.net={hop}}",
            "relay_recipient_maps": "regexp:{{/^ants[-@+]/ x}}",
        },
        {
            "transport_maps": "inline:{example.net={hop}}",
            "canonical_maps": "hash:/nonexistent",
        },
    ],
    ids=["one list only", "filter", "recipients of one list", "table"],
)
def test_missing_map_is_a_failure_unless_all_mail_is_known_to_be_delivered(
    host: Host, parameters: dict[str, str]
) -> None:
    filled = {name: value.replace("{hop}", host.hop) for name, value in parameters.items()}
    without_map(host, **filled)
    found = examine(host.site)
    assert "transport_maps" in failures(found)
    assert "delivered" not in found["transport_maps"]["why"]


def test_missing_map_is_a_failure_while_a_new_domain_is_not_installed(host: Host) -> None:
    without_map(host, transport_maps=f"inline:{{example.net={host.hop}}}")
    host.site.files.write(ANTS, BEES, "cats@new.example", hop=host.hop)
    try:
        found = examine(host.site)
    finally:
        host.site.files.write(ANTS, BEES, hop=host.hop)
    assert {"transport_maps", "list_domains:new.example"} <= failures(found)


@pytest.mark.parametrize(
    ("service", "value", "status"),
    [
        ("127.0.0.1:{port}/inet/relay_recipient_maps", "static:x", "warning"),
        ("127.0.0.1:{port}/inet/relay_recipient_maps", "inline:{{ants}=x}", "failure"),
        ("rewrite/unix/transport_maps", "inline:{example.net={hop}}", "warning"),
        ("rewrite/unix/transport_maps", "inline:{{ants}={hop}}", "failure"),
    ],
)
def test_override_is_a_failure_unless_all_mail_is_known_to_be_delivered(
    host: Host, service: str, value: str, status: str
) -> None:
    place = service.replace("{port}", str(host.postfix.port))
    filled = value.replace("{hop}", host.hop).replace("{ants}", ANTS)
    host.postfix.command("postconf", "-P", f"{place}={filled}")
    host.postfix.reload()
    assert examine(host.site).status(f"override:{place}") == status


@dataclass(frozen=True)
class Setting:
    """A combination of settings, each of which may divert, refuse or keep a list's mail."""

    transport: str
    alias: str
    canonical: str
    mapping: bool
    mailman: str
    address: str

    def parameters(self, host: Host) -> dict[str, str]:
        """Return main.cf's parameters."""
        route, alias = (f"lmdb:{host.site.maps}/postfix_{name}" for name in ("lmtp", "vmap"))
        return {
            "transport_maps": f"{self.transport} {route}".strip(),
            "virtual_alias_maps": f"{alias} {self.alias}".strip(),
            "canonical_maps": self.canonical,
            "default_transport": "discard:",
            "receive_override_options": "" if self.mapping else "no_address_mappings",
        }


SETTINGS = st.builds(
    Setting,
    transport=st.sampled_from(
        [
            "",
            f"inline:{{{ANTS}=discard:}}",
            "inline:{example.net=discard:}",
            "regexp:{{/./ discard:}}",
        ]
    ),
    alias=st.sampled_from(
        [
            "",
            f"inline:{{{ANTS}={ELSEWHERE}}}",
            f"inline:{{{ANTS}={ANTS}}}",
            f"inline:{{@example.net={ELSEWHERE}}}",
            f"inline:{{ants-owner@example.net={BEES}}}",
            f"inline:{{{ANTS}={BEES}, {ANTS}}}",
        ]
    ),
    canonical=st.sampled_from(
        ["", f"inline:{{{ANTS}={BEES}}}", "inline:{@example.net=@elsewhere.example}"]
    ),
    mapping=st.booleans(),
    mailman=st.sampled_from(["up", "up", "down", "refuses"]),
    address=st.sampled_from(
        [ANTS, "ants-owner@example.net", "ants-confirm+0a1b@example.net", BEES]
    ),
)


def happens(host: Host, address: str) -> str:
    """Send a message, and return what happens to it, as explain calls it."""
    before = len(host.postfix.outcomes())
    sent = send(host.postfix.port, address)
    if not sent.accepted:
        return "refused" if sent.last.code >= 500 else "deferred"
    wait_for(lambda: host.postfix.outcomes()[before:], PATIENCE, f"an outcome of {address}")
    outcomes = host.postfix.outcomes()[before:]
    if any(one.daemon.endswith("lmtp") and one.status == "sent" for one in outcomes):
        return "delivered"
    return {"sent": "diverted", "bounced": "refused", "deferred": "deferred"}[outcomes[0].status]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(setting=SETTINGS)
def test_verdict_is_what_happens_to_a_message(host: Host, setting: Setting) -> None:
    host.postfix.postconf(**setting.parameters(host))
    sink = host.sink
    sink.accept([] if setting.mailman == "refuses" else [*nine(ANTS), *nine(BEES)])
    if setting.mailman == "down":
        sink.stop()
    try:
        host.postfix.reload()
        verdict = explained(host, setting.address).verdict
        assert verdict == happens(host, setting.address)
    finally:
        if setting.mailman == "down":
            sink.start()
        host.postfix.command("postsuper", "-d", "ALL")
