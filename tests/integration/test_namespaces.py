"""The network that other tests stand on: it connects, it loses packets, and it goes away."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.parts import namespaces
from tests.parts.namespaces import Host, Network

PORT = 8024
SOON = 0.3
"""Seconds without an answer: on a network without distances, that is no answer."""


@pytest.fixture(autouse=True)
def possible(root: None) -> None:
    """For root, and not in every container."""
    need(namespaces.available(), "network namespaces")


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts; a server listens on the second."""
    with Network("mx", "mm") as made:
        with made["mm"].inside():
            server = socket.create_server(("", PORT))
        with server:
            yield made


def reach(here: Host, there: Host, port: int = PORT) -> None:
    """Connect from here to there."""
    with here.inside():
        socket.create_connection((there.address, port), SOON).close()


def test_hosts_reach_each_other(network: Network) -> None:
    """A server is there, a port without one refuses, and what is on loopback stays on it."""
    reach(network["mx"], network["mm"])
    with pytest.raises(ConnectionRefusedError):
        reach(network["mx"], network["mm"], PORT + 1)
    with network["mx"].inside(), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORT), SOON)


def test_cut_off_is_silence(network: Network) -> None:
    """No refusal and no unreachable host, in neither direction; and an open connection survives."""
    with network["mx"].inside():
        lasting = socket.create_server(("", PORT))
    with network["mm"].inside():
        client = socket.create_connection((network["mx"].address, PORT), SOON)
    with lasting, client, lasting.accept()[0] as server:
        network["mm"].cut_off()
        for here, there in (("mx", "mm"), ("mm", "mx")):
            with pytest.raises(TimeoutError):
                reach(network[here], network[there])
        client.sendall(b"still here")
        network["mm"].reconnect()
        server.settimeout(30)
        assert server.recv(100) == b"still here"
    reach(network["mx"], network["mm"])


def test_commands_run_on_a_host(network: Network) -> None:
    """Those that are started inside, and those with the prefix."""
    command = ["ip", "-brief", "address", "show", "eth0"]
    with network["mm"].inside():
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    command[:0] = network["mm"].prefix
    prefixed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert network["mm"].address in inside
    assert inside == prefixed


def test_nothing_is_left() -> None:
    """Also of two that stand side by side, and when what they are for fails."""

    def fail() -> None:
        with Network("mx") as one, Network("mx") as two:
            assert one["mx"].address == two["mx"].address
            assert len(ours()) == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ours() == []


def ours() -> list[str]:
    """The namespaces of this process."""
    return [one.name for one in Path("/run/netns").glob(f"pfs-{os.getpid()}-*")]
