"""The lock: against local users, beside earlier versions, and for one sync at a time."""

import asyncio
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from postfix_sync.errors import Busy
from postfix_sync.model.map_names import RECIPIENTS
from postfix_sync.postfix.instance import inspect
from postfix_sync.setup.main_cf_file import MainCf
from postfix_sync.system import lock as lock_module
from postfix_sync.system.files import staged_beside
from postfix_sync.system.lock import _replace_lock, lock
from tests.parts.common import PATIENCE, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.disk import names, remount, small_disk, tree
from tests.parts.doctor import examine
from tests.parts.local_user import NOBODY, locks_all
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import STATE, Site

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture
def site(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Site:
    """One list, installed."""
    site = make_site()
    idle_postfix.postconf(**mailman_parameters(site.maps, site.map_type))
    site.files.write(ANTS)
    assert site.once() == ""
    return site


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds to wait for a lock, instead of 30."""
    monkeypatch.setattr(lock_module, "LOCK_TIMEOUT", 1.0)
    return 1.0


def lock_of(site: Site) -> Path:
    """Return the path of the lock."""
    return site.state / "lock"


def make_old(path: Path) -> None:
    """Give the lock the mode that earlier versions used."""
    path.chmod(0o644)


def assert_private(path: Path) -> None:
    found = path.lstat()
    assert stat.S_ISREG(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)


def is_locked(descriptor: int) -> bool:
    """Return whether another descriptor has this file locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


# --- local users


@pytest.mark.parametrize("map_type", ["lmdb", "hash", "btree", "cdb"])
def test_sync_succeeds_while_a_local_user_locks_all_files(
    make_site: Callable[..., Site], idle_postfix: PostfixInstance, map_type: str
) -> None:
    site = make_site(map_type)
    idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
    site.files.write(ANTS)
    assert site.once() == ""
    index = next(site.maps.glob("postfix_lmtp.*"))
    with locks_all(site.state, site.maps) as locked:
        before = list(locked)
        site.files.write(ANTS, BEES)
        assert site.once() == ""
        assert site.once() == ""
        site.files.write(BEES)
        assert site.once() == ""
    assert {site.state / "status.json", index} <= set(before)
    assert lock_of(site) not in before
    assert lock_of(site) not in locked
    assert site.installed(RECIPIENTS).keys() == set(nine(BEES))
    assert site.stray() == set()


def test_doctor_prints_command_that_shows_who_locks_an_index(site: Site) -> None:
    index = site.maps / "postfix_lmtp.lmdb"
    with locks_all(index):
        report = examine(site)
    assert report["map:postfix_lmtp"]["seen"] == (
        f"{index}: another process keeps it locked; see which: fuser -v {index}"
    )


def test_daemon_applies_changes_while_a_local_user_locks_all_files(site: Site) -> None:
    make_old(lock_of(site))
    with RunningDaemon(site) as daemon:
        daemon.wait_until_it_watches()
        with locks_all(site.state, site.maps) as locked:
            site.files.write(ANTS, BEES)
            daemon.wait_for("lists: +1 list: " + BEES)
            assert lock_of(site) not in locked
        assert daemon.stop() == 0
    assert_private(lock_of(site))


def test_sync_replaces_lock_of_an_earlier_version_held_by_a_local_user(
    site: Site, impatient: float
) -> None:
    make_old(lock_of(site))
    with locks_all(site.state) as locked:
        assert lock_of(site) in locked
        site.files.write(ANTS, BEES)
        [warning] = site.once().splitlines()
        assert f"{lock_of(site)}: any user of this host could open it" in warning
        assert_private(lock_of(site))
        site.files.write(BEES)
        assert site.once() == "", "he has the file that was there, and not this one"
        assert site.state_files == STATE
    assert site.installed(RECIPIENTS).keys() == set(nine(BEES))


def test_doctor_warns_of_a_lock_that_other_users_can_open(site: Site) -> None:
    make_old(lock_of(site))
    report = examine(site)
    assert report.status("state_directory") == "warning"
    assert f"{lock_of(site)}: owner 0, mode 0644" in report["state_directory"]["seen"]
    assert report.fix("state_directory").status("state_directory") == "ok"
    assert_private(lock_of(site))


def test_setup_succeeds_while_a_local_user_locks_main_cf_tmp(
    site: Site, idle_postfix: PostfixInstance, impatient: float
) -> None:
    directory = idle_postfix.config_directory
    lock_file = directory / "main.cf.tmp"
    lock_file.write_bytes(b"")
    text = (directory / "main.cf").read_text()

    async def replace() -> None:
        main_cf = MainCf(await inspect(directory), site.state / "setup", "doctor")
        await main_cf.replace(text, f"{text}# edited\n")

    with locks_all(lock_file) as locked:
        assert locked == [lock_file]
        asyncio.run(replace())
    assert (directory / "main.cf").read_text() == f"{text}# edited\n"
    assert not lock_file.exists()


# --- lock files that exist already


def foreign(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def readable_by_its_group(path: Path) -> None:
    path.chmod(0o640)


@pytest.mark.parametrize("spoil", [make_old, readable_by_its_group, foreign, fifo])
def test_lock_that_other_users_can_open_is_replaced(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "lock"
    path.touch(0o600)
    spoil(path)

    async def take() -> None:
        async with lock(path) as held:
            assert_private(path)
            assert os.fstat(held).st_ino == path.stat().st_ino
            with path.open() as other:
                assert is_locked(other.fileno())

    asyncio.run(take())
    assert names(tmp_path) == ["lock"]


def test_private_lock_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state/lock"

    async def take() -> int:
        async with lock(path):
            return path.stat().st_ino

    assert asyncio.run(take()) == asyncio.run(take())
    assert_private(path)


def test_lock_that_cannot_be_replaced_is_used_unchanged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "1m") as state:
        path = state / "lock"
        path.touch(0o644)
        remount(state, "ro")

        async def take() -> None:
            async with lock(path):
                with path.open() as other:
                    assert is_locked(other.fileno())

        asyncio.run(take())


# --- earlier versions beside this one


def test_sync_waits_for_a_sync_of_an_earlier_version(site: Site) -> None:
    make_old(lock_of(site))
    site.files.write(ANTS, BEES)
    before = tree(site.maps)
    with lock_of(site).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with site.start("--once") as waiting:
            inode = lock_of(site).stat().st_ino
            wait_for(lambda: has_open(waiting.pid, inode), PATIENCE, "a sync that waits")
            assert tree(site.maps) == before
            fcntl.flock(held, fcntl.LOCK_UN)
            _, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (0, "")
    assert_private(lock_of(site))
    assert site.installed(RECIPIENTS).keys() == {*nine(ANTS), *nine(BEES)}


def has_open(pid: int, inode: int) -> bool:
    """Return whether a process has this file open."""
    try:
        return any(path.stat().st_ino == inode for path in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False


def test_sync_of_an_earlier_version_cannot_take_the_lock(tmp_path: Path) -> None:
    """It has opened the previous file before, or opens the new file now."""
    path = tmp_path / "lock"
    path.touch(0o644)

    async def take(old: int) -> None:
        async with lock(path):
            assert is_locked(old)
            with path.open() as new:
                assert is_locked(new.fileno())

    with path.open() as old:
        asyncio.run(take(old.fileno()))
        assert not is_locked(old.fileno())


def test_lock_is_replaced_once(tmp_path: Path) -> None:
    """Two processes whose timeouts end at the same time have the same file open."""
    path = tmp_path / "lock"
    path.touch(0o644)
    with path.open() as old, ExitStack() as opened:
        with staged_beside(path).open("w") as staged:
            staged_beside(path).chmod(0o600)
            fcntl.flock(staged, fcntl.LOCK_EX)
            assert _replace_lock(path, old.fileno(), opened) == -1, "another is doing it"
        new = _replace_lock(path, old.fileno(), opened)
        assert os.fstat(new).st_ino == path.stat().st_ino
        assert _replace_lock(path, old.fileno(), opened) == -1, "another has done it"
        assert os.fstat(new).st_ino == path.stat().st_ino
    assert names(tmp_path) == ["lock"]


def test_only_one_of_many_processes_that_replace_a_lock_holds_it(
    tmp_path: Path, impatient: float
) -> None:
    path = tmp_path / "lock"
    path.touch(0o644)
    at_work: list[int] = []
    most = 0
    done = 0

    async def work(number: int) -> None:
        nonlocal most, done
        try:
            async with lock(path):
                at_work.append(number)
                most = max(most, len(at_work))
                await asyncio.sleep(0.01)
                at_work.remove(number)
                done += 1
        except Busy:
            pass  # its timeout ended while another task held the lock

    async def all_at_once() -> None:
        await asyncio.gather(*map(work, range(20)))

    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asyncio.run(all_at_once())
    assert most == 1
    assert done
    assert names(tmp_path) == ["lock"]
    assert_private(path)
