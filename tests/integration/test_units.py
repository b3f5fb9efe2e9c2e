"""The systemd units, checked by the systemd of this machine.

tests/booted runs the units.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ("postfix-sync.service", "postfix-sync-once.service")
TIMER = "postfix-sync-once.timer"
PROGRAM = "/usr/bin/postfix-sync"

MOST_EXPOSURE = 3.0
"""The highest permitted level of `systemd-analyze security`, which rates up to 4 as "OK"."""


@pytest.fixture
def analyze() -> None:
    need(shutil.which("systemd-analyze"), "systemd-analyze")


@pytest.fixture
def units(tmp_path: Path, analyze: None) -> Path:
    """The units as they are installed, with a program that exists."""
    program = tmp_path / "postfix-sync"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in (*SERVICES, TIMER):
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(text.replace(PROGRAM, str(program)))
    if systemd_version() >= 253:
        dropins = tmp_path / "postfix-sync.service.d"
        dropins.mkdir()
        text = (UNITS / "notify-reload.conf").read_text()
        (dropins / "notify-reload.conf").write_text(text.replace(PROGRAM, str(program)))
    return tmp_path


def systemd_version() -> int:
    printed = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return int(printed.split()[1])


def test_systemd_analyze_verify_reports_nothing(units: Path) -> None:
    paths = [str(units / name) for name in (*SERVICES, TIMER)]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_exposure_level_of_a_service_is_within_the_limit(units: Path, name: str) -> None:
    printed = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", str(units / name)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"exposure level for \S+: ([0-9.]+)", printed)
    assert found, printed
    assert float(found[1]) <= MOST_EXPOSURE, printed


def settings_of(name: str) -> list[str]:
    """Return the settings of a unit."""
    lines = (UNITS / name).read_text().splitlines()
    return [line for line in lines if line and line[0] not in "#["]


def test_both_services_have_the_same_sandbox() -> None:
    """A sync needs the same permissions in both."""
    daemon, once = (settings_of(name) for name in SERVICES)
    start = daemon.index("ProtectSystem=strict")
    assert once[once.index("ProtectSystem=strict") :] == daemon[start:-1]
    assert daemon[-1] == "WantedBy=multi-user.target"


def test_each_exception_has_a_comment_with_its_reason() -> None:
    """The line above each setting that relaxes the sandbox is a comment with the reason."""
    lines = (UNITS / "postfix-sync.service").read_text().splitlines()
    hardening = lines[lines.index("ProtectSystem=strict") : lines.index("[Install]")]
    exceptions = [
        i
        for i, line in enumerate(hardening)
        if re.match(r"ReadWritePaths=|CapabilityBoundingSet=CAP|SystemCallFilter=@(?!system)", line)
        or line in {"RestrictAddressFamilies=AF_NETLINK", "ProtectHome=read-only"}
    ]
    assert len(exceptions) >= 8
    for i in exceptions:
        assert hardening[i - 1].startswith("# "), hardening[i]
