"""explain: its verdict is what happens to a message that is really sent; asking harms nobody."""

import asyncio
import socket
import time

import pytest

from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.main_cf import lookup
from postfix_sync.postfix.main_cf.parameter import Installation
from tests.parts.common import PATIENCE, free_port
from tests.parts.doctor import examine
from tests.parts.explaining import (
    ANTS,
    BEES,
    ELSEWHERE,
    explained,
    happens,
)
from tests.parts.mail_host import Host
from tests.parts.mailman_files import nine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


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


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (f"REDIRECT {ELSEWHERE}", "diverted"),
        ("HOLD", "deferred"),
        ("DISCARD", "diverted"),
        ("FILTER discard:", "unknown"),
        ("WARN seen", "delivered"),
    ],
)
def test_action_of_an_access_table_is_named(host: Host, action: str, verdict: str) -> None:
    """The reply to RCPT is 250 with each of these actions (access(5))."""
    table = f"inline:{{{{{ANTS}={action}}}}}"
    host.postfix.postconf(smtpd_recipient_restrictions=f"check_recipient_access {table}")
    host.postfix.reload()
    found = explained(host, ANTS, expect=75 if verdict == "unknown" else 0)
    assert found.verdict == verdict
    computed = [step for step in found.document["steps"] if step["how"] == "computed"]
    named = [step["by"] for step in computed if step["found"] == f"{ANTS} {action}"]
    assert named == ([] if verdict == "delivered" else [named[0]])
    assert all(table in by and "smtpd_recipient_restrictions (main.cf:" in by for by in named)
    assert explained(host, BEES).verdict == "delivered"


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
