"""doctor's checks of files: maps, sources, the state directory, free space and clock.

Each test causes a problem with real parts, runs doctor, runs the printed command in a shell, and
runs doctor again.
"""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.parts.daemon import install
from tests.parts.disk import fill, mounted, remount, small_disk, tree
from tests.parts.doctor import Report, examine
from tests.parts.mailman_files import MailmanFiles, nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site
from tests.parts.sshd import Sshd, make_key

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
MANY = [f"list{number}@lists.example.net" for number in range(12)]

MakeSite = Callable[..., Site]

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which the maps are kept that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def make_healthy(make_site: MakeSite, template: Path, idle_postfix: PostfixInstance) -> MakeSite:
    """Make a site with one list, installed and named by main.cf; takes make_site's arguments."""

    def make(map_type: str = "lmdb", **others: object) -> Site:
        site = make_site(map_type, **others)
        idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
        install(site, ANTS, template=template)
        site.once()
        return site

    return make


@pytest.fixture
def site(make_healthy: MakeSite) -> Site:
    """A site with one list, installed and named by main.cf."""
    return make_healthy()


def ours(report: Report) -> dict[str, str]:
    """Return the status of each finding of this module's checks that is not ok."""
    mine = ("map", "in_step", "interrupted", "other_maps", "source", "events", "ssh_keys")
    rest = ("state_directory", "room", "clock", "passes")
    return {
        name: status for name, status in report.troubles.items() if name.startswith((*mine, *rest))
    }


def sees(site: Site, name: str, status: str) -> Report:
    """Return doctor's report, in which the check `name` must have this status."""
    report = examine(site)
    assert report.status(name) == status, report.checks.get(name, report.checks.keys())
    return report


def test_healthy_host_has_no_findings_and_is_not_changed(site: Site) -> None:
    before = tree(site.directory)
    report = examine(site)
    assert ours(report) == {}
    assert tree(site.directory) == before, "doctor changes nothing"
    assert {
        "map_directory",
        "map:postfix_lmtp",
        "map:postfix_recipients",
        "map:postfix_domains",
        "map:postfix_vmap",
        "interrupted_pass",
        "in_step",
        "other_maps",
        "source:lists",
        "events:lists",
        "state_directory",
        "room:map_directory",
        "room:state_directory",
        "room:queue_directory",
        "clock",
        "passes",
    } <= report.checks.keys()
    source = report["source:lists"]["seen"]
    assert source.startswith(f"{site.files.directory}: 1 list, 9 addresses; written 20")
    assert source.endswith(", owner 0:0, mode 0644")


