"""doctor's checks of settings of Postfix that hinder list mail now and then, or slow it down.

Each test sets the parameter on a running Postfix, observes what happens to mail, runs the printed
command, and observes it again.
"""

import os
import shutil
import smtplib
import time
from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.parts.common import wait_for
from tests.parts.doctor import examine
from tests.parts.load import send
from tests.parts.mail_host import Host, started_host
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import SENDER

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
VERIFY = "address_verify_negative_refresh_time"


@pytest.fixture(scope="module")
def started() -> Iterator[Host]:
    """One running Postfix for all tests, with one list, set up."""
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    need(os.geteuid() == 0, "root")
    with started_host() as host:
        host.begin(ANTS)
        host.site.once()
        host.setup("--yes")
        host.files = {path: path.read_text() for path in host.files}
        yield host


@pytest.fixture
def host(started: Host) -> Host:
    """The running Postfix, with its configuration and list restored."""
    for path, text in started.files.items():
        path.write_text(text)
    started.site.configure()
    started.site.files.write(ANTS, hop=started.hop)
    started.sink.accept(nine(ANTS))
    started.site.once("--force")
    started.postfix.reload()
    assert examine(started.site).troubles == {}
    return started


# Recipient verification


def test_list_that_verify_remembers_as_missing_is_accepted_after_the_fix(host: Host) -> None:
    host.postfix.postconf(
        smtpd_recipient_restrictions="reject_unauth_destination, reject_unverified_recipient",
        unverified_recipient_reject_code="550",
        unverified_recipient_defer_code="450",
    )
    host.postfix.reload()
    host.expect({ANTS: 250, BEES: 550})
    host.site.files.write(ANTS, BEES, hop=host.hop)
    host.sink.accept([*nine(ANTS), *nine(BEES)])
    host.site.once()
    began = time.monotonic()
    while time.monotonic() < began + 5:
        assert host.replies(BEES) == {BEES: 550}
        time.sleep(1)
    found = examine(host.site)
    assert found.troubles == {VERIFY: "warning"}
    assert "reject_unverified_recipient" in found[VERIFY]["seen"]
    assert found.fix(VERIFY).troubles == {}
    wait_for(lambda: host.replies(BEES) == {BEES: 250}, 150, "the list accepted")


@pytest.mark.parametrize(
    ("parameters", "warned"),
    [
        ({"smtpd_sender_restrictions": "reject_unverified_recipient"}, True),
        ({"smtpd_sender_restrictions": "warn_if_reject reject_unverified_recipient"}, False),
        ({"smtpd_sender_restrictions": "reject_unlisted_recipient verified"}, False),
        ({"smtpd_sender_restrictions": "verified"}, True),
        ({"smtpd_sender_restrictions": "check_client_access static:verified"}, True),
        (
            {
                "smtpd_sender_restrictions": "reject_unlisted_recipient,"
                " check_client_access static:verified"
            },
            False,
        ),
        ({"smtpd_sender_restrictions": "verified", VERIFY: "5m"}, False),
        ({"smtpd_sender_restrictions": "verified", VERIFY: "1"}, True),
        (
            {"smtpd_sender_restrictions": "verified", "address_verify_negative_cache": "no"},
            False,
        ),
    ],
)
def test_recipient_verification_is_found_wherever_it_is_asked_for(
    host: Host, parameters: dict[str, str], warned: bool
) -> None:
    host.postfix.postconf(
        smtpd_restriction_classes="verified",
        verified="permit_sasl_authenticated, reject_unverified_recipient",
        **parameters,
    )
    host.postfix.reload()
    found = examine(host.site)
    assert found.troubles == ({VERIFY: "warning"} if warned else {})
    if warned:
        assert found.fix(VERIFY).troubles == {}


