"""Hosts with unusual or broken files: a sync does what it can, and damages nothing."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from postfix_sync.model.table import Table
from postfix_sync.postfix.lmtp_client import PARAMETERS, lmtp_client
from postfix_sync.postfix.next_hop import next_hops_of
from tests.parts.disk import mounted
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS = "ants@lists.example.net"
HOP = "lmtp:[mailman-test]:8024"
MakeSite = Callable[..., Site]


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
@pytest.mark.parametrize("name", ["postfix_recipients", "postfix_lmtp"])
def test_truncated_text_of_a_map_is_not_an_empty_map(
    make_site: MakeSite, map_type: str, name: str
) -> None:
    site = make_site(map_type)
    site.files.write(ANTS)
    site.once()
    (site.maps / name).write_bytes(b"")
    site.files.directory.rename(site.directory / "away")
    site.once(expect=75)
    assert site.lookup(name, nine(ANTS)).keys() == set(nine(ANTS))
    (site.directory / "away").rename(site.files.directory)
    site.once()
    assert site.installed(name).keys() == set(nine(ANTS))


def test_guards_know_the_lists_if_the_recipients_are_truncated(make_site: MakeSite) -> None:
    site = make_site()
    site.files.write(ANTS)
    site.once()
    (site.maps / "postfix_recipients").write_bytes(b"")
    site.files.write()
    assert "names no list at all, 1 are installed" in site.once(expect=65)


def test_warnings_of_postmap_about_main_cf_are_not_errors(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site()
    with (idle_postfix.config_directory / "main.cf").open("a") as main_cf:
        main_cf.write("mynetworks = 127.0.0.1\nmynetworks = 127.0.0.2\n")
    assert "overriding earlier entry" in site.postmap("-q", "x", "static:x").stderr
    site.files.write(ANTS)
    assert "error" not in site.once()
    table = f"{site.map_type}:{site.maps / 'postfix_lmtp'}"
    assert site.postmap("-q", ANTS, table).stdout == "lmtp:[127.0.0.1]:8024\n"


def test_instance_without_master_cf_is_synced(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site(source={"address": "127.0.0.9"})
    (idle_postfix.config_directory / "master.cf").unlink()
    site.files.write(ANTS, hop=HOP)
    site.once()
    assert site.installed("postfix_lmtp").keys() == set(nine(ANTS))


@pytest.mark.parametrize("spoil", [lambda p: os.chown(p, 65534, 0), lambda p: p.chmod(0o777)])
def test_map_directory_that_others_may_write_to_is_refused(
    make_site: MakeSite, spoil: Callable[[Path], None]
) -> None:
    site = make_site()
    site.files.write(ANTS)
    site.maps.mkdir()
    spoil(site.maps)
    complaint = site.once(expect=77)
    assert f"{site.maps}: owner " in complaint
    assert list(site.maps.iterdir()) == []
    command = next(line for line in complaint.splitlines() if "hint: chown" in line)
    assert os.system(command.partition("hint: ")[2]) == 0
    site.once()


def test_link_in_the_staging_directory_is_not_followed(make_site: MakeSite) -> None:
    site = make_site()
    site.files.write(ANTS)
    victim = site.directory / "victim"
    victim.write_text("precious")
    (site.maps / ".staging").mkdir(parents=True)
    (site.maps / ".staging/postfix_lmtp").symlink_to(victim)
    site.once(expect=1)
    assert victim.read_text() == "precious"
    shutil.rmtree(site.maps / ".staging")
    site.once()


def test_read_only_etc_is_ignored_if_the_hosts_file_is_not_used(
    make_site: MakeSite, root: None
) -> None:
    site = make_site()
    etc = site.directory / "etc"
    etc.mkdir()
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    site.files.write(ANTS, hop=HOP)
    with mounted(etc, "-o", "bind,ro", str(etc)):
        site.configure(hosts={"file": str(etc / "hosts")})
        site.once()
        assert site.installed("postfix_lmtp").keys() == set(nine(ANTS))


def test_damaged_markers_are_an_error_only_if_the_hosts_file_is_used(make_site: MakeSite) -> None:
    site = make_site()
    site.hosts.write_text("# BEGIN postfix-sync\n127.0.0.1 localhost\n")
    site.files.write(ANTS, hop=HOP)
    assert "do not enclose one block" in site.once()
    site.configure(sources=[{"path": str(site.files.directory), "address": "127.0.0.9"}])
    assert "do not enclose one block" in site.once(expect=1)
    assert site.hosts.read_text() == "# BEGIN postfix-sync\n127.0.0.1 localhost\n"


def test_hosts_block_is_removed_with_the_configured_address(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site(source={"address": "127.0.0.9"})
    before = site.hosts.read_bytes()
    site.files.write(ANTS, hop=HOP)
    site.once()
    assert b"127.0.0.9\tmailman-test\n" in site.hosts.read_bytes()
    assert idle_postfix.chroot_hosts.read_bytes() == site.hosts.read_bytes()
    site.configure(sources=[{"path": str(site.files.directory)}])
    assert f"{site.hosts}\n- mailman-test 127.0.0.9\n" in site.call("--once", "--dry-run").stdout
    site.once()
    assert site.hosts.read_bytes() == idle_postfix.chroot_hosts.read_bytes() == before


def test_closed_standard_output_ends_the_command_silently(make_site: MakeSite) -> None:
    site = make_site()
    site.files.write(*(f"list{number}@b.example" for number in range(2000)))
    with site.start("--once", "--dry-run", "-q") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


def test_characters_missing_in_the_locale_are_escaped(make_site: MakeSite) -> None:
    site = make_site()
    site.files.write("bücher@lists.example.net")
    done = site.run("--once", "--dry-run", environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "+ b\\xfccher@lists.example.net " in done.stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('sources: [{path: "/srv/\\0x"}]', "sources[0].path: expected an absolute path"),
        (f"guard: {{max_size: {'9' * 400}KiB}}", "guard.max_size: expected a size"),
        ("a: &a {sources: [{path: /m}, {path: m}]}\n<<: *a", "sources[1].path: expected an abs"),
        ("postfix: {map_directory: /a b}", "main.cf could not name maps in"),
    ],
)
def test_odd_configurations_are_refused(make_site: MakeSite, text: str, problem: str) -> None:
    site = make_site()
    site.config.write_text(text)
    done = site.call("--once")
    assert done.returncode == 78
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("service", "level", "chrooted"),
    [
        ("lmtp unix - - y - - lmtp", "3.6", True),
        ("lmtp unix - - n - - lmtp", "0", False),
        ("lmtp unix - - - - - lmtp", "3.6", False),
        ("lmtp unix - - - - - lmtp", "0", True),
        ("smtp unix - - y - - smtp", "0", False),
    ],
)
def test_lmtp_is_chrooted_as_master_cf_and_compatibility_level_say(
    service: str, level: str, chrooted: bool
) -> None:
    values = {**dict.fromkeys(PARAMETERS, ""), "compatibility_level": level}
    services = f"pickup unix n - y 60 1 pickup\n{service}\n"
    found = asyncio.run(lmtp_client(Path("/nonexistent"), values, services))
    assert found.is_chrooted is chrooted


def test_next_hops_of_incomplete_lists_are_found() -> None:
    assert {hop.host for hop in next_hops_of(Table.of({ANTS: "lmtp:[old]:8024"}))} == {"old"}
