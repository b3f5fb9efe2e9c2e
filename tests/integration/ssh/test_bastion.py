"""The SSH source through a bastion: both host keys, the bastion's permissions, and failures."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postfix_sync.errors import NotPermitted, OutOfReach
from postfix_sync.sources.sftp import Ssh
from postfix_sync.sources.ssh_login import Jump
from tests.parts.source_content import fetch
from tests.parts.ssh_source import BIG, STAY, Far, by_hand, closing, failed, fetched, refusal, run
from tests.parts.sshd import Sshd

pytestmark = pytest.mark.slow


class Way:
    """A Mailman host behind a bastion, which has an sshd of its own."""

    def __init__(self, directory: Path, options: str, **bastion: Any) -> None:
        """Prepare both hosts; `options` are those of the key on the bastion."""
        self.far = Far(directory)
        self.bastion = Sshd(directory / "bastion", **bastion)
        self.bastion.authorize(self.far.key, options)
        self.bastion.write_known_hosts(self.far.known_hosts)

    def source(self, **changed: Any) -> Ssh:
        """Return the source through the bastion, with these options changed."""
        jump = Jump("127.0.0.1", self.bastion.port, "root")
        return self.far.source(**{"jump": jump, **changed})


@pytest.fixture
def way(directory: Path) -> Iterator[Way]:
    """A Mailman host behind a bastion; both logins work."""
    made = Way(directory, "restrict,port-forwarding")
    with made.far.sshd, made.bastion:
        yield made


def test_fetch_through_a_bastion_reconnects_after_its_end(way: Way) -> None:
    way.far.grow()

    async def session() -> None:
        async with closing(way.source()) as source:
            snapshot = await fetch(source)
            assert snapshot
            assert len(snapshot.lmtp.content) == BIG
            assert source.peer is None
            way.bastion.kill_sessions()
            source.forget()
            assert await fetch(source)

    run(session())
    assert way.bastion.log_text().count("Accepted publickey") == 2


def test_hint_goes_through_bastion_with_the_same_files(way: Way) -> None:
    way.far.sshd.stop()
    error = failed(way.source())
    assert "unreachable from the bastion" in error.message
    assert "open failed: connect failed: Connection refused" in by_hand(error, expect=255)
    way.far.sshd.start()
    by_hand(error, expect=0)


def test_bastion_restricted_to_one_forwarding_is_enough(directory: Path) -> None:
    """The key's options are those of docs/ssh.md."""
    way = Way(directory, "restrict,port-forwarding")
    port = way.far.sshd.port
    way.bastion.add_options("AllowTcpForwarding local", f"PermitOpen 127.0.0.1:{port}")
    way.bastion.add_options("ForceCommand /bin/false", "PermitTTY no")
    with way.far.sshd, way.bastion:
        assert fetched(way.source())
        other = failed(way.source(port=port - 1))
    assert "does not forward to" in other.message


@pytest.mark.parametrize("whose", ["bastion", "host"])
def test_both_host_keys_are_checked(way: Way, whose: str) -> None:
    other = way.far.sshd if whose == "bastion" else way.bastion
    way.far.known_hosts.unlink()
    other.write_known_hosts(way.far.known_hosts)
    error = failed(way.source())
    bastion = f"bastion 127.0.0.1:{way.bastion.port}"
    assert type(error) is NotPermitted
    if whose == "bastion":
        assert error.message.startswith(f"{bastion}: its host key ssh-ed25519")
        assert error.hint.endswith(
            f"ssh-keyscan -p {way.bastion.port} 127.0.0.1 >> {way.far.known_hosts}"
        )
        assert "Accepted" not in way.bastion.log_text()
    else:
        port = way.far.sshd.port
        assert error.message.startswith(
            f"127.0.0.1:{port} (through {bastion}): its host key ssh-ed25519"
        )
        assert f"append what ssh-keyscan -p {port} 127.0.0.1 prints on the {bastion}" in error.hint


def test_login_refused_by_the_bastion_is_named(way: Way) -> None:
    way.bastion.authorized_keys.write_text("")
    error = failed(way.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(
        f'bastion 127.0.0.1:{way.bastion.port}: refuses user "root" with the key ssh-ed25519'
    )


def test_bastion_without_forwarding_is_named(directory: Path) -> None:
    way = Way(directory, "restrict")
    with way.far.sshd, way.bastion:
        error = failed(way.source())
    assert type(error) is NotPermitted
    assert f"bastion 127.0.0.1:{way.bastion.port}: does not forward to 127.0.0.1:" in error.message
    assert "restrict,port-forwarding" in error.hint


def test_host_that_the_bastion_cannot_reach_is_named(way: Way) -> None:
    way.far.sshd.stop()
    error = failed(way.source())
    assert type(error) is OutOfReach
    assert error.message.startswith(f"127.0.0.1:{way.far.sshd.port} (through bastion 127.0.0.1:")
    assert "unreachable from the bastion" in error.message


def test_bastion_that_is_down_is_named(way: Way) -> None:
    way.bastion.stop()
    error = failed(way.source())
    assert type(error) is OutOfReach
    assert error.message == f"bastion 127.0.0.1:{way.bastion.port}: Connection refused; {STAY}"


def test_frozen_bastion_times_out_and_is_reconnected(way: Way, impatient: None) -> None:
    async def session() -> None:
        async with closing(way.source(connect_timeout=0.5)) as source:
            assert await fetch(source)
            way.bastion.freeze()
            error = await refusal(source)
            assert error.message.startswith("bastion ")
            assert "no answer before its greeting" in error.message
            way.bastion.thaw()
            source.forget()
            assert await fetch(source)

    run(session())


def test_frozen_host_behind_a_bastion_times_out(way: Way) -> None:
    way.far.sshd.freeze()
    began = time.monotonic()
    error = failed(way.source(connect_timeout=0.5))
    assert time.monotonic() - began < 5
    assert type(error) is OutOfReach
    assert "no answer before its greeting" in error.message
    assert error.message.startswith("127.0.0.1:")
