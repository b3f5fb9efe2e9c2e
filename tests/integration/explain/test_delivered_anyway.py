"""doctor: a map that main.cf lacks is a warning while mail for all lists is delivered anyway."""

import pytest

from tests.parts.common import PATIENCE, wait_for
from tests.parts.doctor import Report, examine
from tests.parts.explaining import ANTS, BEES, happens
from tests.parts.mail_host import Host

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


def without_map(host: Host, **parameters: str) -> None:
    """Have other tables do the work of the maps."""
    maps = dict.fromkeys(("transport_maps", "relay_recipient_maps"), "")
    host.postfix.postconf(**{**maps, "relay_domains": "example.net", **parameters})
    host.postfix.reload()


def sessions(host: Host) -> int:
    """Return how many SMTP sessions there have been, once the last one is logged as ended."""

    def are_ended() -> bool:
        log = host.postfix.log
        return log.count("]: connect from") == log.count("]: disconnect from")

    wait_for(are_ended, PATIENCE, "the end of each SMTP session in the log")
    return host.postfix.log.count("]: disconnect from")


def failures(report: Report) -> set[str]:
    """Return the names of the checks of doctor that failed."""
    return {name for name in report.checks if report.status(name) == "failure"}


def test_missing_map_is_a_warning_while_another_table_leads_all_lists_to_mailman(
    host: Host,
) -> None:
    before = sessions(host)
    assert examine(host.site).troubles == {}
    usual = sessions(host) - before
    table = f"inline:{{example.net={host.hop}}}"
    without_map(host, transport_maps=table)
    assert happens(host, ANTS) == happens(host, BEES) == "delivered"
    before = sessions(host)
    found = examine(host.site)
    assert sessions(host) - before == usual
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
