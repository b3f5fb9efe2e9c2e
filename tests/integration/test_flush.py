"""Deferred messages that flush(8) or postqueue(1) retries, with a real Postfix."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from postfix_sync.errors import ApplyError
from postfix_sync.postfix import mail_queue
from postfix_sync.postfix.instance import mail_queue_of
from postfix_sync.postfix.mail_queue import MailQueue
from postfix_sync.probe import flush
from tests.conftest import need
from tests.parts.common import PATIENCE, free_port, public_directory, wait_for
from tests.parts.postfix_instance import SENDER, PostfixInstance

pytestmark = pytest.mark.slow

ANTS = "ants@lists.example.net"
PORT = free_port()
HUNDREDS = 300


@pytest.fixture(scope="module")
def running() -> Iterator[PostfixInstance]:
    """A Postfix that routes a list to PORT, where nothing listens."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("smtp-source", path="/usr/sbin:/usr/bin"), "Postfix")
    with public_directory() as directory:
        parameters = {
            "transport_maps": f"inline:{{{ANTS}=lmtp:[127.0.0.1]:{PORT}}}",
            "relay_domains": "lists.example.net",
            "relay_recipient_maps": f"inline:{{{ANTS}=ok}}",
        }
        with PostfixInstance(directory / "postfix", main_cf=parameters) as postfix:
            yield postfix


@pytest.fixture
def postfix(running: PostfixInstance) -> Iterator[PostfixInstance]:
    """The Postfix with an empty queue, and no destination that it takes for dead."""
    running.reload()
    yield running
    running.command("postsuper", "-d", "ALL")


@pytest.fixture
def mail(postfix: PostfixInstance) -> MailQueue:
    """The mail queue of that Postfix."""
    return asyncio.run(mail_queue_of(postfix.config_directory))


def deferred(postfix: PostfixInstance) -> list[str]:
    """Return the queue ids of the deferred messages."""
    return [found["queue_id"] for found in postfix.queue() if found["queue_name"] == "deferred"]


def defer(postfix: PostfixInstance, count: int) -> list[str]:
    """Send messages to the list, and wait until all are deferred; return their queue ids."""
    subprocess.run(
        [
            *("smtp-source", "-s", "2", "-m", str(count)),
            *("-f", SENDER, "-t", ANTS, f"127.0.0.1:{postfix.port}"),
        ],
        env={"MAIL_CONFIG": str(postfix.config_directory), "PATH": "/usr/sbin:/usr/bin"},
        check=True,
    )
    wait_for(lambda: len(deferred(postfix)) == count, PATIENCE, "first tries")
    return deferred(postfix)


def tries(postfix: PostfixInstance, queue_ids: list[str]) -> set[int]:
    """Return how often these messages were tried."""
    tried = [outcome.queue_id for outcome in postfix.outcomes()]
    return {tried.count(queue_id) for queue_id in queue_ids}


def test_messages_are_retried_without_a_process_for_each(
    postfix: PostfixInstance, mail: MailQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_queue, "run", None)
    *ids, other, held = defer(postfix, HUNDREDS)
    postfix.command("postsuper", "-h", held)
    asyncio.run(mail.deliver_now([*ids, held, "4zzzzzzzzzzzzzz"]))
    wait_for(lambda: tries(postfix, ids) == {2}, PATIENCE, "a second try of each")
    assert tries(postfix, [other, held]) == {1}


def test_postqueue_is_run_if_flush_does_not_answer_as_expected(
    postfix: PostfixInstance, mail: MailQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """showq(8) answers on its socket in another way."""
    monkeypatch.setattr(mail_queue, "FLUSH_SERVICE", "public/showq")
    ids = defer(postfix, 10)
    asyncio.run(mail.deliver_now(ids))
    wait_for(lambda: tries(postfix, ids) == {2}, PATIENCE, "a second try of each")


def test_stopped_postfix_is_an_error_of_a_retry(mail: MailQueue, postfix: PostfixInstance) -> None:
    ids = defer(postfix, 1)
    postfix.stop()
    try:
        with pytest.raises(ApplyError, match=r"postqueue -i: .*mail system is down"):
            asyncio.run(mail.deliver_now(ids))
    finally:
        postfix.start()


def test_large_backlog_is_retried_in_parts(
    postfix: PostfixInstance, mail: MailQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination accepts connections and does not greet, so qmgr(8) keeps what it has."""
    for name, value in {"IN_PROGRESS": 20, "BATCH": 10, "ROOM_POLL": 0.05}.items():
        monkeypatch.setattr(mail_queue, name, value)
    *first, last = ids = defer(postfix, 60)
    tried: dict[str, set[str]] = {}
    with socket.create_server(("127.0.0.1", PORT), backlog=100):
        until = time.monotonic() + 2
        found = {"x:1": first[:40], "y:1": [*first[40:], last]}
        asyncio.run(flush._deliver_fresh(mail, found, tried, lambda _: time.monotonic() < until))
        # Each destination has its share, although neither has room for more.
        assert asyncio.run(mail.in_progress(frozenset(first[:40]))) == 10
        assert asyncio.run(mail.in_progress(frozenset([*first[40:], last]))) == 10
        assert len(deferred(postfix)) == 40
        # Without room for longer than ROOM_WAIT, it continues.
        monkeypatch.setattr(mail_queue, "ROOM_WAIT", 0.2)
        asyncio.run(flush._deliver_fresh(mail, found, {}, lambda _: True))
        assert asyncio.run(mail.in_progress(frozenset(ids))) == 60


def test_listing_that_fails_is_an_error(mail: MailQueue, tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match=r"postqueue -j: postqueue: .*main\.cf: No such file"):
        asyncio.run(replace(mail, config_directory=tmp_path).messages())


def test_listing_that_takes_too_long_is_an_error(
    mail: MailQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_queue, "COMMAND_TIMEOUT", 0.0)
    with pytest.raises(ApplyError, match="postqueue -j: not done after 0 s; killed"):
        asyncio.run(mail.messages())
