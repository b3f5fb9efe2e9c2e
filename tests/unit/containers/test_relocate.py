"""The next hops of a Mailman whose address differs from the one that it wrote."""

import pytest

from postfix_sync.containers.relocate import by_address, host_address, moved, relocated, unpublished
from postfix_sync.model.destination import Destination, Peer
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import parse_unjudged

BRIDGE = Peer(("172.17.0.2", "172.18.0.2"))
HERE = Peer(("127.0.0.1",), is_here=True)
PORTS = Peer(
    published={8024: Destination("127.0.0.1", 18024), 9000: Destination("192.0.2.1", 9000)}
)


def reached(hop: str, peer: Peer) -> str | None:
    found = relocated(Table.of({"a@b.c": parse_unjudged(hop).next_hop}), peer)
    return found["a@b.c"] if found is not None else None


@pytest.mark.parametrize(
    ("written", "peer", "expected"),
    [
        ("lmtp:[Mailman]:8024", BRIDGE, "lmtp:[mailman]:8024"),
        ("lmtp:[10.0.0.1]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[172.18.0.2]:8024", BRIDGE, "lmtp:[172.18.0.2]:8024"),
        ("lmtp:[172.17.0.3 172.18.0.3]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[0.0.0.0]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[::]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[127.0.0.1]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[localhost]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[]:8024", BRIDGE, "lmtp:[172.17.0.2]:8024"),
        ("lmtp:[10.0.0.1]:8024", HERE, "lmtp:[10.0.0.1]:8024"),
        ("lmtp:[0.0.0.0]:8024", HERE, "lmtp:[127.0.0.1]:8024"),
        ("lmtp:[mailman]:8024", HERE, "lmtp:[mailman]:8024"),
        ("lmtp:[mailman]:8024", PORTS, "lmtp:[mailman]:18024"),
        ("lmtp:[10.0.0.1]:8024", PORTS, "lmtp:[127.0.0.1]:18024"),
        ("lmtp:[10.0.0.1]:8025", PORTS, None),
        ("lmtp:[mailman]:8024", Peer(), None),
    ],
)
def test_next_hop_is_replaced_by_the_peers_address_and_port(
    written: str, peer: Peer, expected: str | None
) -> None:
    assert reached(written, peer) == expected


@pytest.mark.parametrize(
    "written",
    ["lmtp:[a]:0", "lmtp:[a]:65536", "smtp:[a]:24", "lmtp:a:24", "lmtp:[a]b]:24", "lmtp:[a]:", ""],
)
def test_malformed_next_hop_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a next hop|is not between"):
        parse_unjudged(written)


def test_host_names_get_the_peers_address() -> None:
    routes = Table.of({"a@b.c": "lmtp:[mailman]:8024", "d@e.f": "lmtp:[mailman]:9999"})
    assert host_address(routes, BRIDGE) == "172.17.0.2"
    assert host_address(routes, PORTS) == "127.0.0.1"
    assert host_address(Table({}, {}), BRIDGE) is None
    assert unpublished(routes, PORTS) == {9999}


def test_empty_routes_are_relocated_without_an_address() -> None:
    assert relocated(Table({}, {}), Peer()) == {}


def test_names_are_replaced_by_addresses_and_restored() -> None:
    named = {
        "a@b.c": "lmtp:[mm]:8024",
        "d@b.c": "lmtp:[mm]:8024, [two]:8024, [192.0.2.1]:8024",
        "e@b.c": "lmtp:[other]:8024",
        "f@b.c": "lmtp:unix:private/somebody",
    }
    routes = Table.of(named)
    by_number = {
        **named,
        "a@b.c": "lmtp:[10.88.0.5]:8024",
        "d@b.c": "lmtp:[10.88.0.5]:8024, [fd00::2]:8024, [192.0.2.1]:8024",
    }
    assert by_address(routes, {"mm": "10.88.0.5", "two": "fd00::2"}) == by_number
    assert by_address(routes, {"elsewhere": "10.88.0.5"}) is routes
    back = {
        Destination("10.88.0.5", 8024): Destination("mm", 8024),
        Destination("fd00::2", 8024): Destination("two", 8024),
        Destination("192.0.2.1", 24): Destination("mm", 24),
    }
    assert moved(Table.of(by_number), back) == named