def test_maps_missing_before_first_sync_are_built_by_the_fix(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    """Problem 4: main.cf names maps that are not built, so every recipient gets a 451."""
    site = make_site()
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"))
    site.files.write(ANTS)
    site.configure()
    report = examine(site)
    for name in ("map_directory", "map:postfix_lmtp", "map:postfix_vmap", "in_step"):
        assert report.status(name) == "failure", name
        assert report[name]["fix"] == f"postfix-sync -c {site.config} --once"
    assert "451 Temporary lookup failure" in report["map:postfix_lmtp"]["why"]
    assert report.status("passes") == "warning"
    assert ours(report.fix("map:postfix_lmtp")) == {}


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_missing_index_is_reported_and_rebuilt(make_healthy: MakeSite, map_type: str) -> None:
    """Problems 1, 4 and 11: postfix_vmap exists although Mailman has none."""
    site = make_healthy(map_type)
    index = {"lmdb": "postfix_vmap.lmdb", "hash": "postfix_vmap.db"}[map_type]
    (site.maps / index).unlink()
    report = sees(site, "map:postfix_vmap", "failure")
    assert report["map:postfix_vmap"]["seen"] == f"{site.maps / index}: no such file"
    assert ours(report.fix("map:postfix_vmap")) == {}


def test_text_newer_than_its_index_is_reported_and_rebuilt(site: Site) -> None:
    """Problem 3: an operator edits the text, and Postfix warns that the index is older."""
    text = site.maps / "postfix_recipients"
    text.write_text(text.read_text() + f"{BEES} OK\n")
    os.utime(text, (time.time() + 30, time.time() + 30))
    report = sees(site, "map:postfix_recipients", "failure")
    assert "is older than its text by" in report["map:postfix_recipients"]["seen"]
    assert ours(report.fix("map:postfix_recipients")) == {}
    assert site.installed("postfix_recipients").keys() == set(nine(ANTS))


@pytest.mark.parametrize("map_type", ["lmdb", "hash", "cdb"])
def test_truncated_index_is_reported_and_rebuilt(make_healthy: MakeSite, map_type: str) -> None:
    """Problem 19: the disk was full, or power failed, during a build."""
    site = make_healthy(map_type)
    suffix = {"lmdb": ".lmdb", "hash": ".db", "cdb": ".cdb"}[map_type]
    os.truncate(site.maps / f"postfix_lmtp{suffix}", 700)
    report = sees(site, "map:postfix_lmtp", "failure")
    assert ours(report.fix("map:postfix_lmtp")) == {}


def test_index_that_differs_from_its_text_is_reported_and_rebuilt(site: Site) -> None:
    """The index is newer than its text, but has other entries."""
    other = site.directory / "postfix_lmtp"
    other.write_text("nobody@lists.example.net lmtp:[127.0.0.1]:1\n")
    assert site.postmap(f"lmdb:{other}").returncode == 0
    shutil.copy(f"{other}.lmdb", site.maps / "postfix_lmtp.lmdb")
    report = sees(site, "map:postfix_lmtp", "failure")
    assert "does not hold what" in report["map:postfix_lmtp"]["seen"]
    assert ours(report.fix("map:postfix_lmtp")) == {}


def test_text_that_is_not_a_map_is_rebuilt(site: Site) -> None:
    (site.maps / "postfix_domains").write_bytes(b"\xff\n")
    report = sees(site, "map:postfix_domains", "failure")
    assert ours(report.fix("map:postfix_domains")) == {}


def test_maps_of_another_owner_or_writable_by_others_are_fixed(site: Site) -> None:
    """Problem 14: root's postmap changes to the text's owner, who must not write the index."""
    text = site.maps / "postfix_lmtp"
    os.chown(text, 999, 999)
    report = sees(site, "map:postfix_lmtp", "warning")
    assert "Permission denied" in report["map:postfix_lmtp"]["why"]
    assert ours(report.fix("map:postfix_lmtp")) == {}
    text.chmod(0o666)
    report = sees(site, "map:postfix_lmtp", "warning")
    assert ours(report.fix("map:postfix_lmtp")) == {}
    assert stat.S_IMODE(text.stat().st_mode) == 0o644


def test_map_directory_writable_by_other_users_is_fixed(site: Site) -> None:
    site.maps.chmod(0o777)
    report = sees(site, "map_directory", "failure")
    assert ours(report.fix("map_directory")) == {}
    os.chown(site.maps, 999, -1)
    report = sees(site, "map_directory", "failure")
    assert ours(report.fix("map_directory")) == {}


def test_interrupted_sync_is_completed_by_the_fix(site: Site) -> None:
    (site.maps / ".staging").mkdir()
    report = sees(site, "interrupted_pass", "warning")
    assert ours(report.fix("interrupted_pass")) == {}
    assert not (site.maps / ".staging").exists()


def test_maps_behind_the_sources_are_synced_by_the_fix(site: Site) -> None:
    """Problems 2 and 10: Mailman has the list, but Postfix's maps do not."""
    site.files.write(ANTS, BEES)
    report = sees(site, "in_step", "failure")
    assert report["in_step"]["seen"] == f"the maps are behind the sources: lists: +1 list: {BEES}"
    assert ours(report.fix("in_step")) == {}


def test_other_map_without_index_is_built_by_the_fix(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    """Problem 4 with maps of the operator's, in main.cf and in master.cf."""
    access, senders = site.directory / "access", site.directory / "senders"
    virtual = site.directory / "virtual"
    idle_postfix.postconf(
        smtpd_restriction_classes="strict",
        strict=f"check_recipient_access hash:{access}",
        smtpd_recipient_restrictions="check_sender_access inline:{x@example.org=strict},"
        f" check_client_access {{ cidr:{site.directory}/cidr, default_action=defer }}, permit",
        # Postfix creates the first two itself, and newaliases(1) the third.
        smtp_tls_session_cache_database=f"btree:{site.directory}/smtp_scache",
        smtp_sasl_auth_cache_name=f"proxy:btree:{site.directory}/sasl_cache",
        alias_database=f"hash:{site.directory}/aliases",
        virtual_alias_maps=f"lmdb:{site.maps}/postfix_vmap, hash:{virtual}",
    )
    master = idle_postfix.config_directory / "master.cf"
    master.write_text(
        master.read_text().replace(
            "- smtpd\n",
            f"- smtpd\n  -o smtpd_sender_restrictions=check_sender_access,lmdb:{senders}\n",
        )
    )
    access.write_text("x@example.org OK\n")
    virtual.write_text("x@example.org y\n")
    report = examine(site)
    failures = {name: status for name, status in ours(report).items() if status == "failure"}
    assert failures == ours(report)
    assert ours(report).keys() == {
        f"other_maps:hash:{access}",
        f"other_maps:hash:{virtual}",
        f"other_maps:cidr:{site.directory}/cidr",
        f"other_maps:lmdb:{senders}",
    }
    named = report[f"other_maps:lmdb:{senders}"]
    assert named["seen"].startswith("127.0.0.1:")
    assert "/inet/smtpd_sender_restrictions names lmdb:" in named["seen"]
    assert named["fix"] is None, "there is no text to build it from"
    assert report[f"other_maps:cidr:{site.directory}/cidr"]["fix"] is None
    report.run_fix(f"other_maps:hash:{virtual}")
    after = ours(report.fix(f"other_maps:hash:{access}"))
    assert after.keys().isdisjoint({f"other_maps:hash:{path}" for path in (access, virtual)})
    long_ago = time.time() - 1000
    os.utime(access, (long_ago, long_ago))
    os.utime(f"{access}.db", (long_ago - 10, long_ago - 10))
    report = sees(site, f"other_maps:hash:{access}", "warning")
    assert f"other_maps:hash:{access}" not in ours(report.fix(f"other_maps:hash:{access}"))


# --- sources


def test_source_not_written_yet_keeps_the_last_good_lists(site: Site) -> None:
    """Problem 5: Mailman before 3.3.1 does not write its files when it starts."""
    (site.files.directory / "postfix_lmtp").unlink()
    (site.files.directory / "postfix_domains").unlink()
    report = sees(site, "source:lists", "failure")
    seen = report["source:lists"]["seen"]
    assert "No such file or directory; the last good lists stay in use" in seen
    assert "mailman aliases" in report["source:lists"]["why"]
    assert report.status("in_step") == "ok"
    site.files.write(ANTS)  # what `mailman aliases` does
    assert ours(examine(site)) == {}


def test_files_of_a_wrong_type_are_each_reported(site: Site, idle_postfix: PostfixInstance) -> None:
    """doctor reports each of them, none hides another, and there is no traceback."""
    lmtp = site.files.directory / "postfix_lmtp"
    lmtp.unlink()
    lmtp.symlink_to(lmtp)
    shutil.rmtree(site.state)
    site.state.write_bytes(b"")
    site.hosts.unlink()
    site.hosts.mkdir()
    idle_postfix.postconf(queue_minfree="much")
    report = examine(site)
    assert report.status("source:lists") == "failure"
    assert "is a symbolic link, not a regular file" in report["source:lists"]["seen"]
    assert report.status("events:lists") == "ok"
    assert report["state_directory"]["seen"] == f"{site.state}: is not a directory"
    assert report.status("state_directory") == "failure"
    assert report["hosts"]["seen"].startswith(f"{site.hosts}: is a directory, not a regular")
    assert report["hosts"]["fix"] is None
    assert report.status("room:queue_directory") == "ok"


def test_file_in_place_of_map_directory_is_reported(site: Site) -> None:
    shutil.rmtree(site.maps)
    site.maps.write_bytes(b"")
    report = examine(site)
    assert report.troubles == {"maps": "failure"}
    assert f"{site.maps}/postfix_lmtp: Not a directory" in report["maps"]["seen"]


def test_source_without_its_volume_is_reported(site: Site) -> None:
    site.files.directory.rename(site.directory / "away")
    report = sees(site, "source:lists", "failure")
    assert "is the volume mounted" in report["source:lists"]["why"]


def _cut(site: Site) -> str:
    path = site.files.directory / "postfix_lmtp"
    path.write_bytes(path.read_bytes()[:-200])
    return "truncated"


def _part(site: Site) -> str:
    path = site.files.directory / "postfix_lmtp"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-4]))
    return "belongs to no list that has all its 9 addresses: the file is truncated"


