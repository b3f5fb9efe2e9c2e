"""When the daemon gives no sign of life any more."""

import time

import pytest

from postfix_sync.daemon.systemd import Watchdog


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """It waits a millisecond for a sign of life, and ten for a step."""
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return Watchdog()


def test_a_step_may_take_ten_times_as_long_as_a_sign_of_life(short: Watchdog) -> None:
    assert short.interval == pytest.approx(0.0005)
    assert short.longest == pytest.approx(0.01)


def test_before_the_first_step_nothing_is_overdue(short: Watchdog) -> None:
    time.sleep(2 * short.longest)
    assert short.sign()


def test_a_step_that_is_overdue_is_no_life_and_the_next_one_is(short: Watchdog) -> None:
    short.expect()
    time.sleep(2 * short.longest)
    assert not short.sign()
    short.expect(after=60)
    assert short.sign()


def test_until_a_step_begins_it_is_not_overdue(short: Watchdog) -> None:
    short.expect(after=60)
    time.sleep(2 * short.longest)
    assert short.sign()


def test_nothing_is_overdue_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    watchdog = Watchdog()
    watchdog.expect()
    assert watchdog.interval is None
    assert watchdog.sign()
