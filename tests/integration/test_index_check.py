"""An index that was changed behind postfix-sync's back is rebuilt: at once, or within an hour."""

import json
import subprocess
from collections.abc import Callable

import pytest

from postfix_sync.model.map_names import ROUTES
from postfix_sync.postfix.map_directory import SAMPLE
from tests.parts.common import wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.disk import remount, small_disk
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

LISTS = [f"list{number:04}@lists.example.net" for number in range(1000)]
REBUILT = f"{ROUTES}: built again"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture(params=["lmdb", "hash"])
def site(
    request: pytest.FixtureRequest,
    make_site: Callable[..., Site],
    idle_postfix: PostfixInstance,
) -> Site:
    """A site with more addresses than the sample of a sync has."""
    made = make_site(request.param, options={"probe": {"level": "off"}})
    idle_postfix.postconf(**mailman_parameters(made.maps, request.param))
    made.files.write(*LISTS)
    assert len(LISTS) * len(nine(LISTS[0])) > 2 * SAMPLE
    assert made.once() == ""
    return made


def change_index(site: Site, address: str) -> None:
    """Change the value of an address in the index of the routes, and its time as little as can be.

    The index is newer than its text, as a sound one is.
    """
    table = f"{site.map_type}:{site.maps / ROUTES}"
    subprocess.run(
        ["postmap", "-c", site.config_directory, "-i", "-r", table],
        input=f"{address}\tlmtp:[192.0.2.1]:24\n".encode(),
        check=True,
    )
    assert site.lookup(ROUTES, [address]) == {address: "lmtp:[192.0.2.1]:24"}


def unsampled(site: Site) -> str:
    """Return an address whose change no sync has found, changed."""
    for name in LISTS:
        change_index(site, name)
        if REBUILT not in site.run("-v", "--once").stderr:
            return name
    raise AssertionError("each list is in the sample")


def expire_check(site: Site, hours: int = 1) -> None:
    """Have the last full check of the indexes be so long ago."""
    path = site.state / "texts.json"
    header, tables = path.read_bytes().split(b"\n", 1)
    noted = json.loads(header)
    noted["checked_at"] -= 3600 * hours
    path.write_bytes(json.dumps(noted).encode() + b"\n" + tables)


def test_changed_key_is_found_by_the_check_of_each_hour(site: Site) -> None:
    changed = unsampled(site)
    assert REBUILT not in site.run("-v", "--once").stderr, "checked a moment ago"
    expire_check(site)
    assert REBUILT in site.run("-v", "--once").stderr
    assert site.lookup(ROUTES, [changed]) == {changed: site.installed(ROUTES)[changed]}
    assert REBUILT not in site.run("-v", "--once").stderr


def test_no_list_waits_for_the_check_unless_it_is_long_overdue(site: Site) -> None:
    unsampled(site)
    site.files.write(*LISTS, "new@lists.example.net")
    expire_check(site)
    said = site.run("-v", "--once").stderr
    assert "lists: +1 list: new@lists.example.net" in said
    assert REBUILT not in said
    assert REBUILT in site.run("-v", "--once").stderr, "no list waits for this sync"
    unsampled(site)
    site.files.write(*LISTS)
    expire_check(site, 2)
    assert REBUILT in site.run("-v", "--once").stderr


def test_dry_run_leaves_the_check_to_a_sync(site: Site) -> None:
    changed = unsampled(site)
    expire_check(site)
    assert site.run("--once", "--dry-run").returncode == 0
    assert REBUILT in site.run("-v", "--once").stderr
    assert site.lookup(ROUTES, [changed]) == {changed: site.installed(ROUTES)[changed]}


def test_daemon_checks_each_key_at_its_start(site: Site) -> None:
    changed = unsampled(site)
    with RunningDaemon(site) as daemon:
        wait_for(lambda: REBUILT in daemon.log, 20, "the index to be rebuilt")
    assert site.lookup(ROUTES, [changed]) == {changed: site.installed(ROUTES)[changed]}


def test_wrong_key_is_remembered_until_it_is_repaired(site: Site) -> None:
    with small_disk(site.maps, "64m"):
        assert site.once() == ""
        changed = unsampled(site)
        expire_check(site)
        remount(site.maps, "ro")
        site.once(expect=1)
        remount(site.maps, "rw")
        assert REBUILT in site.run("-v", "--once").stderr
        assert site.lookup(ROUTES, [changed]) == {changed: site.installed(ROUTES)[changed]}