def _merged_columns(site: Site) -> str:
    site.files.write(ANTS, aliases={"bees@long.example": "bees@lists.example.net"})
    path = site.files.directory / "postfix_vmap"
    path.write_text(path.read_text().replace(" ", "").replace("#", "# ").replace("\n\n", "\n"))
    return "is not a key, blanks and a value"


def _no_alias_domain(site: Site) -> str:
    site.files.write(ANTS, aliases={"bees@long.example": "bees@lists.example.net"})
    path = site.files.directory / "postfix_vmap"
    path.write_text(path.read_text().replace("bees@lists.example.net", "bees@"))
    return "the domain is missing"


def _half_written(site: Site) -> str:
    path = site.files.directory / "postfix_domains"
    path.write_text(path.read_text().replace("lists.example.net", "other.example"))
    return "postfix_domains"


def _two_addresses(site: Site) -> str:
    site.files.write(ANTS, hop="lmtp:[172.17.0.3 172.18.0.3]:8024")
    return "the next hop names more than one host in one bracket"


def _any_address(site: Site) -> str:
    site.files.write(ANTS, hop="lmtp:[0.0.0.0]:8024")
    return "0.0.0.0 is an address to listen on, not one to connect to"


def test_malformed_source_files_are_reported_and_maps_are_kept(site: Site) -> None:
    """Problems 6, 7, 8, 12, 22, 23: the finding names the line; the maps are not changed."""
    everything: list[Callable[[Site], str]] = [
        *(_cut, _part, _merged_columns, _no_alias_domain, _half_written),
        *(_two_addresses, _any_address),
    ]
    for spoil in everything:
        site.files.write(ANTS)
        said = spoil(site)
        report = sees(site, "source:lists", "failure")
        assert said in report["source:lists"]["seen"]
        assert report["source:lists"]["why"]
        assert report["source:lists"]["fix"] is None
        assert report.status("in_step") == "ok"
    assert site.installed("postfix_recipients").keys() == set(nine(ANTS))
    site.files.write(ANTS)
    assert ours(examine(site)) == {}


