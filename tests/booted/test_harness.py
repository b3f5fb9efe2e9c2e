"""The hosts that the other tests boot: a real systemd and Postfix, and their complete removal."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.booted.conftest import need_booted_hosts
from tests.parts import debian_root
from tests.parts.booted import CHECKOUT, Booted
from tests.parts.common import PATIENCE, free_port, public_directory, wait_for
from tests.parts.debian_root import FORKY, RELEASES
from tests.parts.load import send
from tests.parts.namespaces import Network

pytestmark = [pytest.mark.booted, pytest.mark.slow]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the host's users can reach."""
    need_booted_hosts()
    with public_directory() as directory:
        yield directory


@pytest.mark.parametrize("release", RELEASES)
def test_host_boots_takes_mail_and_keeps_its_disk(release: str, directory: Path) -> None:
    """Postfix is a service of systemd; files on the disk outlive a reboot, bind mounts do not."""
    with Network("mx") as hosts:
        with Booted(release, directory, host=hosts["mx"]) as mx:
            mx.boot()
            mx.wait_for_unit("postfix")
            assert mx.run("cat", "/proc/1/comm") == "systemd\n"
            with hosts["mx"].inside():
                assert send(25, "root@mx.example.net").accepted
            mx.wait_for_message("postfix*", "status=sent")
            mx.path("/etc/kept").write_text("kept")
            (mx.shared / "volume").mkdir()
            (mx.shared / "volume/file").touch()
            mx.bind("volume", "/srv/volume")
            assert mx.run("ls", "/srv/volume") == "file\n"
            mx.reboot()
            assert mx.run("cat", "/etc/kept") == "kept"
            assert mx.run("ls", "/srv/volume") == ""
            with pytest.raises(RuntimeError, match=r"nonesuch\.service could not be found"):
                mx.systemctl("status", "nonesuch")
            leader = mx.leader
        assert not Path(f"/proc/{leader}").exists()
    assert not _holders(directory)


def test_unavailable_release_is_reported_or_an_older_root_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is down: without an older root, debian_root raises Unavailable."""
    need_booted_hosts()
    monkeypatch.setattr(debian_root, "CACHE", tmp_path)
    monkeypatch.setattr(debian_root, "_mirror", lambda: (f"http://127.0.0.1:{free_port()}/debian",))
    debian_root.recent.cache_clear()
    try:
        with pytest.raises(debian_root.Unavailable, match="no root of Debian forky can be made"):
            debian_root.debian_root(FORKY)
        (mark,) = (path.name.split("-")[2] for path in tmp_path.glob("*.making"))
        old = tmp_path / f"debian-forky-2025-01-01-{mark.removesuffix('.making')}"
        old.mkdir()
        assert debian_root.debian_root(FORKY) == old
    finally:
        debian_root.recent.cache_clear()
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path != old]


def test_host_and_its_mounts_end_with_a_killed_test(directory: Path) -> None:
    program = (
        "import pathlib, sys, time; from tests.parts.booted import Booted;"
        f" mx = Booted({RELEASES[0]!r}, pathlib.Path(sys.argv[1])).__enter__(); mx.boot();"
        " print(mx.leader, flush=True); time.sleep(1000)"
    )
    command = [sys.executable, "-c", program, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT, text=True) as test:
        assert test.stdout
        leader = Path(f"/proc/{int(test.stdout.readline())}")
        assert leader.exists()
        test.kill()
    wait_for(lambda: not leader.exists(), PATIENCE, "the end of the host")
    wait_for(lambda: not _holders(directory), PATIENCE, "the end of its mounts")


def _holders(directory: Path) -> list[Path]:
    """Return the /proc files of processes that have a mount below this directory."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mounts"):
        with suppress(OSError):  # the process has ended
            if str(directory) in mounts.read_text():
                found.append(mounts)
    return found
