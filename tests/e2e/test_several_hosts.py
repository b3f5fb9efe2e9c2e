"""Several Mailmans, several MX hosts, and a network between that fails.

Every host has a network stack of its own; Mailman's files come to the MX host over SSH. A Mailman
host is stopped (connections are refused), then cut off (packets are lost, nobody is told), and
comes back, while mail flows: nothing bounces, nothing is lost, and nobody else's mail waits.
"""

import smtplib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import Measured, need
from tests.e2e.conftest import need_real_parts
from tests.parts import namespaces, sshd
from tests.parts.common import public_directory, wait_for
from tests.scenarios.several_hosts import AT_ONCE, LMTP_PORT, Hosts, Run

ANTS, BEES, MOTHS = "ants@one.example.net", "bees@two.example.net", "moths@two.example.net"

pytestmark = pytest.mark.load

PER_SECOND = 20.0

BOTH = (f"[mm1]:{LMTP_PORT}", f"[mm2]:{LMTP_PORT}")
"""What a cluster's routes lead to."""


@contextmanager
def network(**options: object) -> Iterator[Hosts]:
    """The hosts, their Mailmans and sshds running."""
    need_real_parts()
    need(namespaces.available(), "network namespaces")
    need(sshd.available(), "OpenSSH's sshd")
    with public_directory() as directory, Hosts(directory, **options) as hosts:  # type: ignore[arg-type]  # Hosts checks them
        yield hosts


def end(hosts: Hosts) -> None:
    """End mm1's Mailman, and its sshd: connections are refused."""
    hosts.mailmans["mm1"].stop()
    hosts.sshds["mm1"].stop()


def begin(hosts: Hosts) -> None:
    """Start them again."""
    with hosts.on("mm1"):
        hosts.mailmans["mm1"].start()
        hosts.sshds["mm1"].start()


def cut_off(hosts: Hosts) -> None:
    """From now on, packets to mm1 and from it are lost."""
    hosts.network["mm1"].cut_off()


def reconnect(hosts: Hosts) -> None:
    """It was only the network."""
    hosts.network["mm1"].reconnect()


FAILURES = {"ended": (end, begin), "cut off": (cut_off, reconnect)}


def check(run: Run) -> None:
    """What must be true whatever fails."""
    figures = run.figures()
    assert figures.accepted == figures.sent, "Postfix knows its lists, whoever is away"
    assert (figures.lost, figures.bounced, figures.waiting) == (0, 0, 0)


@pytest.mark.parametrize("failure", FAILURES)
def test_one_of_two_mailmans_fails(failure: str, measured: Measured) -> None:
    """Its mail waits; mail for the other is never held up, nor is a new list of the other."""
    fail, mend = FAILURES[failure]
    with network() as hosts:
        hosts.create("mm1", ANTS)
        hosts.create("mm2", BEES)
        mx = hosts.start_mx("mx", ANTS, BEES)

        def create_meanwhile() -> None:
            hosts.create("mm2", MOTHS)
            mx.wait_until_live(MOTHS)

        run = hosts.load(
            [ANTS, BEES],
            lambda: fail(hosts),
            create_meanwhile,
            lambda: mend(hosts),
            per_second=PER_SECOND,
            seconds=25,
        )
        tell(measured, f"two Mailmans, one {failure}", run)
        check(run)
        assert all(one.status == "sent" and one.seconds < AT_ONCE for one in run.to(BEES))
        assert run.delivered["mm1"].keys() | run.delivered["mm2"].keys() == ids(run)
        assert run.delivered["mm2"].keys() == ids(run, BEES)