def test_configured_next_hop_replaces_the_one_mailman_wrote(site: Site) -> None:
    """Problems 22 to 24: `destination` is the remedy for a next hop that can't be used."""
    _any_address(site)
    site.configure(
        sources=[
            {
                "name": "lists",
                "path": str(site.files.directory),
                "destination": "lmtp:[127.0.0.1]:8024",
            }
        ]
    )
    assert ours(examine(site)) == {}


def test_source_that_lost_all_lists_is_refused_without_a_fix(make_healthy: MakeSite) -> None:
    """Problem 9: the guard refuses; only an operator knows whether the lists were removed."""
    site = make_healthy()
    site.files.write(ANTS, *MANY)
    site.once()
    site.files.write()
    report = sees(site, "source:lists", "failure")
    assert "names no list at all, 13 are installed; refused" in report["source:lists"]["seen"]
    assert "if all lists were really removed" in report["source:lists"]["why"]
    assert report["source:lists"]["fix"] is None
    site.files.write(ANTS, *MANY)
    assert ours(examine(site)) == {}


def test_source_of_regular_expressions_is_ok(site: Site) -> None:
    """Problem 17: docker-mailman writes these."""
    site.files.write(ANTS, regex=True)
    report = examine(site)
    assert ours(report) == {}
    assert ", as regular expressions; written" in report["source:lists"]["seen"]


def test_unreadable_files_are_fixed_by_mode_and_keep_their_owner(site: Site) -> None:
    """Problem 44: the fix does not chown the files, because Mailman has to write them."""
    path = site.files.directory / "postfix_lmtp"
    os.chown(path, 999, 999)
    path.chmod(0)
    report = sees(site, "source:lists", "failure")
    assert f"{path} has owner 999, mode 0000" in report["source:lists"]["seen"]
    assert report["source:lists"]["fix"] == f"chmod u+rX {path}"
    assert ours(report.fix("source:lists")) == {}
    assert path.stat().st_uid == 999


def test_world_writable_source_file_is_fixed(site: Site) -> None:
    (site.files.directory / "postfix_lmtp").chmod(0o666)
    report = sees(site, "source:lists", "warning")
    assert ours(report.fix("source:lists")) == {}


