"""Servers and links that hang or break: the fetch ends in time, and the next one reconnects."""

import asyncio
import time

import pytest

from postfix_sync.errors import OutOfReach
from postfix_sync.model.destination import Peer
from postfix_sync.sources import ssh_session
from tests.parts.slow_link import Link
from tests.parts.source_content import fetch
from tests.parts.ssh_source import BEES, BIG, Far, closing, refusal, run, until

pytestmark = pytest.mark.slow


def test_server_frozen_between_two_fetches_times_out_and_is_reconnected(
    far: Far, impatient: None
) -> None:
    """The source closes its connection and tries a new one, which works once the server thaws."""

    async def session() -> None:
        async with closing(far.source(connect_timeout=0.5)) as source:
            assert await fetch(source)
            far.sshd.freeze()
            began = time.monotonic()
            error = await refusal(source)
            assert "no answer before its greeting within 0.5 s" in error.message
            assert time.monotonic() - began < 2
            far.sshd.thaw()
            source.forget()
            assert await fetch(source)

    run(session())


def test_server_frozen_during_a_transfer_times_out(counted: Far, impatient: None) -> None:
    counted.grow()

    async def session() -> None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(fetch(source))
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            counted.sshd.freeze()
            began = time.monotonic()
            with pytest.raises(OutOfReach, match=r"no answer for 0\.5 s"):
                await fetching
            assert time.monotonic() - began < 5
            counted.sshd.thaw()
            assert await fetch(source)

    run(session())


def test_server_killed_during_a_transfer_is_a_lost_connection(counted: Far) -> None:
    counted.grow()

    async def session() -> None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(fetch(source))
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            counted.sshd.kill_sessions()
            with pytest.raises(OutOfReach, match="connection lost"):
                await fetching
            assert await fetch(source)

    run(session())


def test_restarted_server_is_reconnected_at_once(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await fetch(source)
            far.sshd.restart()
            far.files.write(BEES)
            assert await fetch(source)
            far.sshd.kill_sessions()
            assert await fetch(source) is None

    run(session())


def test_connection_that_breaks_at_the_request_is_replaced(far: Far) -> None:
    """This side has not noticed the end of the connection yet."""

    async def session() -> None:
        async with closing(far.source()) as source:
            assert await fetch(source)
            far.sshd.kill_sessions()
            assert await fetch(source) is None  # without running the event loop in between
            # The calling task is not left in a cancelled state.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()

    run(session())


def test_server_that_is_down_is_refused_until_it_returns(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await fetch(source)
            far.sshd.stop()
            for _ in range(2):
                error = await refusal(source)
                assert "Connection refused" in error.message
            far.sshd.start()
            assert await fetch(source) is None

    run(session())


def test_fetches_share_one_connection(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert source.peer is None
            for _ in range(4):
                await fetch(source)
                source.forget()
            assert source.peer == Peer(("127.0.0.1",))
            assert far.sshd.log_text().count("Connection from") == 1
        await until(lambda: not far.sshd.sessions(), "the end of the session")
        assert "Disconnected from user root" in far.sshd.log_text()

    run(session())


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6])
def test_cancelled_fetch_leaves_no_task_and_no_connection(far: Far, delay: float) -> None:
    """The fetch is cancelled at different stages; `run` checks what is left."""
    far.grow(4 * BIG)  # takes longer than any of these delays

    async def session() -> None:
        async with closing(far.source()) as source:
            fetching = asyncio.create_task(fetch(source))
            await asyncio.sleep(delay)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
        await until(lambda: not far.sshd.sessions(), "the end of the session")

    run(session())


def test_closing_does_not_wait_for_a_frozen_server(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await fetch(source)
            far.sshd.freeze()

    run(session())


def test_link_that_drops_packets_times_out(
    far: Far, slow_link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packet reports that the connection is broken."""
    monkeypatch.setattr(ssh_session, "READ_TIMEOUT", 2.0)

    async def session() -> None:
        async with closing(far.source(port=slow_link.port, connect_timeout=3.0)) as source:
            assert await fetch(source)
            slow_link.drop = True
            began = time.monotonic()
            error = await refusal(source)
            assert type(error) is OutOfReach
            assert "no answer before its greeting within 3 s" in error.message
            assert time.monotonic() - began < 7
            slow_link.drop = False
            source.forget()
            assert await fetch(source)

    run(session())
