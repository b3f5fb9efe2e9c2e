"""The network namespaces of other tests: they connect, can be cut off, and are removed."""

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
"""Seconds without an answer: hosts in namespaces answer faster than this."""


@pytest.fixture(autouse=True)
def possible(root: None) -> None:
    """Skip the test unless root runs it, on a system that permits network namespaces."""
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
    """Connect from one host to another."""
    with here.inside():
        socket.create_connection((there.address, port), SOON).close()


def test_hosts_reach_each_other(network: Network) -> None:
    """A server answers, a port without a server refuses, and loopback addresses stay local."""
    reach(network["mx"], network["mm"])
    with pytest.raises(ConnectionRefusedError):
        reach(network["mx"], network["mm"], PORT + 1)
    with network["mx"].inside(), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORT), SOON)


def test_packets_to_and_from_a_host_that_is_cut_off_are_dropped(network: Network) -> None:
    """Both directions time out without any error; a connection that is open survives."""
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
    """Commands run on the host if they are started inside it, or with the prefix."""
    command = ["ip", "-brief", "address", "show", "eth0"]
    with network["mm"].inside():
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    command[:0] = network["mm"].prefix
    prefixed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert network["mm"].address in inside
    assert inside == prefixed


def test_namespaces_are_removed_after_an_error() -> None:
    """Two networks can exist at the same time."""

    def fail() -> None:
        with Network("mx") as first, Network("mx") as second:
            assert first["mx"].address == second["mx"].address
            assert len(ours()) == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ours() == []


def ours() -> list[str]:
    """Return the namespaces of this process."""
    return [path.name for path in Path("/run/netns").glob(f"pfs-{os.getpid()}-*")]
