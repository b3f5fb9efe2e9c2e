"""doctor's checks of what Mailman sends through this Postfix, and of where Postfix listens.

A Mailman behind a published port is one whose routes lead to 127.0.0.1, and which sends from
another network namespace.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import need
from tests.parts import namespaces
from tests.parts.doctor import examine
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
