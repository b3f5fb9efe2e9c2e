"""When deferred mail is due for a flush after an outage, and which messages are flushed."""

import pytest

from postfix_sync.model.table import Table
from postfix_sync.postfix.folding import fold_ascii
from postfix_sync.postfix.queue import Queued
from postfix_sync.probe.flush import AGAIN, UNSEEN_AGAIN, Due, chosen, due, due_in
from postfix_sync.status.transitions import after_flush
from tests.parts.statuses import NOW, probed

REFUSED = "connect to a[192.0.2.1]:8024: Connection refused"
LATER = "host a[192.0.2.1] said: 451 try later (in reply to RCPT TO command)"
ROUTES = {
    "ants@lists.example": "lmtp:[a]:8024",
    "bees@lists.example": "lmtp:[b]:8024",
    "both@lists.example": "lmtp:[a]:8024, [b]:8024",
}


def test_failed_destination_is_due_when_up_until_flushed() -> None:
    back = probed(True, "connect", True)
    assert due(back, NOW + 3).failed == {"a:8024"}
    assert due(probed(True, "connect", "connect", True), NOW + 4).failed == {"a:8024"}
    done = after_flush(back, ["a:8024"], NOW + 3)
    assert not due(done, NOW + 3 + AGAIN)
    assert due(probed("connect", True, status=done, at=NOW + 99), NOW + 100).failed == {"a:8024"}


@pytest.mark.parametrize("answers", [["connect"], [True, "connect"], [True, "connect", "connect"]])
def test_failing_destination_is_not_due(answers: list[bool | str]) -> None:
    assert not due(probed(*answers), NOW + 10)


def test_flapping_destination_is_due_once_a_minute() -> None:
    status = after_flush(probed("connect", True), ["a:8024"], NOW + 2)
    status = probed("connect", True, "connect", True, status=status, at=NOW + 3)
    assert not due(status, NOW + 2 + AGAIN - 1)
    assert due_in(status, NOW + 2 + AGAIN - 1) == 1
    assert due_in(status, NOW + 2 + AGAIN) is None
    down = probed("connect", status=status, at=NOW + 10)
    assert due_in(down, NOW + 11) is None
    assert due(status, NOW + 2 + AGAIN).failed == {"a:8024"}


def test_failure_during_a_flush_makes_the_destination_due_again() -> None:
    status = probed("connect", True)
    began = NOW + 2
    status = probed("connect", "connect", True, status=status, at=NOW + 5)
    assert due(after_flush(status, ["a:8024"], began), began + AGAIN).failed == {"a:8024"}


def test_clock_that_was_set_back_does_not_prevent_a_flush() -> None:
    status = after_flush(probed("connect", True), ["a:8024"], NOW + 10_000)
    assert due(probed("connect", True, status=status), NOW + 5)


def test_destination_that_never_failed_is_due_for_unseen_outages() -> None:
    assert due(probed(True), NOW) == Due(unseen={"a:8024": 0.0})
    assert not due(probed(True), NOW, unseen=False)
    assert due(probed("connect", True), NOW + 2, unseen=False).failed == {"a:8024"}
    done = after_flush(probed(True), ["a:8024"], NOW)
    assert not due(done, NOW + UNSEEN_AGAIN - 1)
    assert due(done, NOW + UNSEEN_AGAIN) == Due(unseen={"a:8024": NOW})


def message(number: int, *recipients: tuple[str, str], queue: str = "deferred") -> Queued:
    return Queued(f"Q{number}", queue, NOW + number, recipients)


def ids(wanted: Due, *messages: Queued) -> dict[str, tuple[str, ...]]:
    return chosen(messages, Table.of(ROUTES), fold_ascii, "+", wanted)


def test_flush_selects_all_deferred_mail_of_a_failed_destination() -> None:
    found = ids(
        Due(failed={"a:8024"}),
        message(4, ("ants+x@lists.example", REFUSED)),
        message(1, ("Ants@lists.example", LATER)),
        message(2, ("bees@lists.example", REFUSED)),
        message(3, ("someone@elsewhere.example", REFUSED)),
        message(5, ("ants@lists.example", ""), queue="hold"),
        message(6, ("ants@lists.example", ""), queue="active"),
        message(7, ("someone@elsewhere.example", LATER), ("ants@lists.example", REFUSED)),
        message(8, ("both@lists.example", REFUSED)),
    )
    assert found == {"a:8024": ("Q1", "Q4", "Q7", "Q8")}


def test_flush_selects_once_what_did_not_reach_an_up_destination() -> None:
    """Postfix retries mail that Mailman itself deferred, and mail that was flushed once."""
    found = ids(
        Due(unseen={"a:8024": NOW + 1}),
        message(1, ("ants@lists.example", REFUSED)),
        message(2, ("ants@lists.example", REFUSED)),
        message(3, ("ants@lists.example", LATER)),
        message(4, ("bees@lists.example", REFUSED)),
        message(5, ("ants@lists.example", LATER), ("bees@lists.example", REFUSED)),
    )
    assert found == {"a:8024": ("Q2",)}
