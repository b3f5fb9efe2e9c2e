"""The host names and addresses of an LMTP next hop."""

import pytest

from postfix_sync.model.destination import Destination
from postfix_sync.postfix.next_hop import parse_destination


@pytest.mark.parametrize("host", ["mailman-test", "mailman_core_1", "MM.example.net", "a" * 63])
def test_host_name_is_parsed_in_lower_case(host: str) -> None:
    assert parse_destination(f"lmtp:[{host}]:8024") == Destination(host.lower(), 8024)


@pytest.mark.parametrize(
    ("host", "endpoint"), [("127.0.0.1", "127.0.0.1:24"), ("::1", "[::1]:24"), ("m", "m:24")]
)
def test_destination_is_the_same_after_a_round_trip(host: str, endpoint: str) -> None:
    destination = parse_destination(f"lmtp:[{host}]:24")
    assert parse_destination(destination.next_hop) == destination
    assert destination.endpoint == endpoint
    assert destination.is_name == (host == "m")
