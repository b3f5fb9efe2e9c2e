"""Connections of the SSH source: names, several addresses, and the command in its hint."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from postfix_sync.errors import OutOfReach
from postfix_sync.model.destination import Peer
from postfix_sync.sources.sftp import Ssh
from tests.parts.common import free_port
from tests.parts.source_content import fetch
from tests.parts.ssh_source import STAY, Far, by_hand, closing, failed, rewrite_names, run

pytestmark = pytest.mark.slow


def test_port_without_a_listener_is_reported_as_refused(far: Far) -> None:
    port = free_port()
    error = failed(far.source(port=port))
    assert type(error) is OutOfReach
    assert error.message == f"127.0.0.1:{port}: Connection refused; {STAY}"
    assert "connect to address 127.0.0.1" in by_hand(error, expect=255)


def test_hint_logs_in_as_postfix_sync_does(far: Far) -> None:
    """It uses the source's key and known_hosts, and no file of root's own."""
    far.sshd.stop()
    error = failed(far.source())
    far.sshd.start()
    assert "Sending subsystem: sftp" in by_hand(error, expect=0)
    assert far.sshd.log_text().count("Accepted publickey") == 1
    far.known_hosts.write_text("")
    assert "Host key verification failed" in by_hand(error, expect=255)


def test_unknown_host_name_is_reported(far: Far) -> None:
    error = failed(far.source(host="no-such-host.invalid"))
    assert type(error) is OutOfReach
    assert f"no-such-host.invalid:{far.sshd.port}: name unknown: " in error.message
    assert error.hint == "getent ahosts no-such-host.invalid"


@pytest.fixture
def several(far: Far, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ssh]]:
    """A source at a host with several addresses: `accepts`, `refuses`, `drops` (its packets)."""
    addresses = {"accepts": "127.0.0.1", "refuses": "127.0.0.2", "drops": "127.0.0.3"}
    real = socket.getaddrinfo
    rewrite_names(far, f"[several.example]:{far.sshd.port}")

    def source(*kinds: str, **changed: Any) -> Ssh:
        def found(host: str, *rest: Any, **options: Any) -> list[Any]:
            known = [addresses[kind] for kind in kinds] if host == "several.example" else [host]
            return [info for address in known for info in real(address, *rest, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        return far.source(host="several.example", **changed)

    with ExitStack() as opened:
        hole = (addresses["drops"], far.sshd.port)
        opened.enter_context(socket.create_server(hole, backlog=0))
        for _ in range(4):  # more than the backlog holds
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(hole)
        yield source


@pytest.mark.parametrize("first", ["drops", "refuses"])
def test_one_reachable_address_of_the_host_is_enough(
    several: Callable[..., Ssh], first: str
) -> None:
    async def session() -> Peer | None:
        async with closing(several(first, "accepts", connect_timeout=3.0)) as source:
            assert await fetch(source)
            return source.peer

    assert run(session()) == Peer(("127.0.0.1",))


@pytest.mark.parametrize("kinds", [["drops"], ["drops", "drops"], ["refuses", "drops"]])
def test_host_without_a_reachable_address_times_out(
    several: Callable[..., Ssh], far: Far, kinds: list[str]
) -> None:
    began = time.monotonic()
    error = failed(several(*kinds, connect_timeout=0.5))
    assert time.monotonic() - began < 2
    assert type(error) is OutOfReach
    said = f"several.example:{far.sshd.port}: no answer while connecting within 0.5 s; {STAY}"
    assert error.message == said


def test_refusal_of_the_last_address_is_reported(several: Callable[..., Ssh], far: Far) -> None:
    error = failed(several("drops", "refuses", connect_timeout=0.5))
    assert error.message == f"several.example:{far.sshd.port}: Connection refused; {STAY}"
