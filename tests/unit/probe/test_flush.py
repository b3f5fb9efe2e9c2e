"""When a destination is down, when what waited for it is due, and which messages those are."""

import pytest

from postfix_sync.model import Destination, ProbeResult
from postfix_sync.postfix.folding import fold_ascii
from postfix_sync.postfix.queue import Queued, not_reached, unquoted
from postfix_sync.probe.flush import AGAIN, UNSEEN_AGAIN, Due, chosen, due, due_in
from postfix_sync.status.schema import ClusterStatus, DestinationStatus, Status, no_passes
from postfix_sync.status.transitions import (
    OUTAGE,
    RECOVERED,
    after_flush,
    after_probes,
    asked_soon,
    doubted,
    rankings,
)

NOW = 1_800_000_000.0
A, B = Destination("a", 8024), Destination("b", 8024)
REFUSED = "connect to a[192.0.2.1]:8024: Connection refused"
LATER = "host a[192.0.2.1] said: 451 try later (in reply to RCPT TO command)"
ROUTES = {
    "ants@lists.example": "lmtp:[a]:8024",
    "bees@lists.example": "lmtp:[b]:8024",
    "both@lists.example": "lmtp:[a]:8024, [b]:8024",
}


def empty(*clusters: ClusterStatus) -> Status:
    named = {str(number): cluster for number, cluster in enumerate(clusters)}
    return Status(
        version="",
        updated="",
        generation=None,
        held=False,
        held_since=None,
        waiting="",
        sources={},
        maps={},
        destinations={},
        clusters=named,
        passes=no_passes(),
        queue=None,
    )


def result(answer: bool | str, of: Destination = A) -> ProbeResult:
    """Up, or down in a phase."""
    up = answer is True
    return ProbeResult(of, up, "rcpt" if up else str(answer), "", 0.1, "" if up else "an error")


def probed(*answers: bool | str, status: Status | None = None, at: float = NOW) -> Status:
    """The status after these probes of A, a second apart."""
    status = status or empty()
    for second, answer in enumerate(answers):
        status = after_probes(status, [result(answer)], at + second)
    return status


def of_a(status: Status) -> DestinationStatus:
    return status["destinations"]["a:8024"]


# --- down and up


@pytest.mark.parametrize(
    ("answers", "up", "failures", "since"),
    [
        ([True], True, 0, 0),
        (["connect"], False, 1, 0),
        (["connect", "connect"], False, 2, 0),
        ([True, "connect"], True, 1, 0),
        ([True, "connect", "rcpt"], False, 2, 2),
        ([True, "connect", True], True, 0, 0),
        ([True, "connect", True, "connect", True, "connect"], True, 1, 0),
        ([True, "connect", "connect", "connect", True], True, 0, 4),
        (["connect", True, "connect"], True, 1, 1),
    ],
)
def test_two_failures_down_one_success_up(
    answers: list[bool | str], up: bool, failures: int, since: int
) -> None:
    """But what was never seen up is down at once."""
    status = probed(*answers)
    one = of_a(status)
    assert (one["up"], one["failures"]) == (up, failures)
    assert one["since"][-3:-1] == f"{since:02}"
    assert doubted(status) == ({"a:8024"} if failures else set())
    assert doubted(status, still_up=True) == ({"a:8024"} if failures and up else set())


@pytest.mark.parametrize(
    ("answers", "soon"),
    [
        ([True], False),
        ([True, "connect"], True),
        ([True, "rcpt"], True),
        ([True, "rcpt", "rcpt"], False),
        (["lhlo"], False),
        (["resolve"], True),
        ([True, *["greeting"] * 99], True),
        (["rcpt", "connect"], True),
        (["connect", True], False),
    ],
)
def test_asked_soon_for_certainty_and_where_nobody_is(
    answers: list[bool | str], soon: bool
) -> None:
    """A Mailman that is there, and refuses, is not asked all the time."""
    assert asked_soon(probed(*answers)) == ({"a:8024"} if soon else set())


def test_the_last_failure_is_remembered_over_successes() -> None:
    assert of_a(probed(True))["last_failure"] is None
    assert of_a(probed(True, "connect"))["last_failure"] == "2027-01-15T08:00:01Z"
    assert of_a(probed(True, "connect", True, True))["last_failure"] == "2027-01-15T08:00:01Z"


def test_member_of_a_cluster_is_tried_last_from_five_minutes_down_to_thirty_minutes_up() -> None:
    """Postfix goes on to the next by itself; each change of the order builds all routes again."""
    members = ClusterStatus(destinations=["a:8024", "b:8024"], last=[], nameless=[], changed=None)
    status = after_probes(empty(members), [result(True), result(True, B)], NOW)
    down = probed("connect", "connect", status=status, at=NOW + 1)
    assert not of_a(down)["up"]
    for after, last in ((OUTAGE - 1, set()), (OUTAGE + 2, {"a:8024"})):
        down = probed("connect", status=down, at=NOW + after)
        assert rankings(down)["0"].last == last
    back = probed(True, status=down, at=NOW + 400)
    for after, last in ((400 + RECOVERED - 1, {"a:8024"}), (400 + RECOVERED, set())):
        back = probed(True, status=back, at=NOW + after)
        assert rankings(back)["0"].last == last


