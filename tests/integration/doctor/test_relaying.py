"""doctor's checks of what Mailman sends through this Postfix, and of where Postfix listens.

A Mailman behind a published port is one whose routes lead to 127.0.0.1, and which sends from
another network namespace.
"""

import smtplib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import need
from tests.parts import namespaces
from tests.parts.common import PATIENCE, wait_for
from tests.parts.doctor import examine
from tests.parts.mailman import Mailman
from tests.parts.namespaces import Network
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS = "ants@lists.example.net"
BOUNCES = "ants-bounces+member=elsewhere.example@lists.example.net"
PERMIT = "permit_mynetworks, reject_unauth_destination"
LOOPBACK = "127.0.0.0/8 [::1]/128"
FORGED = (
    "{now} mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from a.example[8.8.8.8]: 554 5.7.1 <x@y>:"
    " Sender address rejected: x: NOQUEUE: reject: RCPT from a[10.9.0.2]: {said}"
)
"""A line of the log with a text of a client that looks like another line."""


@pytest.fixture
def site(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Site:
    """A site with one list at 127.0.0.1, whose maps main.cf names, beside a stopped Postfix."""
    made = make_site()
    idle_postfix.postconf(
        **mailman_parameters(made.maps, made.map_type),
        mynetworks=LOOPBACK,
        smtpd_relay_restrictions=PERMIT,
    )
    made.files.write(ANTS)
    made.once()
    return made


@pytest.fixture
def network(root: None) -> Iterator[Network]:
    """A host for Postfix and one for Mailman."""
    need(namespaces.available(), "network namespaces")
    with Network("mx", "mm") as made:
        yield made


def anywhere(postfix: PostfixInstance) -> None:
    """Have inet_interfaces say where Postfix listens."""
    master = postfix.config_directory / "master.cf"
    master.write_text(master.read_text().replace("127.0.0.1:", ""))


@pytest.mark.parametrize(
    ("parameters", "status", "seen"),
    [
        ({"mynetworks": LOOPBACK}, "warning", "the Mailman of lists sends is not known"),
        ({"mynetworks": f"{LOOPBACK} 10.77.0.1"}, "warning", "is not known"),  # this host itself
        ({"mynetworks": f"{LOOPBACK} !172.16.0.0/12"}, "warning", "is not known"),
        ({"mynetworks": f"{LOOPBACK} 172.16.0.0/12"}, "ok", "not checked: the address from which"),
        ({"smtpd_sasl_auth_enable": "yes"}, "ok", "not checked"),
        (
            {"smtpd_relay_restrictions": f"check_client_access inline:{{{{x=OK}}}}, {PERMIT}"},
            "ok",
            "not checked",
        ),
        ({"smtpd_relay_restrictions": "reject_unauth_destination"}, "ok", "not checked"),
    ],
)
def test_unknown_address_of_mailman_is_a_warning_if_only_loopback_may_relay(
    site: Site,
    idle_postfix: PostfixInstance,
    network: Network,
    parameters: dict[str, str],
    status: str,
    seen: str,
) -> None:
    idle_postfix.postconf(**parameters)
    with network["mx"].inside():
        found = examine(site)
    assert found.status("mynetworks") == status
    assert seen in found["mynetworks"]["seen"]
    if status == "warning":
        assert found["mynetworks"]["fix"] is None
        assert "docker container inspect -f" in found["mynetworks"]["why"]
        assert "Relay access denied" in found["mynetworks"]["why"]


def test_mailman_that_runs_on_this_host_needs_only_loopback(site: Site) -> None:
    with Mailman(site.directory / "mailman", lmtp_host="127.0.0.1", lmtp_address="127.0.0.1") as mm:
        site.files.write(ANTS, hop=mm.destination)
        site.once()
        found = examine(site)
        assert found.status("mynetworks") == "ok"
        assert "no address of a Mailman has to be in it" in found["mynetworks"]["seen"]
    assert examine(site).status("mynetworks") == "warning"


def test_address_that_postfix_has_refused_is_permitted_by_the_fix(
    site: Site, idle_postfix: PostfixInstance, network: Network
) -> None:
    anywhere(idle_postfix)
    idle_postfix.postconf(inet_interfaces="all")

    def send(sender: str, host: str) -> int:
        """Return the reply code to RCPT for a recipient at another domain, from this host."""
        server = network["mx"].address, idle_postfix.port
        with network[host].inside(), smtplib.SMTP(*server, timeout=PATIENCE) as smtp:
            smtp.ehlo(host)
            smtp.mail(sender)
            return smtp.rcpt("member@elsewhere.example")[0]

    with network["mx"].inside(), idle_postfix:
        assert send("somebody@else.example", "mm") == 554
        assert examine(site).troubles == {"mynetworks": "warning"}, "that is not Mailman's mail"
        assert send(BOUNCES, "mm") == 554
        found = examine(site)
        assert found.troubles == {"mynetworks": "failure"}
        assert f"refused mail of {BOUNCES} from 10.77.0.2" in found["mynetworks"]["seen"]
        assert found.fix("mynetworks").troubles == {}
        assert wait_for(lambda: send(BOUNCES, "mm") == 250, PATIENCE, "mail from Mailman taken")
    assert (
        f"mynetworks = {LOOPBACK} 10.77.0.2\n"
        in (idle_postfix.config_directory / "main.cf").read_text()
    )


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("{now} mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from a.example[10.9.0.2]: {said}", True),
        ("{now} mx postfix/in/smtpd[1]: NOQUEUE: reject: RCPT from unknown[fd00::2]: {said}", True),
        (
            "{old} mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from a.example[10.9.0.2]: {said}",
            False,
        ),
        ("{now} mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from a.example[8.8.8.8]: {said}", False),
        (FORGED, False),
    ],
)
def test_only_current_refusals_of_private_addresses_count(
    site: Site, idle_postfix: PostfixInstance, line: str, status: bool
) -> None:
    said = f"454 4.7.1 <member@b.example>: Relay access denied; from=<{BOUNCES}> to=<m@b.example>"
    now, old = (
        time.strftime("%b %e %H:%M:%S", time.localtime(time.time() - age)) for age in (9, 9e4)
    )
    # Only the end of a large log is read.
    idle_postfix.maillog.write_text("x\n" * 2**18 + line.format(now=now, old=old, said=said) + "\n")
    assert examine(site).status("mynetworks") == ("failure" if status else "warning")


