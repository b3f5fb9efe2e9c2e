"""explain and doctor: mail to a list that arrives at submission, or by sendmail(1)."""

import contextlib
import socket

import pytest

from tests.parts.common import PATIENCE, free_port, run, wait_for
from tests.parts.doctor import examine
from tests.parts.explaining import (
    ANTS,
    BEES,
    ELSEWHERE,
    explained,
    happens,
)
from tests.parts.mail_host import Host

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


def submission(host: Host, *overrides: str, **of_cleanup: str) -> int:
    """Add a listener with a cleanup(8) of its own to master.cf; return its port."""
    port = free_port()
    options = " ".join(f"-o {each}" for each in ("cleanup_service_name=subcleanup", *overrides))
    _add_services(
        host,
        f"127.0.0.1:{port} inet n - n - - smtpd {options}",
        _subcleanup(of_cleanup),
    )
    wait_for(lambda: _listens(port), PATIENCE, f"a listener on port {port}")
    return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
        return True
    return False


def local_cleanup(host: Host, **of_cleanup: str) -> None:
    """Have pickup(8) use a cleanup(8) of its own."""
    master = host.postfix.config_directory / "master.cf"
    lines = [line for line in master.read_text().splitlines() if not line.startswith("pickup ")]
    master.write_text("".join(f"{line}\n" for line in lines))
    pickup = "pickup unix n - n 60 1 pickup -o cleanup_service_name=subcleanup"
    _add_services(host, pickup, _subcleanup(of_cleanup))


def _subcleanup(parameters: dict[str, str]) -> str:
    options = "".join(f" -o {name}={value}" for name, value in parameters.items())
    return f"subcleanup unix n - n - 0 cleanup{options}"


def _add_services(host: Host, *lines: str) -> None:
    master = host.postfix.config_directory / "master.cf"
    master.write_text(master.read_text() + "".join(f"{line}\n" for line in lines))
    host.postfix.reload()


DIVERTING = [
    ("virtual_alias", {"virtual_alias_maps": f"inline:{{{ANTS}={ELSEWHERE}}}"}),
    ("canonical", {"canonical_maps": "inline:{@example.net=@elsewhere.example}"}),
    ("canonical", {"recipient_canonical_maps": f"inline:{{{ANTS}={ELSEWHERE}}}"}),
    (
        "masquerade",
        {"masquerade_domains": "net", "masquerade_classes": "envelope_recipient"},
    ),
]
"""Parameters of a cleanup(8) that divert a list, each with the step that shows it."""


@pytest.mark.parametrize(("step", "parameters"), DIVERTING)
def test_list_that_only_another_listener_diverts_is_diverted_there(
    host: Host, step: str, parameters: dict[str, str]
) -> None:
    host.postfix.postconf(default_transport="discard:")
    port = submission(host, **parameters)
    assert happens(host, ANTS) == "delivered"
    assert happens(host, ANTS, port) == "diverted"
    found = explained(host, ANTS)
    assert found.verdict == "diverted"
    assert found.step(step)["asked"] == f"{ANTS} at 127.0.0.1:{port} in master.cf"
    assert found.step(step)["ok"] is False
    assert "(-o at subcleanup in master.cf)" in found.step(step)["by"]
    assert "discard:" in found.step(step)["found"]
    assert found.document["destination"] == host.hop


def test_text_output_says_at_which_service_mail_is_diverted(host: Host) -> None:
    host.postfix.postconf(default_transport="discard:")
    port = submission(host, virtual_alias_maps=f"inline:{{{ANTS}={ELSEWHERE}}}")
    said = " ".join(host.site.call("explain", ANTS).stdout.split())
    assert said.endswith(
        "mail to it is not delivered to the list's Mailman if it arrives at"
        f" 127.0.0.1:{port} in master.cf"
    )


def test_doctor_names_the_service_at_which_a_list_is_diverted(host: Host) -> None:
    host.postfix.postconf(default_transport="discard:")
    table = f"inline:{{{BEES}={ELSEWHERE}}}"
    port = submission(host, virtual_alias_maps=table)
    finding = examine(host.site)[f"delivery:{BEES}"]
    assert finding["status"] == "failure"
    assert f"{BEES} at 127.0.0.1:{port} in master.cf: virtual_alias" in finding["seen"]
    assert f"virtual_alias_maps (-o at subcleanup in master.cf): {table}" in finding["seen"]