@pytest.mark.alone
@pytest.mark.parametrize("failure", FAILURES)
def test_member_of_a_cluster_fails(failure: str, measured: Measured) -> None:
    """Both have the lists, so the other takes the mail meanwhile."""
    fail, mend = FAILURES[failure]
    lists = [ANTS, BEES, *(f"list{number}@two.example.net" for number in range(6))]
    with network(cluster=True) as hosts:
        hosts.create("mm1", *lists)
        with hosts.on("mm2"):
            hosts.mailmans["mm2"].regenerate_aliases()
        mx = hosts.start_mx("mx", *lists)
        routes = mx.lookup(lists, "postfix_lmtp").values()
        assert {tuple(sorted(hops_of(route))) for route in routes} == {BOTH}
        assert {hops_of(route)[0] for route in routes} == set(BOTH), "no member is idle"
        run = hosts.load(
            lists,
            lambda: fail(hosts),
            lambda: mend(hosts),
            per_second=PER_SECOND,
            seconds=25,
        )
        tell(measured, f"cluster of two, one {failure}", run)
        check(run)
        assert all(run.delivered.values())
        # Half of the lists have the one that is cut off first: Postfix tries it for
        # lmtp_connect_timeout, and then the other. The order changes after minutes only.
        assert run.figures().late < len(run.sent) * 0.6


def test_created_on_one_member() -> None:
    """One database: the other member takes its mail at once, but writes its files when told to."""
    with network(cluster=True) as hosts:
        one, other = hosts.mailmans.values()
        hosts.create("mm1", ANTS)
        assert ANTS in (one.data / "postfix_lmtp").read_text()
        assert not (other.data / "postfix_lmtp").exists()
        assert [answer(hosts, name, ANTS) for name in hosts.mailmans] == [250, 250]
        assert [answer(hosts, name, BEES) for name in hosts.mailmans] == [550, 550]
        mx = hosts.start_mx("mx", ANTS)

        def hops() -> list[str]:
            return sorted(hops_of(mx.lookup([ANTS], "postfix_lmtp")[ANTS]))

        assert hops() == [BOTH[0]]
        with hosts.on("mm2"):
            other.regenerate_aliases()
        wait_for(lambda: hops() == list(BOTH), 20, "both in its route")


def test_two_mx_hosts_agree(measured: Measured) -> None:
    """Both get the same lists, at different times and in a different order: the same texts."""
    with network(mailmans=("mm1",), mxs=("mx1", "mx2")) as hosts:
        hosts.create("mm1", BEES)
        one = hosts.start_mx("mx1", BEES)
        hosts.create("mm1", ANTS)
        other = hosts.start_mx("mx2", ANTS, BEES)
        one.wait_until_live(ANTS, BEES)
        assert one.texts() == other.texts()
        assert len(one.texts()) == 4

        hosts.network["mx1"].cut_off()
        with hosts.on("mm1"):
            hosts.mailmans["mm1"].remove_list(ANTS)
        hosts.create("mm1", "crickets@one.example.net")
        other.wait_until_live("crickets@one.example.net")
        assert one.texts() != other.texts()
        began = time.monotonic()
        hosts.network["mx1"].reconnect()
        wait_for(lambda: one.texts() == other.texts(), 60, "the same maps on both MX hosts")
        seconds = time.monotonic() - began
        measured(
            "mx", seconds, f"an MX host that was cut off has the same maps {seconds:.1f} s later"
        )


def hops_of(route: str) -> list[str]:
    """The next hops of a route, in their order."""
    return [hop.strip() for hop in route.removeprefix("lmtp:").split(",")]


def ids(run: Run, recipient: str = "") -> set[str]:
    """The X-Load-Id of each message that was accepted (for a list)."""
    return {one.load_id for one in run.sent if one.accepted and recipient in ("", one.recipient)}


def tell(measured: Measured, name: str, run: Run) -> None:
    """Keep the figures of a run for the report."""
    figures = run.figures()
    measured(name, figures.as_dict(), f"{name}: {figures}")


def answer(hosts: Hosts, name: str, recipient: str) -> int:
    """What a Mailman says to RCPT."""
    mailman = hosts.mailmans[name]
    with hosts.on(name), smtplib.LMTP(mailman.lmtp_address, LMTP_PORT, timeout=10) as client:
        client.ehlo()
        client.mail("")
        return client.rcpt(recipient)[0]
