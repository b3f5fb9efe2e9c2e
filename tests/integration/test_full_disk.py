"""A disk that is full or read-only keeps the old maps, until a sync can write again.

The tests mount a small tmpfs where the site has its maps, its state or its hosts file, and unmount
it in any case.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from tests.parts.common import public_directory
from tests.parts.disk import fill, mounted, names, remount, small_disk, tree
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import STATE, Site

MakeSite = Callable[..., Site]

FEW = ("ants@lists.example.net", "bees@lists.example.net")
MANY = (*FEW, *(f"list{number}@lists.example.net" for number in range(1500)))

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture(params=["lmdb", "hash"])
def site(
    request: pytest.FixtureRequest, make_site: MakeSite, idle_postfix: PostfixInstance
) -> Site:
    """A site with two lists; main.cf names its maps, so a good sync prints nothing."""
    made = make_site(request.param)
    idle_postfix.postconf(**mailman_parameters(made.maps, request.param))
    made.files.write(*FEW)
    return made


def assert_few(site: Site) -> None:
    """Check that the old maps are there, text and index."""
    for name in (ROUTES, RECIPIENTS):
        assert site.installed(name).keys() == {key for address in FEW for key in nine(address)}
    for name in MAP_NAMES:
        site.installed(name)


def assert_many(site: Site) -> None:
    """Check that the new maps are there, text and index, and no other file."""
    for name in (ROUTES, RECIPIENTS):
        assert len(site.installed(name)) == 9 * len(MANY)
    assert site.stray() == set()


def refused(site: Site, *paths: Path, reason: str) -> str:
    """Check that a sync fails for `reason` at or below each path; return its last hint."""
    said = site.once(expect=1).splitlines()
    assert len(said) == 2 * len(paths), said
    for path, message, hint in zip(paths, said[::2], said[1::2], strict=True):
        assert str(path) in message
        assert reason in message
        assert hint.startswith("postfix-sync: hint: ")
    return said[-1]


def kept_by(site: Site) -> list[Path]:
    """Return the files that a sync writes to the state directory and reports if it cannot.

    If only a generation could not be written, that is a warning.
    """
    return [
        site.state / "generations/2.json.gz",
        site.state / "sources/lists.json",
        site.state / "status.json",
    ]


@pytest.mark.parametrize("room", ["512k", "1300k"], ids=["not the text", "not the index"])
def test_maps_that_do_not_fit_on_the_disk_leave_the_old_ones(site: Site, room: str) -> None:
    with small_disk(site.maps, room):
        assert site.once() == ""
        assert_few(site)
        site.files.write(*MANY)
        hint = refused(site, site.maps, reason="No space left on device")
        assert "KiB are free there" in hint
        assert str(site.maps) in hint
        assert_few(site)
        refused(site, site.maps, reason="No space left on device")
        assert_few(site)
        remount(site.maps, "size=64m")
        assert site.once() == ""
        assert_many(site)


def test_full_disk_leaves_the_old_maps_until_there_is_room(site: Site) -> None:
    with small_disk(site.maps, "16m"):
        assert site.once() == ""
        filler = fill(site.maps)
        site.files.write(*MANY)
        before = tree(*(site.maps / name for name in MAP_NAMES))
        hint = refused(site, site.maps, reason="No space left on device")
        assert " 0 KiB are free" in hint
        assert tree(*(site.maps / name for name in MAP_NAMES)) == before
        assert_few(site)
        filler.unlink()
        assert site.once() == ""
        assert_many(site)


def test_read_only_map_directory_is_reported_and_used_once_it_is_writable(
    site: Site,
) -> None:
    with small_disk(site.maps, "16m"):
        assert site.once() == ""
        before = tree(site.maps)
        remount(site.maps, "ro")
        assert site.once() == "", "nothing is to be written, so nothing is in the way"
        site.files.write(*MANY)
        hint = refused(site, site.maps, reason="Read-only file system")
        assert f"findmnt -T {site.maps}" in hint
        assert tree(site.maps) == before
        assert_few(site)
        remount(site.maps, "rw")
        assert site.once() == ""
        assert_many(site)


def test_full_state_directory_delays_no_list(site: Site) -> None:
    with small_disk(site.state, "8m"):
        assert site.once() == ""
        assert site.status()["sources"]["lists"]["lists"] == len(FEW)
        filler = fill(site.state)
        site.files.write(*MANY)
        refused(site, *kept_by(site), reason="No space left on device")
        assert_many(site)
        assert site.status()["sources"]["lists"]["lists"] == len(FEW)
        filler.unlink()
        assert site.once() == ""
        assert site.status()["sources"]["lists"]["lists"] == len(MANY)
        assert site.state_files == STATE
        assert names(site.state / "sources") == ["lists.json"]


def test_read_only_state_directory_delays_no_list(site: Site) -> None:
    with small_disk(site.state, "8m"):
        assert site.once() == ""
        remount(site.state, "ro")
        site.files.write(*MANY)
        refused(site, *kept_by(site), reason="Read-only file system")
        assert_many(site)
        remount(site.state, "rw")
        assert site.once() == ""


def test_record_that_is_only_read_anew_need_not_be_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a source are read as a whole once an hour, and their record says when."""
    monkeypatch.setattr("postfix_sync.mailman.files.WHOLE_EVERY", 0.0)
    assert site.once() == ""
    with small_disk(site.state / "sources", "1m"):
        assert site.call("--once").returncode == 0
        written = (site.state / "sources/lists.json").read_bytes()
        assert site.call("--once").returncode == 0
        assert written != (site.state / "sources/lists.json").read_bytes()
        remount(site.state / "sources", "ro")
        done = site.call("--once")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def hosts_place() -> Iterator[Path]:
    """A directory with only a hosts file in it."""
    with public_directory() as directory:
        yield directory


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_unwritable_hosts_file_holds_back_the_routes_that_need_it(
    make_site: MakeSite, idle_postfix: PostfixInstance, hosts_place: Path, trouble: str
) -> None:
    hosts = hosts_place / "hosts"
    site = make_site(
        "hash",
        source={"address": "127.0.0.9"},
        options={"hosts": {"file": str(hosts), "chroot": "never"}},
    )
    idle_postfix.postconf(**mailman_parameters(site.maps, "hash"))
    with small_disk(hosts_place, "64k"):
        hosts.write_bytes(b"127.0.0.1 localhost\n")
        site.files.write(*FEW, hop="lmtp:[one]:8024")
        assert site.once() == ""
        before = hosts.read_bytes()
        assert b"127.0.0.9\tone\n" in before
        site.files.write(*FEW, hop="lmtp:[two]:8024")
        if trouble == "full":
            filler = fill(hosts_place)
            refused(site, hosts, reason="No space left on device")
            filler.unlink()
        else:
            remount(hosts_place, "ro")
            refused(site, hosts, reason="Read-only file system")
            remount(hosts_place, "rw")
        assert hosts.read_bytes() == before
        assert set(site.installed(ROUTES).values()) == {"lmtp:[one]:8024"}
        assert site.once() == ""
        assert names(hosts_place) == ["hosts"]
        assert b"127.0.0.9\ttwo\n" in hosts.read_bytes()
        assert set(site.installed(ROUTES).values()) == {"lmtp:[two]:8024"}


def test_hosts_file_mounted_into_read_only_directory_is_written_in_place(
    make_site: MakeSite, idle_postfix: PostfixInstance, hosts_place: Path
) -> None:
    """/etc/hosts is like this in a container with a read-only root."""
    hosts = hosts_place / "hosts"
    site = make_site(
        "hash",
        source={"address": "127.0.0.9"},
        options={"hosts": {"file": str(hosts), "chroot": "never"}},
    )
    idle_postfix.postconf(**mailman_parameters(site.maps, "hash"))
    site.files.write(*FEW, hop="lmtp:[one]:8024")
    with small_disk(hosts_place, "64k"):
        hosts.touch()
        with mounted(hosts, "--bind", str(site.hosts)):
            remount(hosts_place, "ro")
            assert site.once() == ""
            assert b"127.0.0.9\tone\n" in hosts.read_bytes()
        assert names(hosts_place) == ["hosts"]
    assert b"127.0.0.9\tone\n" in site.hosts.read_bytes()