def test_list_that_another_listener_does_not_map_is_diverted_there(host: Host) -> None:
    """The public path makes the list's address of another one; the other listener does not."""
    host.postfix.postconf(
        canonical_maps=f"inline:{{old-ants@elsewhere.example={ANTS}, {BEES}={ANTS}}}",
        transport_maps=f"inline:{{{BEES}=discard:}} {host.value('transport_maps')}",
    )
    port = submission(host, "receive_override_options=no_address_mappings")
    assert happens(host, BEES) == "delivered"
    assert happens(host, BEES, port) == "diverted"
    found = explained(host, BEES)
    assert found.verdict == "diverted"
    step = found.step("transport")
    assert step["asked"] == f"{BEES} at 127.0.0.1:{port} in master.cf"
    assert "receive_override_options = no_address_mappings" in step["by"]


def test_table_of_another_listener_that_can_not_be_read_defers_there(host: Host) -> None:
    port = submission(host, canonical_maps="hash:/nonexistent")
    assert happens(host, ANTS) == "delivered"
    found = explained(host, ANTS)
    assert found.verdict == "deferred"
    assert str(port) in found.step("canonical")["asked"]


def test_listener_with_another_cleanup_that_leads_to_mailman_has_no_step(host: Host) -> None:
    before = explained(host, ANTS).document["steps"]
    port = submission(
        host,
        canonical_maps="inline:{b@example.org=bob@example.org}",
        recipient_canonical_maps=f"inline:{{{ELSEWHERE}=b@example.org}}",
        header_checks="",
    )
    assert happens(host, ANTS, port) == "delivered"
    found = explained(host, ANTS)
    assert found.verdict == "delivered"
    added = [step for step in found.document["steps"] if step not in before]
    assert {(step["step"], str(port) in step["asked"]) for step in added} == {("smtpd", True)}
    assert examine(host.site).troubles == {}


def test_address_that_is_not_a_lists_is_not_judged_at_another_listener(host: Host) -> None:
    host.postfix.postconf(default_transport="discard:")
    sender_domain_user = "tester@sender.example"
    port = submission(host, canonical_maps=f"inline:{{{sender_domain_user}=nobody@example.net}}")
    found = explained(host, sender_domain_user)
    assert found.verdict == "delivered"
    assert str(port) in found.step("canonical")["asked"]


def test_aliases_of_another_listener_that_lead_in_a_circle_are_no_error(host: Host) -> None:
    first, second = "first@sender.example", "second@sender.example"
    submission(host, virtual_alias_maps=f"inline:{{{first}={second},{second}={first}}}")
    assert explained(host, first).verdict == "delivered"


def test_list_that_only_pickup_diverts_is_diverted_there(host: Host) -> None:
    host.postfix.postconf(default_transport="discard:")
    local_cleanup(host, virtual_alias_maps=f"inline:{{{ANTS}={ELSEWHERE}}}")
    before = len(host.postfix.outcomes())
    run("/usr/sbin/sendmail", "-C", str(host.postfix.config_directory), ANTS, stdin="Subject: x\n")
    wait_for(lambda: host.postfix.outcomes()[before:], PATIENCE, "an outcome of local mail")
    assert host.postfix.outcomes()[before].daemon == "discard"
    assert happens(host, ANTS) == "delivered"
    found = explained(host, ANTS)
    assert found.verdict == "diverted"
    assert found.step("virtual_alias")["asked"] == f"{ANTS} at pickup in master.cf"


def test_listener_where_a_filter_returns_mail_is_not_another_way_to_a_list(host: Host) -> None:
    """Nobody else sends mail there, so it need not map addresses."""
    host.postfix.postconf(
        content_filter="smtp:[127.0.0.1]:1",
        canonical_maps=f"inline:{{{BEES}={ANTS}}}",
        transport_maps=f"inline:{{{BEES}=discard:}} {host.value('transport_maps')}",
    )
    submission(host, "content_filter=", "receive_override_options=no_address_mappings")
    found = explained(host, BEES)
    assert found.verdict == "delivered"


def test_way_of_another_listener_does_not_count_if_filters_may_return_mail_elsewhere(
    host: Host,
) -> None:
    """Mail signed for submission comes back where addresses are mapped, other mail elsewhere."""
    host.postfix.postconf(
        content_filter="smtp:[127.0.0.1]:1",
        canonical_maps=f"inline:{{{BEES}={ANTS}}}",
        transport_maps=f"inline:{{{BEES}=discard:}} {host.value('transport_maps')}",
    )
    unmapped = "-o receive_override_options=no_address_mappings"
    scanned, signed = (f"127.0.0.1:{free_port()}" for _ in range(2))
    _add_services(
        host,
        f"{scanned} inet n - n - - smtpd -o content_filter= {unmapped}",
        f"{signed} inet n - n - - smtpd -o content_filter=",
    )
    port = submission(host, "receive_override_options=no_address_mappings")
    found = explained(host, BEES)
    assert found.verdict == "delivered"
    assert str(port) in found.step("transport")["asked"]
    assert found.step("transport")["ok"] is None