def test_recipient_verification_of_one_listener_is_fixed_at_the_verify_service(host: Host) -> None:
    smtpd = f"127.0.0.1:{host.postfix.port}/inet"
    host.postfix.command(
        "postconf", "-P", f"{smtpd}/smtpd_recipient_restrictions=reject_unverified_recipient"
    )
    host.postfix.command("postconf", "-P", f"verify/unix/{VERIFY}=1h")
    host.postfix.reload()
    found = examine(host.site)
    assert found.troubles == {VERIFY: "warning"}
    assert f"of 127.0.0.1:{host.postfix.port} in master.cf" in found[VERIFY]["seen"]
    assert f"verify/unix/{VERIFY}=1m" in found[VERIFY]["fix"]
    assert found.fix(VERIFY).troubles == {}


# Delays and limits


def gap(host: Host) -> float:
    """Send three messages to the list at once; return the time between the last two deliveries."""
    before = len(host.sink.deliveries())
    for _ in range(3):
        assert send(host.postfix.port, ANTS).accepted
    wait_for(lambda: len(host.sink.deliveries()) == before + 3, 60, "three deliveries")
    times = [delivery.time for delivery in host.sink.deliveries()]
    return times[-1] - times[-2]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("default_destination_rate_delay", "lmtp_destination_rate_delay"),
        ("lmtp_transport_rate_delay", "lmtp_transport_rate_delay"),
    ],
)
def test_delay_between_messages_is_ended_by_the_fix(host: Host, given: str, found: str) -> None:
    host.postfix.postconf(**{given: "4s"})
    host.postfix.reload()
    assert gap(host) > 3
    report = examine(host.site)
    assert report.troubles == {found: "warning"}
    assert report.fix(found).troubles == {}
    assert host.value("default_destination_rate_delay") == ("4s" if "default" in given else "0s")
    assert gap(host) < 3


def test_delay_of_the_queue_manager_is_ended_where_it_is_set(host: Host) -> None:
    name = "lmtp_destination_rate_delay"
    host.postfix.command("postconf", "-P", f"qmgr/unix/{name}=4s")
    report = examine(host.site)
    assert report.troubles == {name: "warning"}
    assert report.fix(name).troubles == {}


