"""How Postfix uses the next hops `lmtp:[a]:8024, [b]:8024`, the routes of a cluster of Mailmans.

The servers are real and on hosts of their own, so that packets between them can be dropped. The
choice of routes depends on each of these facts; those about bounces show which routes must never be
written.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import need
from tests.e2e.conftest import need_real_parts
from tests.parts import namespaces
from tests.parts.common import public_directory, wait_for
from tests.parts.lmtp_rogues import ROGUES, rogue
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import Load, send
from tests.parts.namespaces import Network
from tests.parts.postfix_instance import Outcome, PostfixInstance

LIST, OTHER = "ants@lists.example.net", "bees@other.example.net"
PORT, NOBODY = 8024, 8025
PATIENCE = 20.0

TIMEOUT = 2
"""lmtp_connect_timeout in seconds; the default, 0, leaves it to the kernel: 135 s."""


@dataclass(frozen=True)
class Bed:
    """Postfix on host mx, and a sink on mm1 and on mm2."""

    network: Network
    postfix: PostfixInstance
    sinks: dict[str, LmtpSink]

    def hop(self, name: str, port: int = PORT) -> str:
        """Return a host as a next hop."""
        return f"[{self.network[name].address}]:{port}"

    def route(self, **routes: str) -> None:
        """Replace the routes: `ants` is LIST's, `bees` is OTHER's."""
        table = self.postfix.directory / "transport"
        of = {"ants": LIST, "bees": OTHER}
        table.write_text("".join(f"{of[name]} {value}\n" for name, value in routes.items()))
        with self.network["mx"].inside():
            self.postfix.command("postmap", f"hash:{table}")
            self.postfix.reload()

    def outcome(self, recipient: str = LIST) -> Outcome:
        """Send a message; return the outcome of its first try."""
        with self.network["mx"].inside():
            sent = send(self.postfix.port, recipient)
        assert sent.accepted
        tries = wait_for(
            lambda: [
                entry for entry in self.postfix.outcomes() if entry.queue_id in sent.last.text
            ],
            PATIENCE,
            "a first try",
        )
        return tries[0]


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """One Bed for all tests."""
    need_real_parts()
    need(namespaces.available(), "network namespaces")
    with public_directory() as directory, Network("mx", "mm1", "mm2") as network:
        hosts = directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{network.hosts_file}")
        with network["mx"].inside():
            postfix = PostfixInstance(
                directory / "postfix",
                hosts=hosts,
                main_cf={
                    "transport_maps": f"hash:{directory / 'postfix/transport'}",
                    "relay_domains": "lists.example.net, other.example.net",
                    "lmtp_connect_timeout": f"{TIMEOUT}s",
                    "enable_long_queue_ids": "yes",
                },
            )
        sinks = {
            name: LmtpSink([LIST, OTHER], host=network[name].address, port=PORT)
            for name in ("mm1", "mm2")
        }
        made = Bed(network, postfix, sinks)
        try:
            for name, sink in sinks.items():
                with network[name].inside():
                    sink.start()
            with network["mx"].inside():
                postfix.start()
            yield made
        finally:
            for sink in sinks.values():
                sink.stop()
            postfix.stop()


def test_first_next_hop_gets_all_mail_while_it_is_up(bed: Bed) -> None:
    """The second is only a fallback; Postfix does not balance the load."""
    bed.route(ants=f"lmtp:{bed.hop('mm1')}, {bed.hop('mm2')}")
    assert {bed.outcome().relay for _ in range(10)} == {f"10.77.0.2[10.77.0.2]:{PORT}"}


@pytest.mark.parametrize("separator", [", ", ",", " "])
def test_second_next_hop_is_used_at_once_if_the_first_refuses_connections(
    bed: Bed, separator: str
) -> None:
    """The separator may be a comma, a blank or both."""
    bed.route(ants=f"lmtp:{bed.hop('mm1', NOBODY)}{separator}{bed.hop('mm2')}")
    started = time.monotonic()
    outcome = bed.outcome()
    assert (outcome.status, outcome.relay) == ("sent", f"10.77.0.3[10.77.0.3]:{PORT}")
    assert time.monotonic() - started < TIMEOUT


def test_next_hop_with_unknown_name_is_skipped(bed: Bed) -> None:
    """Names of the hosts file work as well as addresses."""
    bed.route(ants=f"lmtp:[nowhere]:{PORT}, [mm2]:{PORT}")
    outcome = bed.outcome()
    assert (outcome.status, outcome.relay) == ("sent", f"mm2[10.77.0.3]:{PORT}")


def test_second_next_hop_is_used_after_the_timeout_if_packets_are_lost(bed: Bed) -> None:
    """The timeout is lmtp_connect_timeout."""
    bed.route(ants=f"lmtp:{bed.hop('mm1')}, {bed.hop('mm2')}")
    bed.network["mm1"].cut_off()
    try:
        started = time.monotonic()
        outcome = bed.outcome()
        seconds = time.monotonic() - started
    finally:
        bed.network["mm1"].reconnect()
    assert (outcome.status, outcome.relay) == ("sent", f"10.77.0.3[10.77.0.3]:{PORT}")
    assert TIMEOUT <= seconds < TIMEOUT + 5
    assert "connect to 10.77.0.2[10.77.0.2]:8024: Connection timed out" in bed.postfix.log
    assert bed.outcome().relay == f"10.77.0.2[10.77.0.2]:{PORT}"


@pytest.mark.load
def test_lost_packets_to_the_first_next_hop_do_not_delay_other_lists(bed: Bed) -> None:
    """With a backlog, Postfix keeps connections to the second next hop open."""
    bed.route(ants=f"lmtp:{bed.hop('mm1')}, {bed.hop('mm2')}", bees=f"lmtp:{bed.hop('mm2')}")
    offset = len(bed.postfix.log)
    bed.network["mm1"].cut_off()
    try:
        with (
            bed.network["mx"].inside(),
            Load(bed.postfix.port, [LIST, OTHER], per_second=40, seconds=5) as load,
        ):
            pass
        assert all(sent.accepted for sent in load.sent)
        bed.postfix.wait_for_empty_queue()
    finally:
        bed.network["mm1"].reconnect()
    assert load.accepted_ids() <= bed.sinks["mm2"].load_ids()
    log = bed.postfix.log[offset:]
    assert "status=deferred" not in log
    slowest = {
        recipient: max(
            float(delay) for delay in re.findall(rf"to=<{recipient}>.* delay=([\d.]+)", log)
        )
        for recipient in (LIST, OTHER)
    }
    assert slowest[LIST] >= TIMEOUT
    assert slowest[OTHER] < TIMEOUT
    # Fewer than half of the messages run into the timeout.
    assert log.count("Connection timed out") < len(load.accepted_ids(LIST)) / 2


@pytest.mark.parametrize(
    "behaviour",
    ["closes", "greets-421", "greets-554", "greets-and-closes", "mail-451", "rcpt-451"],
)
def test_second_next_hop_is_used_at_once_after_a_temporary_failure(
    bed: Bed, behaviour: str
) -> None:
    """Temporary are a 4xx in any phase, a 5xx greeting, and a lost connection."""
    outcome = beside(bed, behaviour)
    assert (outcome.status, outcome.relay) == ("sent", f"10.77.0.3[10.77.0.3]:{PORT}")


@pytest.mark.parametrize("behaviour", ["rcpt-550", "lhlo-500"])
def test_permanent_refusal_by_the_first_next_hop_bounces(bed: Bed, behaviour: str) -> None:
    """Postfix does not try the second, so both servers must have the same lists."""
    outcome = beside(bed, behaviour)
    assert outcome.status == "bounced"
    assert outcome.relay.startswith("127.0.0.1")


def beside(bed: Bed, behaviour: str) -> Outcome:
    """Return a message's outcome with a server of this behaviour as the first next hop."""

    async def run() -> Outcome:
        async with rogue(ROGUES[behaviour]) as (host, port):
            bed.route(ants=f"lmtp:[{host}]:{port}, {bed.hop('mm2')}")
            return await asyncio.to_thread(bed.outcome)

    with bed.network["mx"].inside():
        return asyncio.run(run())


