"""doctor's checks of mail: a probe of each destination, and its deferred mail in a real queue."""

import asyncio
import re
import smtplib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.parts.common import PATIENCE, public_directory, wait_for
from tests.parts.doctor import Report, examine
from tests.parts.lmtp_rogues import Behaviour, closes, rogue
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.postfix_instance import SENDER, PostfixInstance, mailman_parameters
from tests.parts.site import Site

ANTS = "ants@lists.example.net"

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]


@pytest.fixture
def sink() -> Iterator[LmtpSink]:
    """An LMTP server that accepts mail for the list; the test starts it."""
    made = LmtpSink([ANTS])
    yield made
    made.stop()


@pytest.fixture
def world(sink: LmtpSink) -> Iterator[tuple[Site, PostfixInstance]]:
    """A running Postfix that routes the list to the sink's port, where nothing listens yet."""
    with public_directory() as directory:
        postfix = PostfixInstance(directory / "postfix")
        site = Site(directory, postfix.config_directory)
        site.hosts.write_text("127.0.0.1 localhost\n")
        site.configure(probe={"level": "rcpt"})
        postfix.postconf(**mailman_parameters(site.maps, "lmdb"))
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        site.once(expect=69)
        with postfix:
            yield site, postfix


def send(postfix: PostfixInstance, number: int) -> None:
    """Send `number` messages to the list, and wait until Postfix has deferred all of them."""
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
        for count in range(number):
            client.sendmail(SENDER, [ANTS], f"Subject: {count}\n\nhello\n")
    wait_for(lambda: all_deferred(postfix), PATIENCE, "all mail deferred")


def all_deferred(postfix: PostfixInstance) -> bool:
    """Whether each message in the queue is deferred."""
    return all(message["queue_name"] == "deferred" for message in postfix.queue())


def make_older(postfix: PostfixInstance) -> None:
    """Date deferred mail back by two hours, in the time record of its queue file."""
    for path in (postfix.queue_directory / "deferred").glob("*/*"):
        dated = re.sub(
            rb"(?<=T.)\d{10}(?= )",
            lambda match: b"%d" % (int(match[0]) - 7200),
            path.read_bytes(),
            count=1,
        )
        with path.open("r+b") as file:
            file.write(dated)


def release(report: Report, name: str) -> None:
    """Run the finding's command, and wait until the mail is delivered and the finding is gone."""
    report.fix(name)
    wait_for(lambda: examine(report.site).status("deferred") == "ok", 60, "an empty queue")
    assert name not in examine(report.site).checks


def test_deferred_mail_is_flushed_by_the_fix_once_mailman_is_up(
    world: tuple[Site, PostfixInstance], sink: LmtpSink
) -> None:
    """Problems 32 and 36: Mailman is up again, and its mail is deferred until the next try."""
    site, postfix = world
    endpoint = f"127.0.0.1:{sink.port}"
    probe, deferred = f"probe:{endpoint}", f"deferred:{endpoint}"
    assert examine(site).status("deferred") == "ok"

    send(postfix, 1)
    report = examine(site)
    assert report.status(probe) == "failure"
    assert "connect: Connection refused" in report[probe]["seen"]
    assert report.status(deferred) == "warning"
    assert report[deferred]["seen"].startswith(
        "1 message waits, the oldest for 0 min; Postfix says:"
    )
    assert (
        f"connect to 127.0.0.1[127.0.0.1]:{sink.port}: Connection refused"
        in report[deferred]["seen"]
    )
    assert report[deferred]["fix"] is None
    assert probe in report[deferred]["why"], "Mailman has to be fixed first"
    make_older(postfix)
    report = examine(site)
    assert report.status(deferred) == "failure"
    assert ", the oldest for 120 min; " in report[deferred]["seen"]

    sink.start()
    report = examine(site)
    assert report.status(probe) != "failure"
    [message] = postfix.queue()
    expected = f"postqueue -c {postfix.config_directory} -i {message['queue_id']}"
    assert report[deferred]["fix"] == expected
    release(report, deferred)
    assert len(sink.deliveries()) == 1

    sink.stop()
    send(postfix, 3)
    sink.start()
    report = examine(site)
    assert report[deferred]["seen"].startswith("3 messages wait, ")
    assert report[deferred]["fix"].startswith("for id in ")
    release(report, deferred)
    assert len(sink.deliveries()) == 4

    sink.stop()
    send(postfix, 21)
    sink.start()
    report = examine(site)
    assert report[deferred]["fix"] == f"postqueue -c {postfix.config_directory} -f"
    release(report, deferred)
    assert len(sink.deliveries()) == 25

    sink.stop()
    send(postfix, 1)
    postfix.stop()
    sink.start()
    report = examine(site)
    assert report[deferred]["why"].startswith("Postfix is stopped")
    assert report[deferred]["fix"] is None


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[int]:
    """Run a server with this behaviour in a thread; yield its port."""
    loop = asyncio.new_event_loop()
    ready, ended = threading.Event(), asyncio.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        async with rogue(behaviour) as (_, port):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield port
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def test_connection_closed_without_greeting_is_reported_as_a_proxy(
    make_site: Callable[..., Site],
) -> None:
    """Problem 31: a container's proxy accepts the connection and closes it without a greeting."""
    site = make_site(options={"probe": {"level": "rcpt"}})
    with serving(closes) as port:
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{port}")
        site.once(expect=69)
        report = examine(site)
    found = report[f"probe:127.0.0.1:{port}"]
    assert found["status"] == "failure"
    assert "greeting: the connection was closed without a greeting" in found["seen"]
    assert "proxy" in found["why"]


def test_no_destination_is_probed_if_probes_are_disabled(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.files.write(ANTS)
    site.once()
    report = examine(site)
    assert [name for name in report.checks if name.startswith("probe")] == ["probe"]
    assert report.status("probe") == "ok"
    site.files.write()
    assert examine(site).status("probe") == "ok"