def test_refused_address_has_no_fix_if_mynetworks_permits_nothing(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    idle_postfix.postconf(smtpd_relay_restrictions="reject_unauth_destination")
    now = time.strftime("%b %e %H:%M:%S")
    idle_postfix.maillog.write_text(
        f"{now} mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from a.example[10.9.0.2]: 554 5.7.1"
        f" <m@b.example>: Relay access denied; from=<{BOUNCES}> to=<m@b.example>\n"
    )
    found = examine(site)
    assert found.status("mynetworks") == "failure"
    assert found["mynetworks"]["fix"] is None
    assert "No restriction has permit_mynetworks" in found["mynetworks"]["why"]


@pytest.mark.parametrize(
    ("present", "fixed"),
    [
        ("127.0.0.0/8 172.0.0.0/8", "127.0.0.0/8 172.16.0.0/12"),
        (
            "0.0.0.0/0",
            "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16",
        ),
        ("!10.0.0.9 8.0.0.0/5, 192.0.0.0/4", "!10.0.0.9 10.0.0.0/8 192.168.0.0/16"),
        ("127.0.0.0/8 11.0.0.0/8", "127.0.0.0/8"),
        ("127.0.0.0/8 [::]/0", "127.0.0.0/8 [::1]/128 [fc00::]/7 [fe80::]/10"),
    ],
)
def test_private_part_of_a_network_that_is_too_wide_stays_trusted(
    site: Site, idle_postfix: PostfixInstance, present: str, fixed: str
) -> None:
    idle_postfix.postconf(mynetworks=present, smtpd_sasl_auth_enable="yes")
    found = examine(site)
    assert found.status("mynetworks") == "failure"
    assert found.fix("mynetworks").status("mynetworks") == "ok"
    assert idle_postfix.command("postconf", "-h", "mynetworks").strip() == fixed


# Where Postfix listens


def test_postfix_on_loopback_only_gets_a_warning_unless_something_is_in_front(
    site: Site, idle_postfix: PostfixInstance, network: Network
) -> None:
    idle_postfix.postconf(smtpd_sasl_auth_enable="yes")
    with network["mx"].inside():
        assert examine(site).status("inet_interfaces") == "ok", "master.cf says where it listens"
        anywhere(idle_postfix)
        found = examine(site)
        assert found.status("inet_interfaces") == "warning"
        assert "no other host can deliver mail to the lists" in found["inet_interfaces"]["why"]
        assert found["inet_interfaces"]["fix"] is None
        with socket.create_server((network["mx"].address, 25)):
            assert examine(site).status("inet_interfaces") == "ok"
        assert examine(site).status("inet_interfaces") == "warning"
        idle_postfix.postconf(inet_interfaces="127.0.0.1, [::1]")
        assert examine(site).status("inet_interfaces") == "warning"
        idle_postfix.command("postconf", "-M", "10026/inet=127.0.0.1:10026 inet n - n - - smtpd")
        assert examine(site).status("inet_interfaces") == "ok", "a content filter sends mail there"
        idle_postfix.postconf(inet_interfaces="all")
        assert examine(site).status("inet_interfaces") == "ok"
