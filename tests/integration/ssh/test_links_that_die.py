"""Servers and links that freeze or die: the fetch ends in time, and the next one reconnects."""

import asyncio
import time

import pytest

from postfix_sync.errors import OutOfReach
from postfix_sync.model.destination import Peer
from postfix_sync.sources import ssh_session
from tests.parts.slow_link import Link
from tests.parts.ssh_source import BEES, BIG, Far, closing, refusal, run, until

pytestmark = pytest.mark.slow


def test_server_frozen_between_two_fetches_times_out_and_is_reconnected(
    far: Far, impatient: None
) -> None:
    """The kept connection is given up, a new one is tried; and all is well when it thaws."""

    async def session() -> None:
        async with closing(far.source(connect_timeout=0.5)) as source:
            assert await source.fetch()
            far.sshd.freeze()
            began = time.monotonic()
            error = await refusal(source)
            assert "no answer before its greeting within 0.5 s" in error.message
            assert time.monotonic() - began < 2
            far.sshd.thaw()
            source.forget()
            assert await source.fetch()

    run(session())


def test_server_frozen_during_a_transfer_times_out(counted: Far, impatient: None) -> None:
    counted.grow()

    async def session() -> None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            counted.sshd.freeze()
            began = time.monotonic()
            with pytest.raises(OutOfReach, match=r"no answer for 0\.5 s"):
                await fetching
            assert time.monotonic() - began < 5
            counted.sshd.thaw()
            assert await source.fetch()

    run(session())


def test_server_killed_during_a_transfer_is_a_lost_connection(counted: Far) -> None:
    counted.grow()

    async def session() -> None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            counted.sshd.kill_sessions()
            with pytest.raises(OutOfReach, match="connection lost"):
                await fetching
            assert await source.fetch()

    run(session())


def test_a_restarted_server_is_connected_to_at_once(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.restart()
            far.files.write(BEES)
            assert await source.fetch()
            far.sshd.kill_sessions()
            assert await source.fetch() is None

    run(session())


def test_a_connection_that_dies_at_the_question_is_made_anew(far: Far) -> None:
    """Nobody has told this side yet that it is dead."""

    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.kill_sessions()
            assert await source.fetch() is None  # without a turn of the event loop in between
            # Whoever asked goes on as before, and does not count as cancelled.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()

    run(session())


def test_server_that_is_down_is_refused_until_it_returns(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.stop()
            for _ in range(2):
                error = await refusal(source)
                assert "Connection refused" in error.message
            far.sshd.start()
            assert await source.fetch() is None

    run(session())


def test_one_connection_is_kept(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert source.peer is None
            for _ in range(4):
                await source.fetch()
                source.forget()
            assert source.peer == Peer(("127.0.0.1",))
            assert far.sshd.log_text().count("Connection from") == 1
        await until(lambda: not far.sshd.sessions(), "the end of the session")
        assert "Disconnected from user root" in far.sshd.log_text()

    run(session())


@pytest.mark.parametrize("asked", [0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6])
def test_a_cancelled_fetch_leaves_nothing(far: Far, asked: float) -> None:
    """At whatever point it is: `run` looks for what is left."""
    far.grow(4 * BIG)  # which takes longer than any of these

    async def session() -> None:
        async with closing(far.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await asyncio.sleep(asked)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
        await until(lambda: not far.sshd.sessions(), "the end of the session")

    run(session())


def test_closing_does_not_wait_for_a_frozen_server(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.freeze()

    run(session())


def test_link_that_drops_packets_times_out(
    far: Far, slow_link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word from anybody: nothing says that the connection is gone."""
    monkeypatch.setattr(ssh_session, "READ_TIMEOUT", 2.0)

    async def session() -> None:
        async with closing(far.source(port=slow_link.port, connect_timeout=3.0)) as source:
            assert await source.fetch()
            slow_link.drop = True
            began = time.monotonic()
            error = await refusal(source)
            assert type(error) is OutOfReach
            assert "no answer before its greeting within 3 s" in error.message
            assert time.monotonic() - began < 7
            slow_link.drop = False
            source.forget()
            assert await source.fetch()

    run(session())
