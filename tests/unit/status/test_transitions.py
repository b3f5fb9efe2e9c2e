"""How each event changes the status: probes, clusters, syncs and counts of deferred mail."""

from dataclasses import replace
from pathlib import Path

import pytest

from postfix_sync.config.schema import Config, MetricsSection, SourceSection
from postfix_sync.config.values import Listen
from postfix_sync.errors import ApplyError, Refused
from postfix_sync.model.destination import Destination
from postfix_sync.postfix.queue import DeferredMail
from postfix_sync.reconcile.report import Report, SourceReport
from postfix_sync.status.schema import ClusterStatus, ErrorStatus
from postfix_sync.status.transitions import (
    OUTAGE,
    RECOVERED,
    after_count,
    after_probes,
    after_sync,
    doubted,
    due_early,
    rankings,
)
from postfix_sync.text import iso
from tests.parts.statuses import NOTHING, NOW, B, empty, of_a, passes, probed, result, status


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
def test_destination_is_down_after_two_failures_and_up_after_one_success(
    answers: list[bool | str], up: bool, failures: int, since: int
) -> None:
    """A destination that was never up is down after the first failure."""
    status = probed(*answers)
    found = of_a(status)
    assert (found["up"], found["failures"]) == (up, failures)
    assert found["since"][-3:-1] == f"{since:02}"
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
def test_doubtful_or_absent_destination_is_probed_early(
    answers: list[bool | str], soon: bool
) -> None:
    """A Mailman that answers with a refusal is probed at the usual interval."""
    assert due_early(probed(*answers)) == ({"a:8024"} if soon else set())


def test_last_failure_is_kept_after_successes() -> None:
    assert of_a(probed(True))["last_failure"] is None
    assert of_a(probed(True, "connect"))["last_failure"] == "2027-01-15T08:00:01Z"
    assert of_a(probed(True, "connect", True, True))["last_failure"] == "2027-01-15T08:00:01Z"


def test_cluster_member_is_tried_last_after_5_min_down_until_30_min_up() -> None:
    """Postfix tries the next member itself, and a change of the order rebuilds all routes."""
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


def test_name_that_no_longer_resolves_is_recorded_at_once() -> None:
    """If it is the last of several next hops, Postfix would return the mail."""
    members = ClusterStatus(destinations=["a:8024", "b:8024"], last=[], nameless=[], changed=None)
    status = after_probes(empty(members), [result(True), result(True, B)], NOW)
    once = probed("resolve", status=status, at=NOW + 1)
    assert of_a(once)["up"]
    assert rankings(once)["0"].nameless == {"a:8024"}


def test_queue_has_zeros_if_counted_and_is_none_if_not() -> None:
    hops = [Destination("mm", 8024), Destination("::1", 8024)]
    deferred = {hops[0]: DeferredMail(("A", "B"), NOW - 30.5), hops[1]: DeferredMail()}
    found = after_count(NOTHING, deferred, NOW)
    assert found["queue"] == {
        "mm:8024": {"messages": 2, "oldest": iso(NOW - 31)},
        "[::1]:8024": {"messages": 0, "oldest": None},
    }
    assert found["updated"] == iso(NOW)
    assert after_count(found, None, NOW)["queue"] is None
    assert after_count(found, {}, NOW)["queue"] == {}


CONFIG = Config(sources=[SourceSection(name="lists", path=Path("/data"))])
DISK = ApplyError("a disk: full", "rm")
WENT_WRONG = Report(failed=(DISK,), seconds=2.0)
WENT_WELL = Report(
    sources={"lists": SourceReport(answered_at=NOW + 30)},
    entries={"added": 9},
    reloads=1,
    seconds=1.23456,
)


def test_counters_add_up_and_failures_keep_their_start() -> None:
    """The start of a failure is kept for any number and kind of further failures."""
    found = after_sync(status(), CONFIG, WENT_WRONG, NOW)
    other = Report(sources={"lists": SourceReport(errors=(Refused("a line"),))}, failed=(DISK,))
    found = after_sync(found, CONFIG, other, NOW + 20)
    assert found["passes"] == passes(
        last_attempt=iso(NOW + 20),
        failing_since=iso(NOW),
        error=ErrorStatus(message="a disk: full", hint="rm"),
        seconds=0.0,
        made=9,
        failed=4,
    )
    assert found["sources"]["lists"]["state"] == "refused"
    assert found["sources"]["lists"]["failing_since"] == iso(NOW)
    found = after_sync(found, CONFIG, WENT_WELL, NOW + 30)
    assert found["passes"] == passes(
        last_attempt=iso(NOW + 30),
        last_success=iso(NOW + 30),
        seconds=1.235,
        made=10,
        failed=4,
        reloads=2,
        entries={"added": 18, "removed": 0, "changed": 0},
    )
    assert found["sources"]["lists"]["failing_since"] is None


def test_queue_is_none_once_it_is_no_longer_counted() -> None:
    counting = replace(CONFIG, metrics=MetricsSection(listen=Listen("127.0.0.1", 9825)))
    assert after_sync(status(), counting, WENT_WELL, NOW)["queue"] == status()["queue"]
    assert after_sync(status(), CONFIG, WENT_WELL, NOW)["queue"] is None
