"""postqueue(1)'s output of deferred mail: quoted addresses, and reasons without contact."""

import pytest

from postfix_sync.postfix.queue import Queued, not_reached, unquoted
from tests.parts.statuses import NOW

REFUSED = "connect to a[192.0.2.1]:8024: Connection refused"
LATER = "host a[192.0.2.1] said: 451 try later (in reply to RCPT TO command)"


def message(reason: str) -> Queued:
    return Queued("Q1", "deferred", NOW, (("ants@lists.example", reason),))


@pytest.mark.parametrize(
    ("printed", "address"),
    [
        ("ants@b.c", "ants@b.c"),
        ('"an..ts"@b.c', "an..ts@b.c"),
        ('"a \\"b\\\\c"@b.c', 'a "b\\c@b.c'),
        ('"a@b"@b.c', "a@b@b.c"),
        ('"ants@b.c', '"ants@b.c'),
        ("", ""),
    ],
)
def test_addresses_are_recognized_as_postqueue_prints_them(printed: str, address: str) -> None:
    assert unquoted(printed) == address


@pytest.mark.parametrize(
    "reason",
    [
        REFUSED,
        f"delivery temporarily suspended: {REFUSED}",
        "connect to a[192.0.2.1]:8024: Connection timed out",
        "lost connection with a[192.0.2.1] while receiving the initial server greeting",
        "lost connection with a[192.0.2.1] while performing the LHLO handshake",
        "host a[192.0.2.1] refused to talk to me: 421 4.3.2 shutting down",
        "conversation with a[192.0.2.1] timed out while receiving the initial server greeting",
        "unable to look up host a: Temporary failure in name resolution",
        "Host or domain name not found. Name service error for name=a type=A: Host not found",
    ],
)
def test_reason_of_mail_that_did_not_reach_a_destination(reason: str) -> None:
    assert not_reached([message(reason)], 0)


@pytest.mark.parametrize("reason", ["", LATER, "mail transport unavailable"])
def test_reason_of_mail_that_reached_a_destination(reason: str) -> None:
    assert not not_reached([message(reason)], 0)
