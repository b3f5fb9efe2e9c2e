"""Recovery with a real Postfix and its real queue: which deferred mail is delivered at once.

All tests use one Postfix, with its default backoff times: mail that is delivered within seconds
after it was deferred was delivered because of a flush.
"""

import json
import os
import shutil
import smtplib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from postfix_sync.probe.flush import AGAIN
from postfix_sync.text import iso
from tests.conftest import need
from tests.parts.common import PATIENCE, free_port, public_directory, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.hanging_flush import flush_that_hangs
from tests.parts.lmtp_sink import LOAD_ID, LmtpSink
from tests.parts.postfix_instance import SENDER, Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
ELSEWHERE = "someone@elsewhere.example"
BACK = "up again; retrying"
MANY, LEFT = 300, 100


class Parts:
    """A Postfix whose maps route lists to a sink, and ELSEWHERE to a closed port."""

    def __init__(self, directory: Path) -> None:
        own = mailman_parameters(directory / "maps", "lmdb")
        hop = f"lmtp:[127.0.0.1]:{free_port()}"
        self.sink = LmtpSink([ANTS, BEES])
        self.site = Site(
            directory,
            directory / "postfix/etc",
            "lmdb",
            source={"interval": "1h"},
            options={"probe": {"level": "rcpt", "interval": "200ms", "timeout": "20s"}},
        )
        self.site.hosts.write_text("127.0.0.1 localhost\n")
        self.site.files.write(ANTS, BEES, hop=f"lmtp:[127.0.0.1]:{self.sink.port}")
        self.postfix = PostfixInstance(
            directory / "postfix",
            main_cf={
                "enable_long_queue_ids": "yes",
                "transport_maps": f"{own['transport_maps']}, inline:{{{ELSEWHERE}={hop}}}",
                "relay_domains": f"{own['relay_domains']}, elsewhere.example",
                "relay_recipient_maps": (
                    f"{own['relay_recipient_maps']}, inline:{{{ELSEWHERE}=ok}}"
                ),
            },
        )

    @property
    def destination(self) -> dict[str, object]:
        """Return the sink's entry in status.json, or an empty one."""
        with suppress(FileNotFoundError):
            found: dict[str, object] = self.site.status()["destinations"].get(self.endpoint, {})
            return found
        return {}

    @property
    def endpoint(self) -> str:
        """Return the sink's endpoint."""
        return f"127.0.0.1:{self.sink.port}"

    def queued(self, *recipients: str) -> str:
        """Send a message, wait until its first attempts have failed; return its queue id."""
        queue_id = self.send(*recipients)
        wait_for(lambda: self.queue_name(queue_id) == "deferred", PATIENCE, "a first try")
        return queue_id

    def send(self, *recipients: str) -> str:
        """Send a message; return its queue id."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port) as client:
            client.mail(SENDER)
            for recipient in recipients:
                assert client.rcpt(recipient)[0] == 250
            _, reply = client.data("Subject: one of many\n\nWaits.\n")
        return reply.decode().rpartition(" ")[2]

    def send_many(self, recipient: str, count: int) -> None:
        """Send `count` messages, each with its number as the X-Load-Id."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port) as client:
            for number in range(count):
                client.sendmail(SENDER, [recipient], f"{LOAD_ID}: {number}\n\nWaits.\n")

    def count(self, *names: str) -> int:
        """Return the number of messages in these queues."""
        return sum(message["queue_name"] in names for message in self.postfix.queue())

    def queue_name(self, queue_id: str) -> str:
        """Return the name of the queue with this message; empty if it was delivered."""
        return next(
            (
                message["queue_name"]
                for message in self.postfix.queue()
                if message["queue_id"] == queue_id
            ),
            "",
        )

    def tries(self, queue_id: str) -> list[Outcome]:
        """Return the outcomes of the message's delivery attempts."""
        return [outcome for outcome in self.postfix.outcomes() if outcome.queue_id == queue_id]

    def suspended(self, queue_id: str) -> bool:
        """Return whether Postfix made no attempt, because it considers the destination dead."""
        return self.tries(queue_id)[0].text.startswith("delivery temporarily suspended")

    def wait_until_delivered(self, *queue_ids: str) -> None:
        """Wait until the messages have left the queue, and check that they were not returned."""
        wait_for(lambda: not any(map(self.queue_name, queue_ids)), PATIENCE, "a delivery")
        assert {self.tries(queue_id)[-1].status for queue_id in queue_ids} == {"sent"}


