"""Recovery with a real Postfix and its real queue: what is delivered at once, and what is left.

One Postfix for all tests, with the backoff that Postfix is shipped with: what is delivered within
seconds after it had been deferred was delivered because of a postqueue -i.
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
from tests.parts.lmtp_sink import LOAD_ID, LmtpSink
from tests.parts.postfix_instance import SENDER, Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
ELSEWHERE = "someone@elsewhere.example"
BACK = "up again; retrying"
MANY = 300


class Parts:
    """A Postfix whose maps lead to a sink, and for ELSEWHERE to nobody."""

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
        """What status.json says of the sink; nothing before it does."""
        with suppress(FileNotFoundError):
            found: dict[str, object] = self.site.status()["destinations"].get(self.endpoint, {})
            return found
        return {}

    @property
    def endpoint(self) -> str:
        """The sink's."""
        return f"127.0.0.1:{self.sink.port}"

    def queued(self, *recipients: str) -> str:
        """Send a message, and wait until its first tries have failed; its queue id."""
        queue_id = self.send(*recipients)
        wait_for(lambda: self.queue_name(queue_id) == "deferred", PATIENCE, "a first try")
        return queue_id

    def send(self, *recipients: str) -> str:
        """Send a message; its queue id."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port) as client:
            client.mail(SENDER)
            for one in recipients:
                assert client.rcpt(one)[0] == 250
            _, reply = client.data("Subject: one of many\n\nWaits.\n")
        return reply.decode().rpartition(" ")[2]

    def send_many(self, recipient: str, count: int) -> None:
        """Send so many messages, each with its number as the X-Load-Id."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port) as client:
            for number in range(count):
                client.sendmail(SENDER, [recipient], f"{LOAD_ID}: {number}\n\nWaits.\n")

    def count(self, *names: str) -> int:
        """How many messages are in these queues."""
        return sum(one["queue_name"] in names for one in self.postfix.queue())

    def queue_name(self, queue_id: str) -> str:
        """In which queue it is; empty: it was delivered."""
        return next(
            (one["queue_name"] for one in self.postfix.queue() if one["queue_id"] == queue_id), ""
        )

    def tries(self, queue_id: str) -> list[Outcome]:
        """What became of its recipients, try by try."""
        return [one for one in self.postfix.outcomes() if one.queue_id == queue_id]

    def suspended(self, queue_id: str) -> bool:
        """Postfix did not even try: it takes the destination for dead."""
        return self.tries(queue_id)[0].text.startswith("delivery temporarily suspended")

    def wait_until_delivered(self, *queue_ids: str) -> None:
        """Wait until they have left the queue, and were not returned."""
        wait_for(lambda: not any(map(self.queue_name, queue_ids)), PATIENCE, "a delivery")
        assert {self.tries(one)[-1].status for one in queue_ids} == {"sent"}


