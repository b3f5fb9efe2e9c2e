"""doctor's checks of settings of Postfix that hinder list mail now and then, or slow it down.

Each test sets the parameter on a running Postfix, observes what happens to mail, runs the printed
command, and observes it again.
"""

import os
import shutil
import time
from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.parts.common import wait_for
from tests.parts.doctor import examine
from tests.parts.mail_host import Host, started_host
from tests.parts.mailman_files import nine

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
