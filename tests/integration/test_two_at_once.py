"""Concurrent syncs and a daemon agree, as each of them reads the disk."""

import fcntl
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from tests.parts.common import wait_for
from tests.parts.disk import names, tree
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import STATE, Site

MakeSite = Callable[..., Site]

CHANGES = 8

pytestmark = [pytest.mark.load, pytest.mark.slow, pytest.mark.usefixtures("root")]


def lists(turn: int) -> list[str]:
    """Return five lists that stay, and one that changes with each turn."""
    return [*(f"stays{number}@lists.example.net" for number in range(5)), f"t{turn}@two.example"]


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_two_syncs_and_a_daemon_agree_on_a_changing_source(
    make_site: MakeSite, idle_postfix: PostfixInstance, map_type: str
) -> None:
    site = make_site(map_type)
    idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
    site.files.write(*lists(0))
    site.configure()
    log = site.directory / "daemon.log"
    with log.open("w") as stderr:
        daemon = site.start(stderr=stderr)
        try:
            wait_for((site.state / "status.json").exists, 20, "the daemon's first sync")
            for turn in range(1, CHANGES + 1):
                site.files.write(*lists(turn))
                both = [site.start("--once") for _ in range(2)]
                for process in both:
                    stdout, stderr_text = process.communicate(timeout=60)
                    assert (process.returncode, stdout, stderr_text) == (0, "", "")
                # Any of the three may have applied the change; it is applied once a sync has ended.
                assert site.installed(RECIPIENTS).keys() == {
                    key for name in lists(turn) for key in nine(name)
                }
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=30)
    assert daemon.returncode == 0
    said = log.read_text()
    assert "error" not in said
    assert "warning" not in said
    for name in MAP_NAMES:
        site.installed(name)
    assert site.installed(ROUTES).keys() >= site.installed(RECIPIENTS).keys()
    assert site.stray() == set()
    assert site.state_files == STATE
    assert names(site.state / "sources") == ["lists.json"]


def test_sync_exits_with_75_and_changes_nothing_if_the_lock_stays_held(make_site: MakeSite) -> None:
    """The test takes the 30 s for which a sync waits for the lock."""
    site = make_site()
    site.files.write(*lists(0))
    site.once()
    site.files.write(*lists(1))
    before = tree(site.directory)
    with (site.state / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        said = site.once(expect=75)
        waited = time.monotonic() - began
    assert 30 <= waited < 45
    message, hint = said.splitlines()
    assert f"{site.state / 'lock'}: another sync has held the lock for 30 s" in message
    assert hint == f"postfix-sync: hint: see which process: fuser -v {site.state / 'lock'}"
    assert tree(site.directory) == before


def test_sync_waits_until_the_lock_is_released(make_site: MakeSite) -> None:
    site = make_site()
    site.files.write(*lists(0))
    site.once()
    site.files.write(*lists(1))
    before = tree(site.maps)
    with (site.state / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = site.start("--once")
        lock = (site.state / "lock").stat()
        wait_for(lambda: _has_open(waiting.pid, lock.st_ino), 20, "a sync that waits for the lock")
        assert waiting.poll() is None
        assert tree(site.maps) == before
    _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, said
    assert set(nine("t1@two.example")) <= site.installed(RECIPIENTS).keys()


def _has_open(pid: int, inode: int) -> bool:
    try:
        return any(path.stat().st_ino == inode for path in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False