def test_member_of_a_cluster_that_flaps_changes_nothing() -> None:
    members = ClusterStatus(destinations=["a:8024", "b:8024"], last=[], nameless=[], changed=None)
    status = after_probes(empty(members), [result(True), result(True, B)], NOW)
    for at in range(10, 600, 10):
        answer = at % 60 < 30 or "connect"
        status = probed(answer, status=status, at=NOW + at)
        assert status["clusters"]["0"] == members


def test_cluster_that_is_down_altogether_keeps_its_order() -> None:
    members = ClusterStatus(destinations=["a:8024", "b:8024"], last=[], nameless=[], changed=None)
    status = empty(members)
    for at in range(0, 1200, 60):
        status = after_probes(status, [result("connect"), result("connect", B)], NOW + at)
    assert rankings(status)["0"].last == set()


def test_a_name_that_is_lost_counts_at_once() -> None:
    """As the last of several next hops, Postfix would return mail for want of it."""
    members = ClusterStatus(destinations=["a:8024", "b:8024"], last=[], nameless=[], changed=None)
    status = after_probes(empty(members), [result(True), result(True, B)], NOW)
    once = probed("resolve", status=status, at=NOW + 1)
    assert of_a(once)["up"]
    assert rankings(once)["0"].nameless == {"a:8024"}


# --- what is due


def test_what_failed_is_due_when_it_is_back_until_that_is_done() -> None:
    back = probed(True, "connect", True)
    assert due(back, NOW + 3).failed == {"a:8024"}
    assert due(probed(True, "connect", "connect", True), NOW + 4).failed == {"a:8024"}
    done = after_flush(back, ["a:8024"], NOW + 3)
    assert not due(done, NOW + 3 + AGAIN)
    assert due(probed("connect", True, status=done, at=NOW + 99), NOW + 100).failed == {"a:8024"}


@pytest.mark.parametrize("answers", [["connect"], [True, "connect"], [True, "connect", "connect"]])
def test_what_fails_is_not_due(answers: list[bool | str]) -> None:
    assert not due(probed(*answers), NOW + 10)


def test_one_that_flaps_is_due_once_a_minute() -> None:
    status = after_flush(probed("connect", True), ["a:8024"], NOW + 2)
    status = probed("connect", True, "connect", True, status=status, at=NOW + 3)
    assert not due(status, NOW + 2 + AGAIN - 1)
    assert due_in(status, NOW + 2 + AGAIN - 1) == 1
    assert due_in(status, NOW + 2 + AGAIN) is None
    down = probed("connect", status=status, at=NOW + 10)
    assert due_in(down, NOW + 11) is None
    assert due(status, NOW + 2 + AGAIN).failed == {"a:8024"}


def test_a_failure_while_it_was_being_done_is_not_forgotten() -> None:
    status = probed("connect", True)
    began = NOW + 2
    status = probed("connect", "connect", True, status=status, at=NOW + 5)
    assert due(after_flush(status, ["a:8024"], began), began + AGAIN).failed == {"a:8024"}


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    status = after_flush(probed("connect", True), ["a:8024"], NOW + 10_000)
    assert due(probed("connect", True, status=status), NOW + 5)


def test_one_that_never_failed_may_have_been_away_unseen() -> None:
    assert due(probed(True), NOW) == Due(unseen={"a:8024": 0.0})
    assert not due(probed(True), NOW, unseen=False)
    assert due(probed("connect", True), NOW + 2, unseen=False).failed == {"a:8024"}
    done = after_flush(probed(True), ["a:8024"], NOW)
    assert not due(done, NOW + UNSEEN_AGAIN - 1)
    assert due(done, NOW + UNSEEN_AGAIN) == Due(unseen={"a:8024": NOW})


# --- which messages


def message(number: int, *recipients: tuple[str, str], queue: str = "deferred") -> Queued:
    return Queued(f"Q{number}", queue, NOW + number, recipients)


def ids(wanted: Due, *messages: Queued) -> dict[str, tuple[str, ...]]:
    return chosen(messages, ROUTES, fold_ascii, "+", wanted)


def test_all_that_waits_for_one_that_failed_and_nothing_else() -> None:
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


def test_of_one_that_never_failed_only_what_did_not_reach_it_and_only_once() -> None:
    """Mail that Mailman itself put off is Postfix's to try again; so is what was tried once."""
    found = ids(
        Due(unseen={"a:8024": NOW + 1}),
        message(1, ("ants@lists.example", REFUSED)),
        message(2, ("ants@lists.example", REFUSED)),
        message(3, ("ants@lists.example", LATER)),
        message(4, ("bees@lists.example", REFUSED)),
        message(5, ("ants@lists.example", LATER), ("bees@lists.example", REFUSED)),
    )
    assert found == {"a:8024": ("Q2",)}


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
def test_addresses_are_known_in_the_form_that_postqueue_prints(printed: str, address: str) -> None:
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
def test_reasons_for_which_mail_did_not_reach_a_destination(reason: str) -> None:
    assert not_reached([message(1, ("ants@lists.example", reason))], 0)


@pytest.mark.parametrize("reason", ["", LATER, "mail transport unavailable"])
def test_other_reasons(reason: str) -> None:
    assert not not_reached([message(1, ("ants@lists.example", reason))], 0)
