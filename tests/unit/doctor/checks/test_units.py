"""The units of systemd that run syncs, from systemctl's output to a finding."""

import pytest

from postfix_sync.doctor.checks.units import SERVICE, TIMER, _is_daemon, judged, units
from postfix_sync.model.finding import Verdict

OFF, ON = ("inactive", "disabled"), ("active", "enabled")


def shown(name: str, active: str, enabled: str, load: str = "loaded") -> str:
    """Return a block that systemctl shows."""
    return f"Id={name}\nLoadState={load}\nActiveState={active}\nUnitFileState={enabled}\n"


@pytest.mark.parametrize(
    ("service", "timer", "verdict", "fix"),
    [
        (ON, OFF, Verdict.OK, None),
        (OFF, ON, Verdict.OK, None),
        (("activating", "enabled"), OFF, Verdict.OK, None),
        (("active", "disabled"), OFF, Verdict.WARNING, f"systemctl enable {SERVICE}"),
        (OFF, ("active", "disabled"), Verdict.WARNING, f"systemctl enable {TIMER}"),
        (("failed", "enabled"), OFF, Verdict.WARNING, f"systemctl start {SERVICE}"),
        (OFF, ("inactive", "enabled"), Verdict.WARNING, f"systemctl start {TIMER}"),
        (OFF, OFF, Verdict.WARNING, f"systemctl enable --now {SERVICE}"),
    ],
)
def test_daemon_or_timer_must_run_and_be_enabled(
    service: tuple[str, str], timer: tuple[str, str], verdict: Verdict, fix: str | None
) -> None:
    found = units(f"{shown(SERVICE, *service)}\n{shown(TIMER, *timer)}")
    finding = judged(list(found.values()), "")
    assert (finding.verdict, finding.fix) == (verdict, fix)


def test_cron_instead_of_units_is_ok() -> None:
    [unit] = units(shown(SERVICE, *OFF)).values()
    assert judged([unit], "/etc/cron.d/maps").verdict is Verdict.OK


def test_missing_and_masked_units_are_not_installed() -> None:
    found = units(shown(SERVICE, "inactive", "", "not-found") + "\n" + shown(TIMER, *OFF, "masked"))
    assert not any(unit.is_installed for unit in found.values())


@pytest.mark.parametrize(
    ("command", "daemon"),
    [
        ("/usr/bin/python3 -I /usr/bin/postfix-sync", True),
        ("/usr/bin/python3 -m postfix_sync -v -c /etc/other.yaml", True),
        ("python3 /opt/postfix_sync -v -c /etc/other.yaml", True),
        ("python3 /usr/bin/postfix-sync --once", False),
        ("python3 /usr/bin/postfix-sync doctor", False),
        ("vi postfix-sync.conf", False),
    ],
)
def test_daemon_is_recognized_by_its_command_line(command: str, *, daemon: bool) -> None:
    assert _is_daemon(command.split()) is daemon