@pytest.fixture(scope="module")
def running() -> Iterator[Parts]:
    """The parts with Postfix running, and the maps installed."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    with public_directory() as directory:
        parts = Parts(directory)
        parts.site.once(expect=69)
        with parts.postfix:
            yield parts


@pytest.fixture
def parts(running: Parts) -> Iterator[Parts]:
    """With an empty queue, an empty status, and a sink that is down."""
    running.site.configure()
    running.postfix.reload()  # or it may still take the sink for dead
    (running.site.state / "status.json").unlink(missing_ok=True)
    try:
        yield running
    finally:
        running.sink.stop()
        running.postfix.command("postsuper", "-d", "ALL")


def test_what_waited_is_delivered_and_nothing_else_is_touched(parts: Parts) -> None:
    """By the daemon, once: not mail on hold, not mail for elsewhere, not at each later probe."""
    waiting = [
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
        parts.wait_until_delivered(*waiting)
        wait_for(lambda: parts.destination["last_flush"], PATIENCE, "a word in the status")
        for _ in range(2):
            daemon.look()  # probes as well
        assert [line for line in daemon.messages if BACK in line] == [
            f"destination {parts.endpoint}: {BACK} 4 deferred messages"
        ]
        assert daemon.stop() == 0
    assert parts.queue_name(held) == "hold"
    assert len(parts.tries(elsewhere)) == 1
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # A message is tried as a whole: that is what a second recipient elsewhere costs.
    assert [(one.recipient, one.status) for one in parts.tries(both)].count((ANTS, "sent")) == 1


def test_new_mail_is_not_held_up_either(parts: Parts) -> None:
    """By itself qmgr(8) takes the destination for dead for five minutes, and does not try it."""
    parts.site.once(expect=69)
    for _ in range(20):  # one failure does not make it dead, nor do several after one another
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


def test_what_failed_before_a_restart_is_made_up_for(parts: Parts) -> None:
    """Whoever saw it down, and whoever sees it up: here 451, as where Mailman's database is away.

    And as long as it is up, mail that is put off for another reason is left to Postfix.
    """
    parts.sink.start()
    parts.sink.busy(ANTS, BEES)
    parts.site.once(expect=69)
    waiting = [parts.queued(ANTS), parts.queued(BEES)]
    parts.sink.busy(BEES)
    with RunningDaemon(parts.site) as daemon:
        parts.wait_until_delivered(waiting[0])
        wait_for(lambda: len(parts.tries(waiting[1])) == 2, PATIENCE, "a second try")
        wait_for(lambda: parts.destination["last_flush"], PATIENCE, "a word in the status")
        for _ in range(2):
            daemon.look()
        assert daemon.stop() == 0
    for _ in range(2):
        parts.site.once()
    assert len(parts.tries(waiting[1])) == 2


def test_away_between_two_probes(parts: Parts) -> None:
    """No probe has ever failed, but Postfix has not reached it: Mailman was restarted, say."""
    waiting = parts.queued(ANTS)
    parts.sink.start()
    parts.sink.busy(BEES)
    busy = parts.queued(BEES)
    with RunningDaemon(parts.site) as daemon:
        parts.wait_until_delivered(waiting)
        wait_for(lambda: parts.destination["last_flush"], PATIENCE, "a word in the status")
        assert parts.destination["last_failure"] is None
        for _ in range(2):
            daemon.look()
        assert daemon.count(BACK) == 1
        assert daemon.stop() == 0
    assert len(parts.tries(busy)) == 1


def test_away_again_within_a_minute(parts: Parts) -> None:
    """It is seen to as soon as the minute is over, and not at the next probe."""
    parts.site.configure(probe={"level": "rcpt", "interval": "1h"})
    parts.site.once(expect=69)
    waiting = parts.queued(ANTS)
    parts.sink.start()
    status = parts.site.status()
    of_sink = status["destinations"][parts.endpoint]
    of_sink["last_flush"] = of_sink["last_failure"] = iso(time.time() - AGAIN + 8)
    (parts.site.state / "status.json").write_text(json.dumps(status))
    with RunningDaemon(parts.site) as daemon:
        wait_for(lambda: parts.destination.get("up"), PATIENCE, "up")
        parts.wait_until_delivered(waiting)
        assert daemon.count(BACK) == 1
        assert daemon.stop() == 0


def test_ended_in_the_middle(parts: Parts) -> None:
    """What was not tried yet is tried after the next start; nothing is delivered twice."""
    parts.site.once(expect=69)
    parts.send_many(ANTS, MANY)
    wait_for(lambda: parts.count("deferred") == MANY, PATIENCE, "first tries")
    parts.sink.start()
    with RunningDaemon(parts.site) as daemon:
        daemon.wait_for(BACK)
        assert daemon.stop() == 0
    wait_for(lambda: not parts.count("active", "incoming"), PATIENCE, "an end of what was begun")
    left = parts.count("deferred")
    assert (parts.destination["last_flush"] is None) == bool(left)
    with RunningDaemon(parts.site) as daemon:
        parts.postfix.wait_for_empty_queue(5 * PATIENCE)  # a process for each message
        assert daemon.count(f"{BACK} {left} deferred messages") == bool(left)
        assert daemon.stop() == 0
    numbers = [one.load_id for one in parts.sink.deliveries() if one.load_id]
    assert sorted(numbers, key=int) == [str(number) for number in range(MANY)]


def test_a_destination_in_doubt_is_asked_again_soon(parts: Parts) -> None:
    """Not an hour later: whether it is down after all, and then whether it is back."""
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


def test_not_where_the_configuration_says_so(parts: Parts) -> None:
    waiting = parts.queued(ANTS)
    parts.site.configure(probe={**parts.site.options["probe"], "flush": False})
    parts.site.once(expect=69)
    parts.sink.start()
    parts.site.once()
    with RunningDaemon(parts.site) as daemon:
        daemon.wait_for_passes(1)
        for _ in range(2):
            daemon.look()
        assert daemon.stop() == 0
    assert len(parts.tries(waiting)) == 1
    assert parts.destination["last_flush"] is None


def test_a_postqueue_that_fails_is_told_and_tried_again(parts: Parts) -> None:
    waiting = parts.queued(ANTS)
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
    parts.wait_until_delivered(waiting)


MakeSite = Callable[..., Site]


def test_a_postfix_that_is_stopped_is_no_error(make_site: MakeSite) -> None:
    """It tries what waits when it starts; until then it stays to be done."""
    with LmtpSink([ANTS]) as sink:
        site = make_site(options={"probe": {"level": "rcpt", "timeout": "20s"}})
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        sink.stop()
        site.once(expect=69)
        sink.start()
        assert "error" not in site.once()
        [found] = site.status()["destinations"].values()
        assert (found["up"], found["last_flush"]) == (True, None)