def test_source_file_that_is_a_mount_point_is_reported(site: Site) -> None:
    """Problem 45: the mount keeps the old inode when Mailman renames a new file to its name."""
    path = site.files.directory / "postfix_lmtp"
    with mounted(path, "--bind", str(path)):
        report = sees(site, "events:lists", "failure")
        assert report["events:lists"]["seen"] == f"{path}: is a mount of its own"
        assert report["events:lists"]["fix"] is None
    assert ours(examine(site)) == {}


def test_ssh_keys_that_other_users_can_read_or_change_are_fixed(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    """The identity and known_hosts; a healthy source over SSH has no finding."""
    site = make_site()
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"))
    site.files.write(ANTS)
    identity = make_key(site.directory / "id_ed25519")
    known_hosts = site.directory / "known_hosts"
    with Sshd(site.directory / "sshd") as server:
        server.authorize(identity, "restrict")
        server.write_known_hosts(known_hosts)
        login = {
            "host": server.host,
            "port": server.port,
            "user": "root",
            "identity": str(identity),
            "known_hosts": str(known_hosts),
        }
        source = {"name": "far", "path": str(site.files.directory), "ssh": login}
        site.configure(sources=[source])
        site.once()
        report = examine(site)
        assert ours(report) == {}
        assert report["source:far"]["seen"].endswith(": 1 list, 9 addresses")

        identity.chmod(0o644)
        report = sees(site, "source:far", "failure")
        assert report["source:far"]["fix"] == f"chmod 600 {identity}"
        assert ours(report.fix("source:far")) == {}

        known_hosts.chmod(0o666)
        report = sees(site, f"ssh_keys:{known_hosts}", "warning")
        assert ours(report.fix(f"ssh_keys:{known_hosts}")) == {}

        known_hosts.write_text("")
        report = sees(site, "source:far", "failure")
        assert "is not in" in report["source:far"]["seen"]
        assert "compare it with: ssh-keygen -lf" in report["source:far"]["why"]
        assert report["source:far"]["fix"] is None, "only an operator can verify the key"


# --- the state directory, free space, clock, and what runs the syncs


def test_state_directory_of_another_owner_is_fixed(site: Site) -> None:
    os.chown(site.state, 999, -1)
    report = sees(site, "state_directory", "warning")
    assert ours(report.fix("state_directory")) == {}


@pytest.mark.parametrize("minfree", ["message_size_limit", "queue_minfree"])
def test_queue_directory_without_free_space_is_reported(
    site: Site, idle_postfix: PostfixInstance, minfree: str
) -> None:
    """smtpd(8): 452 4.3.1 Insufficient system storage."""
    room = os.statvfs(idle_postfix.queue_directory)
    free = room.f_bavail * room.f_frsize
    idle_postfix.postconf(**{minfree: str(2 * free)})
    report = sees(site, "room:queue_directory", "failure")
    assert "452 Insufficient system storage" in report["room:queue_directory"]["why"]


@pytest.fixture
def small_site(site: Site) -> Iterator[Site]:
    """The site, with its maps on a file system of their own."""
    kept = site.directory / "kept"
    site.maps.rename(kept)
    with small_disk(site.maps, "24m"):
        shutil.copytree(kept, site.maps, dirs_exist_ok=True)
        yield site


def test_full_disk_of_the_maps_is_reported(small_site: Site) -> None:
    report = sees(small_site, "room:map_directory", "ok")
    filler = fill(small_site.maps)
    report = sees(small_site, "room:map_directory", "failure")
    assert "the maps can't be built again" in report["room:map_directory"]["why"]
    filler.unlink()
    assert sees(small_site, "room:map_directory", "ok")
    room = os.statvfs(small_site.maps)
    remount(small_site.maps, f"nr_inodes={room.f_files - room.f_ffree + 5}")
    report = sees(small_site, "room:map_directory", "failure")
    assert " inodes free" in report["room:map_directory"]["seen"]


def test_read_only_disk_of_the_maps_is_reported(small_site: Site) -> None:
    remount(small_site.maps, "ro")
    report = sees(small_site, "room:map_directory", "failure")
    assert report["room:map_directory"]["seen"].endswith("the file system is read-only")


def test_file_time_in_the_future_is_reported(site: Site) -> None:
    later = time.time() + 3600
    os.utime(site.files.directory / "postfix_lmtp", (later, later))
    report = sees(site, "clock", "warning")
    assert f"{site.files.directory / 'postfix_lmtp'} is of 20" in report["clock"]["seen"]


def test_missing_syncs_are_reported_with_a_working_cron_line(site: Site) -> None:
    path = site.state / "status.json"
    updated = site.status()["updated"]
    path.write_text(path.read_text().replace(updated, "2026-01-01T00:00:00Z"))
    report = sees(site, "passes", "warning")
    line = report["passes"]["why"].partition("/etc/cron.d/postfix-sync: ")[2]
    assert line.startswith("* * * * * root /")
    as_cron = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    command = line.removeprefix("* * * * * root ")
    done = subprocess.run(["sh", "-c", command], env=as_cron, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert examine(site).status("passes") == "ok"
    path.write_text(path.read_text().replace(site.status()["updated"], "2026-01-01T00:00:00Z"))
    assert ours(examine(site).fix("passes")) == {}


def test_program_is_named_by_the_path_it_was_started_under(site: Site, public: Path) -> None:
    """`make install`, pipx or a package may put the program outside cron's PATH."""
    installed = public / "postfix-sync"
    installed.symlink_to(Path(sys.executable).with_name("postfix-sync"))
    path = site.state / "status.json"
    path.write_text(path.read_text().replace(site.status()["updated"], "2026-01-01T00:00:00Z"))
    by_path = {**os.environ, "PATH": f"{public}:/usr/bin:/bin"}
    command = ["postfix-sync", "-c", str(site.config), "doctor", "--json"]
    done = subprocess.run(
        ["sh", "-c", shlex.join(command)], env=by_path, check=False, capture_output=True, text=True
    )
    [why] = [
        check["why"] for check in json.loads(done.stdout)["checks"] if check["name"] == "passes"
    ]
    assert f"* * * * * root {installed} -c {site.config} --once" in why


def test_directory_that_does_not_exist_has_no_events(site: Site) -> None:
    site.files.directory.rename(site.files.directory.with_suffix(".aside"))
    report = examine(site)
    assert report.status("events:lists") == "warning"
    assert report["events:lists"]["seen"] == f"{site.files.directory}: there is no such directory"


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ("max_inotify_instances", "fs.inotify.max_user_instances"),
        ("max_inotify_watches", "fs.inotify.max_user_watches"),
    ],
)
def test_exhausted_limit_of_inotify_is_named(site: Site, limit: str, name: str) -> None:
    """The limit is that of a user namespace, so that it affects no other process."""
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    probe = subprocess.run([*inside, "true"], check=False, capture_output=True)
    need(probe.returncode == 0, "user namespaces")
    script = f'echo 0 > /proc/sys/user/{limit} && exec "$@"'
    command = [*site.command, "-c", str(site.config), "doctor", "--json"]
    done = subprocess.run([*inside, script, "sh", *command], check=False, capture_output=True)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    found = checks["events:lists"]
    assert found["status"] == "warning"
    assert f"({name} is " in found["seen"]
    assert re.match(
        rf"echo '{re.escape(name)} = \d+' >> /etc/sysctl\.d/\S+ && sysctl -p ", found["fix"]
    )


def test_members_of_a_cluster_with_different_lists_get_a_warning(site: Site) -> None:
    """BEES was removed through one of them, or created through the other."""
    other = MailmanFiles(site.directory / "other")
    site.files.write(ANTS)
    other.write(ANTS, BEES)
    paths = {"mm1": site.files.directory, "mm2": other.directory}
    site.configure(
        sources=[{"name": name, "path": str(path), "cluster": "mm"} for name, path in paths.items()]
    )
    found = examine(site)["replicas:mm"]
    assert (found["status"], found["seen"]) == ("warning", f"the files of mm1 lack {BEES}")
    assert found["why"].endswith("docker exec -u mailman CONTAINER mailman aliases)")
    containers = [
        {"name": name, "path": str(path), "cluster": "mm", "address": f"podman:{name}"}
        for name, path in paths.items()
    ]
    site.configure(sources=containers)
    assert examine(site)["replicas:mm"]["fix"] == (
        "podman exec -u mailman mm1 mailman aliases && podman exec -u mailman mm2 mailman aliases"
    )
    site.files.write(ANTS, BEES)
    assert examine(site).status("replicas:mm") == "ok"