def test_message_that_mailman_refuses_for_its_size_gets_a_warning(host: Host) -> None:
    """The limit of the LMTP server is that of Mailman's: aiosmtpd's default of 32 MiB."""
    host.site.configure(probe={"level": "lhlo"})
    name, limit = "message_size_limit", 32 * 2**20
    others = {"mailbox_size_limit": "0", "virtual_mailbox_limit": "0"}
    host.postfix.postconf(message_size_limit=str(limit), **others)
    assert examine(host.site).troubles == {}
    host.postfix.postconf(message_size_limit=str(limit + 2**21))
    host.postfix.reload()
    report = examine(host.site)
    assert report.troubles == {name: "warning"}
    assert f"127.0.0.1:{host.sink.port} accepts {limit} bytes at most" in report[name]["seen"]
    before = len(host.postfix.outcomes())
    with smtplib.SMTP("127.0.0.1", host.postfix.port, timeout=60) as smtp:
        line = b"x" * 900 + b"\r\n"
        smtp.sendmail(SENDER, ANTS, b"Subject: x\r\n\r\n" + line * (limit // len(line) + 100))
    wait_for(lambda: host.postfix.outcomes()[before:], 60, "an outcome")
    outcome = host.postfix.outcomes()[before]
    assert (outcome.recipient, outcome.status) == (ANTS, "bounced")
    assert "exceeds size limit" in outcome.text
    host.postfix.postconf(message_size_limit="0")
    assert examine(host.site).troubles == {name: "warning"}


def test_missing_smtputf8_of_mailman_is_noted(host: Host) -> None:
    host.site.configure(probe={"level": "lhlo"})
    host.postfix.postconf(smtputf8_enable="no")
    assert examine(host.site)["smtputf8_enable"]["seen"] == "smtputf8_enable = no"
    host.postfix.postconf(smtputf8_enable="yes")
    report = examine(host.site)
    assert report.troubles == {}
    endpoint = f"127.0.0.1:{host.sink.port}"
    assert f"{endpoint} does not offer SMTPUTF8" in report["smtputf8_enable"]["seen"]


# Addresses


@pytest.mark.parametrize("present", ["canonical", ""])
def test_extension_that_an_alias_drops_is_kept_after_the_fix(host: Host, present: str) -> None:
    name, ants = "propagate_unmatched_extensions", "ants@example.net"
    host.site.files.write(hop=host.hop, aliases={ants: ANTS})
    host.site.once()
    host.postfix.postconf(propagate_unmatched_extensions=present)
    host.postfix.reload()

    def delivered() -> str:
        before = len(host.sink.deliveries())
        assert send(host.postfix.port, "ants-confirm+1a2b3c@example.net").accepted
        wait_for(lambda: host.sink.deliveries()[before:], 60, "a delivery")
        return host.sink.deliveries()[-1].recipient

    assert delivered() == "ants-confirm@lists.example.net"
    report = examine(host.site)
    assert report.troubles == {name: "failure"}
    assert report.fix(name).troubles == {}
    assert delivered() == "ants-confirm+1a2b3c@lists.example.net"
    assert host.value(name) == f"{present}, virtual".removeprefix(", ")
    host.site.files.write(ANTS, hop=host.hop)
    host.site.once("--force")


def test_extension_matters_if_list_addresses_are_aliases_of_themselves(host: Host) -> None:
    name = "propagate_unmatched_extensions"
    host.postfix.postconf(propagate_unmatched_extensions="canonical")
    assert examine(host.site).troubles == {}
    aliases = host.value("virtual_alias_maps")
    recipients = host.value("relay_recipient_maps")
    host.postfix.postconf(virtual_alias_maps=f"{recipients}, {aliases}")
    report = examine(host.site)
    assert report.troubles == {name: "failure"}
    assert report.fix(name).troubles == {}


def test_setup_makes_aliases_keep_extensions(host: Host) -> None:
    host.site.files.write(hop=host.hop, aliases={"ants@example.net": ANTS})
    host.site.once()
    host.postfix.postconf(propagate_unmatched_extensions="canonical")
    host.setup("--yes")
    assert host.value("propagate_unmatched_extensions") == "canonical, virtual"
    assert examine(host.site).troubles == {}


def test_virtual_mailbox_domain_without_mailboxes_gets_a_warning(host: Host) -> None:
    host.postfix.postconf(
        virtual_mailbox_domains="lists.example.net, sender.example",
        virtual_mailbox_maps="",
        relay_domains="",
    )
    host.postfix.reload()
    host.expect({"nobody@lists.example.net": 250})
    name = "virtual_mailbox_maps"
    report = examine(host.site)
    assert report.troubles == {name: "warning"}
    assert "any address in lists.example.net is accepted" in report[name]["why"]
    assert report[name]["fix"] is None


def test_mail_host_of_an_alias_domain_in_relay_domains_is_no_problem(host: Host) -> None:
    """Mail to the lists there flows; relay_domains names it as an operator did before Mailman."""
    host.site.files.write(ANTS, hop=host.hop, aliases={"bees@example.net": BEES})
    host.sink.accept([*nine(ANTS), *nine(BEES)])
    host.site.once()
    domains = host.value("relay_domains")
    for relayed in (f"example.net, {domains}", f"{domains}, example.net"):
        host.postfix.postconf(relay_domains=relayed)
        host.postfix.reload()
        assert examine(host.site).troubles == {}
        host.expect({"bees@example.net": 250, "bees-request@example.net": 250})
        assert host.relays("bees@example.net") == "lmtp sent"
    host.postfix.postconf(relay_domains=f"example.net, example.org, {domains}")
    report = examine(host.site)
    assert report.troubles == {"relay_recipient_maps": "warning"}
    assert "relay_domains names other domains" in report["relay_recipient_maps"]["why"]
