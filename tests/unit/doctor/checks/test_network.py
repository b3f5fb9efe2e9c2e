"""The syntax of networks in mynetworks, and networks that are too wide for it."""

from ipaddress import ip_network

import pytest

from postfix_sync.doctor.checks.network import too_wide
from postfix_sync.postfix.mynetworks import network


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("10.77.0.2", "10.77.0.2/32"),
        ("10.77.0.2/24", "10.77.0.0/24"),
        ("[::1]/128", "::1/128"),
        ("[2001:db8::1]", "2001:db8::1/128"),
    ],
)
def test_network_is_parsed_as_in_mynetworks(pattern: str, expected: str) -> None:
    assert network(pattern) == ip_network(expected)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "host.example.net",
        "/etc/networks",
        "cidr:/etc/networks",
        "10.0.0.0/33",
        "1",
        "2001:db8::/32",
    ],
)
def test_item_that_is_not_a_network_is_none(pattern: str) -> None:
    assert network(pattern) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.0/8 [::1]/128 10.0.0.0/8 172.16.0.0/12 [fe80::]/10 [fd00::]/8", []),
        ("128.2.0.0/16 [2001:db8::]/32", []),
        ("127.0.0.0/8, 0.0.0.0/0", ["0.0.0.0/0"]),
        ("[::]/0", ["[::]/0"]),
        ("11.0.0.0/8 12.0.0.0/12", ["11.0.0.0/8", "12.0.0.0/12"]),
        ("[2000::]/3 [2a00::]/20", ["[2000::]/3", "[2a00::]/20"]),
    ],
)
def test_public_networks_that_are_too_wide_are_found(value: str, expected: list[str]) -> None:
    assert [item for item, _ in too_wide(value)] == expected