@pytest.fixture(scope="module")
def running() -> Iterator[Parts]:
    """The parts, with Postfix running and the maps installed."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    with public_directory() as directory:
        parts = Parts(directory)
        parts.site.once(expect=69)
        with parts.postfix:
            yield parts


@pytest.fixture
def parts(running: Parts) -> Iterator[Parts]:
    """The parts, with an empty queue, an empty status, and a sink that is down."""
    running.site.configure()
    running.postfix.reload()  # otherwise it may still consider the sink dead
    (running.site.state / "status.json").unlink(missing_ok=True)
    try:
        yield running
    finally:
        running.sink.stop()
        running.postfix.command("postsuper", "-d", "ALL")


def test_deferred_mail_is_delivered_after_recovery_and_other_mail_is_kept(parts: Parts) -> None:
    """The daemon flushes once: not mail on hold, not mail for elsewhere, not at later probes."""
    deferred = [
        parts.queued(ANTS),
        parts.queued(BEES),
        parts.queued("ants-owner+x@lists.example.net"),
    ]
    elsewhere, held = parts.queued(ELSEWHERE), parts.queued(ANTS)
    both = parts.queued(ANTS, ELSEWHERE)
    parts.postfix.command("postsuper", "-h", held)
    [file] = (parts.postfix.queue_directory / "deferred").rglob(elsewhere)
    before = file.stat()
    parts.sink.accept([ANTS, BEES, "ants-owner@lists.example.net"])
    with RunningDaemon(parts.site) as daemon:
        wait_for(lambda: parts.destination.get("up") is False, PATIENCE, "down")
        parts.sink.start()
        parts.wait_until_delivered(*deferred)
        wait_for(lambda: parts.destination["last_flush"], PATIENCE, "a word in the status")
        for _ in range(2):
            daemon.look()  # includes probes
        assert [line for line in daemon.messages if BACK in line] == [
            f"destination {parts.endpoint}: {BACK} 4 deferred messages"
        ]
        assert daemon.stop() == 0
    assert parts.queue_name(held) == "hold"
    assert len(parts.tries(elsewhere)) == 1
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # Postfix retries all recipients of a message, so the one elsewhere is tried again as well.
    assert [(outcome.recipient, outcome.status) for outcome in parts.tries(both)].count(
        (ANTS, "sent")
    ) == 1


def test_new_mail_is_delivered_at_once_after_recovery(parts: Parts) -> None:
    """Without a flush, qmgr(8) considers the destination dead for five minutes."""
    parts.site.once(expect=69)
    for _ in range(20):  # the destination is dead only after several concurrent failures
        parts.send(ANTS)
    wait_for(lambda: parts.suspended(parts.queued(ANTS)), PATIENCE, "a dead destination")
    parts.sink.start()
    suspended = parts.queued(BEES)
    assert parts.suspended(suspended)
    parts.site.once()
    parts.wait_until_delivered(suspended)
    fresh = parts.send(BEES)
    parts.wait_until_delivered(fresh)
    assert len(parts.tries(fresh)) == 1


def test_mail_deferred_before_a_restart_is_delivered_after_recovery(parts: Parts) -> None:
    """One process saw the sink down, another sees it up; 451 is as if Mailman's database is down.

    While the sink is up, Postfix itself retries mail that is deferred for another reason.
    """
    parts.sink.start()
    parts.sink.busy(ANTS, BEES)
    parts.site.once(expect=69)
    deferred = [parts.queued(ANTS), parts.queued(BEES)]
    parts.sink.busy(BEES)
    with RunningDaemon(parts.site) as daemon:
        parts.wait_until_delivered(deferred[0])
        wait_for(lambda: len(parts.tries(deferred[1])) == 2, PATIENCE, "a second try")
        wait_for(lambda: parts.destination["last_flush"], PATIENCE, "a word in the status")
        for _ in range(2):
            daemon.look()
        assert daemon.stop() == 0
    for _ in range(2):
        parts.site.once()
    assert len(parts.tries(deferred[1])) == 2


def test_mail_deferred_between_two_probes_is_delivered(parts: Parts) -> None:
    """No probe has failed, but Postfix could not connect, for example as Mailman was restarted."""
    deferred = parts.queued(ANTS)
    parts.sink.start()
    parts.sink.busy(BEES)
    busy = parts.queued(BEES)
    with RunningDaemon(parts.site) as daemon:
        parts.wait_until_delivered(deferred)
        wait_for(lambda: parts.destination["last_flush"], PATIENCE, "a word in the status")
        assert parts.destination["last_failure"] is None
        for _ in range(2):
            daemon.look()
        assert daemon.count(BACK) == 1
        assert daemon.stop() == 0
    assert len(parts.tries(busy)) == 1


def test_second_failure_within_a_minute_is_flushed_after_the_minute(parts: Parts) -> None:
    """The flush does not wait for the next probe."""
    parts.site.configure(probe={"level": "rcpt", "interval": "1h"})
    parts.site.once(expect=69)
    deferred = parts.queued(ANTS)
    parts.sink.start()
    status = parts.site.status()
    of_sink = status["destinations"][parts.endpoint]
    of_sink["last_flush"] = of_sink["last_failure"] = iso(time.time() - AGAIN + 8)
    (parts.site.state / "status.json").write_text(json.dumps(status))
    with RunningDaemon(parts.site) as daemon:
        wait_for(lambda: parts.destination.get("up"), PATIENCE, "up")
        parts.wait_until_delivered(deferred)
        assert daemon.count(BACK) == 1
        assert daemon.stop() == 0


def test_flush_that_a_stop_interrupts_is_completed_after_the_restart(parts: Parts) -> None:
    """The remaining messages are tried after the restart; no message is delivered twice."""
    parts.site.once(expect=69)
    parts.send_many(ANTS, MANY)
    wait_for(lambda: parts.count("deferred") == MANY, PATIENCE, "first tries")
    parts.sink.start()
    service = parts.postfix.queue_directory / "public/flush"
    with flush_that_hangs(service, MANY - LEFT), RunningDaemon(parts.site) as daemon:
        wait_for(lambda: parts.count("deferred") == LEFT, PATIENCE, "a part of the flush")
        assert daemon.stop() == 0
    wait_for(lambda: not parts.count("active", "incoming"), PATIENCE, "an end of what was begun")
    assert parts.count("deferred") == LEFT
    assert parts.destination["last_flush"] is None
    with RunningDaemon(parts.site) as daemon:
        parts.postfix.wait_for_empty_queue(PATIENCE)
        assert daemon.count(f"{BACK} {LEFT} deferred messages")
        assert daemon.stop() == 0
    numbers = [delivery.load_id for delivery in parts.sink.deliveries() if delivery.load_id]
    assert sorted(numbers, key=int) == [str(number) for number in range(MANY)]


def test_destination_in_doubt_is_probed_again_soon(parts: Parts) -> None:
    """The probes that confirm the failure and the recovery do not wait for the hourly interval."""
    parts.sink.start()
    parts.site.configure(probe={**parts.site.options["probe"], "interval": "1h"})
    with RunningDaemon(parts.site) as daemon:
        wait_for(lambda: parts.destination.get("up"), PATIENCE, "up")
        parts.sink.stop()
        daemon.look()
        wait_for(lambda: parts.destination["failures"], PATIENCE, "a failure")
        daemon.wait_for(f"destination {parts.endpoint}: down: connect")
        assert (parts.destination["up"], parts.destination["failures"]) == (False, 2)
        parts.sink.start()
        daemon.wait_for(f"destination {parts.endpoint}: up")
        assert daemon.stop() == 0


def test_mail_is_not_flushed_if_probe_flush_is_false(parts: Parts) -> None:
    deferred = parts.queued(ANTS)
    parts.site.configure(probe={**parts.site.options["probe"], "flush": False})
    parts.site.once(expect=69)
    parts.sink.start()
    parts.site.once()
    with RunningDaemon(parts.site) as daemon:
        daemon.wait_for_passes(1)
        for _ in range(2):
            daemon.look()
        assert daemon.stop() == 0
    assert len(parts.tries(deferred)) == 1
    assert parts.destination["last_flush"] is None


def test_failed_postqueue_is_reported_and_retried(parts: Parts) -> None:
    deferred = parts.queued(ANTS)
    parts.site.once(expect=69)
    parts.sink.start()
    service = parts.postfix.queue_directory / "public/flush"
    hidden = service.rename(service.with_name("hidden"))
    try:
        said = parts.site.once(expect=1)
    finally:
        hidden.rename(service)
    assert "postqueue -i: " in said
    assert "public/flush" in said
    assert parts.destination["last_flush"] is None
    parts.site.once()
    parts.wait_until_delivered(deferred)


MakeSite = Callable[..., Site]


def test_stopped_postfix_is_not_an_error(make_site: MakeSite) -> None:
    """Postfix retries deferred mail when it starts; until then the flush stays pending."""
    with LmtpSink([ANTS]) as sink:
        site = make_site(options={"probe": {"level": "rcpt", "timeout": "20s"}})
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        sink.stop()
        site.once(expect=69)
        sink.start()
        assert "error" not in site.once()
        [found] = site.status()["destinations"].values()
        assert (found["up"], found["last_flush"]) == (True, None)
