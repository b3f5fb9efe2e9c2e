"""Several Mailmans, several MX hosts, and a network between them that fails.

Every host has a network stack of its own, and the MX host fetches Mailman's files over SSH. Under
load, a Mailman host is stopped (connections are refused) or cut off (packets are dropped silently),
and comes back: no message bounces or is lost, and other lists' mail is not delayed.
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
"""The next hops of a cluster's routes."""


@contextmanager
def network(**options: object) -> Iterator[Hosts]:
    """Start the hosts with their Mailmans and sshds."""
    need_real_parts()
    need(namespaces.available(), "network namespaces")
    need(sshd.available(), "OpenSSH's sshd")
    with public_directory() as directory, Hosts(directory, **options) as hosts:  # type: ignore[arg-type]  # Hosts checks them
        yield hosts


def end(hosts: Hosts) -> None:
    """Stop mm1's Mailman and its sshd: connections are refused."""
    hosts.mailmans["mm1"].stop()
    hosts.sshds["mm1"].stop()


def begin(hosts: Hosts) -> None:
    """Start mm1's Mailman and sshd again."""
    with hosts.on("mm1"):
        hosts.mailmans["mm1"].start()
        hosts.sshds["mm1"].start()


def cut_off(hosts: Hosts) -> None:
    """Drop all packets to and from mm1 from now on."""
    hosts.network["mm1"].cut_off()


def reconnect(hosts: Hosts) -> None:
    """Stop dropping packets."""
    hosts.network["mm1"].reconnect()


FAILURES = {"ended": (end, begin), "cut off": (cut_off, reconnect)}


def check(run: Run) -> None:
    """Check what must be true after every kind of failure."""
    figures = run.figures()
    assert figures.accepted == figures.sent, "Postfix accepts its lists' mail during any failure"
    assert (figures.lost, figures.bounced, figures.waiting) == (0, 0, 0)


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_of_one_mailman_does_not_delay_mail_for_another(
    failure: str, measured: Measured
) -> None:
    """Its own mail is deferred; a new list of the other Mailman is not delayed either."""
    fail, recover = FAILURES[failure]
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
            lambda: recover(hosts),
            per_second=PER_SECOND,
            seconds=25,
        )
        record(measured, f"two Mailmans, one {failure}", run)
        check(run)
        assert all(
            outcome.status == "sent" and outcome.seconds < AT_ONCE for outcome in run.to(BEES)
        )
        assert run.delivered["mm1"].keys() | run.delivered["mm2"].keys() == ids(run)
        assert run.delivered["mm2"].keys() == ids(run, BEES)


@pytest.mark.alone
@pytest.mark.parametrize("failure", FAILURES)
def test_other_member_of_a_cluster_takes_mail_while_one_fails(
    failure: str, measured: Measured
) -> None:
    fail, recover = FAILURES[failure]
    lists = [ANTS, BEES, *(f"list{number}@two.example.net" for number in range(6))]
    with network(cluster=True) as hosts:
        hosts.create("mm1", *lists)
        with hosts.on("mm2"):
            hosts.mailmans["mm2"].regenerate_aliases()
        mx = hosts.start_mx("mx", *lists)
        routes = mx.lookup(lists, "postfix_lmtp").values()
        assert {tuple(sorted(hops_of(route))) for route in routes} == {BOTH}
        assert {hops_of(route)[0] for route in routes} == set(BOTH), (
            "each member is the first of some route"
        )
        run = hosts.load(
            lists,
            lambda: fail(hosts),
            lambda: recover(hosts),
            per_second=PER_SECOND,
            seconds=25,
        )
        record(measured, f"cluster of two, one {failure}", run)
        check(run)
        assert all(run.delivered.values())
        # mm1 is the first next hop of half of the lists: Postfix tries it for lmtp_connect_timeout,
        # and then the other one. The daemon changes the order only after minutes.
        assert run.figures().late < len(run.sent) * 0.6


def test_list_created_on_one_member_of_a_cluster_is_taken_by_both() -> None:
    """They share a database; the other one writes its files only on `mailman aliases`."""
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


def test_two_mx_hosts_build_the_same_maps(measured: Measured) -> None:
    """They get the same lists at different times and in a different order."""
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
    """Return the next hops of a route, in order."""
    return [hop.strip() for hop in route.removeprefix("lmtp:").split(",")]


def ids(run: Run, recipient: str = "") -> set[str]:
    """Return the X-Load-Id of each accepted message (to `recipient`, if given)."""
    return {
        sent.load_id for sent in run.sent if sent.accepted and recipient in ("", sent.recipient)
    }


def record(measured: Measured, name: str, run: Run) -> None:
    """Record the figures of a run for the end of the test run."""
    figures = run.figures()
    measured(name, figures.as_dict(), f"{name}: {figures}")


def answer(hosts: Hosts, name: str, recipient: str) -> int:
    """Return a Mailman's reply code to RCPT."""
    mailman = hosts.mailmans[name]
    with hosts.on(name), smtplib.LMTP(mailman.lmtp_address, LMTP_PORT, timeout=10) as client:
        client.ehlo()
        client.mail("")
        return client.rcpt(recipient)[0]