def test_mail_is_deferred_with_the_last_reason_if_both_are_down(bed: Bed) -> None:
    bed.route(ants=f"lmtp:{bed.hop('mm1', NOBODY)}, {bed.hop('mm2', NOBODY)}")
    outcome = bed.outcome()
    assert (outcome.status, outcome.relay) == ("deferred", "none")
    assert outcome.text == f"connect to 10.77.0.3[10.77.0.3]:{NOBODY}: Connection refused"
    (deferred,) = bed.postfix.queue()
    assert deferred["recipients"] == [{"address": LIST, "delay_reason": outcome.text}]
    bed.postfix.command("postsuper", "-d", "ALL")


def test_unknown_name_as_the_last_next_hop_bounces(bed: Bed) -> None:
    """mm1 alone would defer the message: a name must resolve before it is used in a route."""
    bed.route(ants=f"lmtp:{bed.hop('mm1', NOBODY)}, [nowhere]:{PORT}")
    outcome = bed.outcome()
    assert (outcome.status, outcome.text) == (
        "bounced",
        "unable to look up host nowhere: Name or service not known",
    )


def test_transport_named_twice_ends_lmtp_for_all_lists(bed: Bed) -> None:
    """Such a route works until the first next hop is down; then lmtp(8) exits with an error."""
    bed.route(ants=f"lmtp:{bed.hop('mm1')}, lmtp:{bed.hop('mm2')}", bees=f"lmtp:{bed.hop('mm2')}")
    assert bed.outcome().status == "sent"
    bed.route(
        ants=f"lmtp:{bed.hop('mm1', NOBODY)}, lmtp:{bed.hop('mm2')}", bees=f"lmtp:{bed.hop('mm2')}"
    )
    with bed.network["mx"].inside():
        assert send(bed.postfix.port, LIST).accepted
        wait_for(lambda: "throttling" in bed.postfix.log, PATIENCE, "the end of lmtp(8)")
        assert "valid hostname or network address required in server desc" in bed.postfix.log
        # master(8) starts no other lmtp(8) for a minute.
        other = send(bed.postfix.port, OTHER)
        assert other.accepted
        wait_for(
            lambda: [
                message["queue_id"]
                for message in bed.postfix.queue()
                if message["queue_name"] == "active"
            ],
            PATIENCE,
            "a message that stays in the active queue",
        )
        bed.postfix.command("postsuper", "-d", "ALL")
        bed.postfix.stop()
        assert not [entry for entry in bed.postfix.outcomes() if entry.queue_id in other.last.text]
        bed.postfix.start()
