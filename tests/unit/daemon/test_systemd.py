"""The daemon's watchdog: when it stops sending keep-alive pings to systemd."""

import time

import pytest

from postfix_sync.daemon.systemd import Watchdog


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """A watchdog with a limit of one millisecond for pings and ten for a step."""
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return Watchdog()


def test_step_may_take_ten_times_the_watchdog_timeout(short: Watchdog) -> None:
    assert short.interval == pytest.approx(0.0005)
    assert short.longest == pytest.approx(0.01)


def test_watchdog_pings_before_the_first_step(short: Watchdog) -> None:
    time.sleep(2 * short.longest)
    assert short.sign()


def test_watchdog_does_not_ping_during_an_overdue_step(short: Watchdog) -> None:
    short.expect()
    time.sleep(2 * short.longest)
    assert not short.sign()
    short.expect(after=60)
    assert short.sign()


def test_watchdog_pings_until_a_scheduled_step_is_overdue(short: Watchdog) -> None:
    short.expect(after=60)
    time.sleep(2 * short.longest)
    assert short.sign()


def test_watchdog_without_timeout_has_no_overdue_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    watchdog = Watchdog()
    watchdog.expect()
    assert watchdog.interval is None
    assert watchdog.sign()
