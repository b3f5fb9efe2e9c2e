"""Servers with false replies, floods, or no SSH: each fetch ends in time with a known error."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from postfix_sync.errors import NotPermitted, OutOfReach, Refused, SyncError
from tests.parts.lmtp_rogues import rogue
from tests.parts.source_content import Contents, fetch
from tests.parts.ssh_rogues import (
    BANNERS,
    Generous,
    Honest,
    Rude,
    Stingy,
    ends,
    floods,
    mute,
    mute_at,
    sftp_rogue,
    sized,
    subsystem_rogue,
)
from tests.parts.ssh_source import Far, closing, failed, refusal, rewrite_names, run

pytestmark = pytest.mark.slow


def test_server_that_skips_authentication_is_refused(far: Far) -> None:
    """It may forward the session to another server (asyncssh's disable_trivial_auth)."""

    class Open(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    async def session() -> SyncError:
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Open, server_host_keys=[str(far.sshd.host_key())]
        )
        port = server.get_port()
        rewrite_names(far, f"[127.0.0.1]:{port}")
        async with closing(far.source(port=port)) as source:
            error = await refusal(source)
        server.close()
        await server.wait_closed()
        return error

    error = run(session())
    assert type(error) is NotPermitted
    assert "refuses user" in error.message


@pytest.mark.attack
@pytest.mark.parametrize("name", sorted(BANNERS))
def test_server_that_does_not_speak_ssh_is_out_of_reach(far: Far, name: str) -> None:
    async def session() -> tuple[SyncError, float]:
        async with rogue(BANNERS[name]) as (_, port):
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port, connect_timeout=1.0)) as source:
                began = time.monotonic()
                return await refusal(source), time.monotonic() - began

    error, seconds = run(session())
    assert type(error) is OutOfReach
    assert error.message.isprintable()
    assert len(error.message) < 250
    assert seconds < 2


@pytest.mark.attack
def test_server_without_a_greeting_is_reported_as_such(far: Far) -> None:
    async def session(name: str) -> str:
        async with rogue(BANNERS[name]) as (_, port):
            source = far.source(port=port, connect_timeout=0.3)
            return (await refusal(source)).message

    began = time.monotonic()
    assert "no answer before its greeting within 0.3 s" in run(session("silent"))
    assert time.monotonic() - began < 5
    far.sshd.freeze()
    error = failed(far.source(connect_timeout=0.3))
    assert "no answer before its greeting within 0.3 s" in error.message


def lying(far: Far, server: type[asyncssh.SFTPServer], **changed: Any) -> SyncError:
    """Return the error of a fetch from such a server."""

    async def session() -> SyncError:
        async with sftp_rogue(server, far.files.directory, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            path = Path("/")
            async with closing(far.source(port=port, path=path, **changed)) as source:
                return await refusal(source)

    began = time.monotonic()
    error = run(session())
    assert time.monotonic() - began < 7
    assert error.message.isprintable()
    assert len(error.message) < 300
    return error


@pytest.mark.attack
def test_honest_rogue_server_is_fetched_without_an_error(far: Far) -> None:
    async def session() -> Contents | None:
        async with sftp_rogue(Honest, far.files.directory, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port, path=Path("/"))) as source:
                return await fetch(source)

    assert run(session())


@pytest.mark.parametrize("request_", ["lstat", "open", "fstat", "read", "close"])
def test_missing_reply_times_out(far: Far, impatient: None, request_: str) -> None:
    error = lying(far, mute_at(request_))
    assert type(error) is OutOfReach
    assert "no answer for 0.5 s" in error.message


@pytest.mark.parametrize("change", [lambda size: size + 10, lambda size: size - 10])
def test_wrong_size_is_reported_as_files_that_change(
    far: Far, change: Callable[[int], int]
) -> None:
    """To a client, the file seems to change continuously."""
    error = lying(far, sized(change))
    assert type(error) is OutOfReach
    assert "change faster than they can be read" in error.message


def test_size_beyond_the_limit_is_refused(far: Far) -> None:
    error = lying(far, sized(lambda size: 2**62))
    assert type(error) is Refused


def test_more_data_than_requested_is_refused(far: Far) -> None:
    error = lying(far, Generous)
    assert type(error) is OutOfReach
    assert "sends more than was requested" in error.message or "was not requested" in error.message


class Chatty(Honest):
    """Sends 2 MiB of unrequested data once the files have been read."""

    def lstat(self, path: bytes) -> Any:
        if self.opened and path.endswith(b"postfix_lmtp"):
            for _ in range(64):
                self.channel.get_connection().send_debug("x" * 2**15)
        return super().lstat(path)


def test_allowance_of_a_large_file_ends_with_it(far: Far) -> None:
    """The allowance beyond a file's size is for that file alone."""
    far.grow(2**25)
    assert "was not requested" in lying(far, Chatty).message


def test_blocks_sent_byte_by_byte_time_out(far: Far, impatient: None) -> None:
    """Each byte arrives in time, but the block does not."""
    assert "no answer for 0.5 s" in lying(far, Stingy).message


def test_announced_blocks_of_one_byte_time_out(
    far: Far, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """limits@openssh.com may announce them; only a larger block extends the deadline."""
    monkeypatch.setattr(asyncssh.sftp, "MAX_SFTP_READ_LEN", 1)
    far.grow(200)
    assert "no answer for 0.5 s" in lying(far, Stingy).message


def test_control_characters_of_the_server_are_quoted(far: Far) -> None:
    error = lying(far, Rude)
    assert type(error) is OutOfReach
    assert '"\\x1b[2J' in error.message


@pytest.mark.attack
@pytest.mark.parametrize(
    ("say", "kind", "message"),
    [
        (mute, OutOfReach, "no answer while starting SFTP within 1 s"),
        (ends, NotPermitted, 'what comes is not SFTP: "This account is currently not available.'),
    ],
)
def test_subsystem_that_is_not_sftp_is_named(
    far: Far, say: Any, kind: type[SyncError], message: str
) -> None:
    async def session() -> SyncError:
        async with subsystem_rogue(say, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port, connect_timeout=1.0)) as source:
                return await refusal(source)

    began = time.monotonic()
    error = run(session())
    assert time.monotonic() - began < 5
    assert type(error) is kind
    assert message in error.message


@pytest.mark.attack
def test_packet_of_four_gigabytes_is_refused(far: Far) -> None:
    """Newer versions of asyncssh refuse the packet; older ones would wait for all of it."""

    async def session() -> SyncError:
        async with subsystem_rogue(floods, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port)) as source:
                return await refusal(source)

    began = time.monotonic()
    error = run(session())
    assert isinstance(error, OutOfReach | NotPermitted)
    assert time.monotonic() - began < 5
