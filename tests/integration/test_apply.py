"""What a sync changes in the maps, in Postfix and in the hosts file, and what it leaves alone.

The real postmap builds the maps, for each map type that Postfix has. The tests of reloads and of
the queue use a running Postfix.
"""

import os
import shlex
import smtplib
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postfix_sync.model.map_names import ALIASES, DOMAINS, INDEX_SUFFIX, RECIPIENTS, ROUTES
from tests.conftest import need
from tests.parts.common import free_port, run, wait_for
from tests.parts.disk import Entry, mounted, tree
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import send
from tests.parts.mailman_files import domains_text, lmtp_text, nine
from tests.parts.postfix_instance import SENDER_DOMAIN, PostfixInstance, mailman_parameters
from tests.parts.site import Site

MakeSite = Callable[..., Site]

ANTS, BEES, CATS = "ants@lists.example.net", "bees@lists.example.net", "cats@cats.example"
DOGS, EELS = "dogs@dogs.example", "eels@eels.example"
TYPES = ["lmdb", "hash", "btree", "cdb"]
HOP = "lmtp:[127.0.0.1]:8024"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture(params=TYPES)
def site(
    request: pytest.FixtureRequest, make_site: MakeSite, idle_postfix: PostfixInstance
) -> Site:
    """A site with two lists installed, for each map type; a good sync prints nothing."""
    made = make_site(request.param)
    idle_postfix.postconf(
        **mailman_parameters(made.maps, request.param), virtual_alias_domains="mail.example"
    )
    made.files.write(ANTS, BEES)
    assert made.once() == ""
    return made


def index(site: Site, name: str) -> Path:
    """A map's index."""
    return site.maps / f"{name}{INDEX_SUFFIX[site.map_type]}"


def keys(*lists: str) -> set[str]:
    """Return all addresses of the lists."""
    return {key for name in lists for key in nine(name)}


def assert_holds(site: Site, *lists: str) -> None:
    """Check that the four maps contain exactly these lists, without aliases."""
    assert site.installed(ROUTES) == dict.fromkeys(keys(*lists), HOP)
    assert site.installed(RECIPIENTS) == {key: key for key in keys(*lists)}
    domains = {name.rpartition("@")[2] for name in lists}
    assert site.installed(DOMAINS) == {domain: domain for domain in domains}
    assert site.installed(ALIASES) == {}
    assert site.stray() == set()


def without_directory(site: Site) -> dict[Path, Entry]:
    """Return all files of the map directory, without the directory itself."""
    return tree(*(path for path in site.maps.iterdir()))


def test_sync_installs_then_changes_then_leaves_unchanged_maps_alone(site: Site) -> None:
    assert_holds(site, ANTS, BEES)
    site.files.write(BEES, CATS)
    assert site.once() == ""
    assert site.lookup(RECIPIENTS, nine(ANTS)) == {}
    assert site.lookup(ROUTES, nine(ANTS)) == dict.fromkeys(nine(ANTS), HOP)
    assert site.retire() == ""
    assert site.lookup(ROUTES, nine(ANTS)) == {}
    assert_holds(site, BEES, CATS)

    before = tree(site.maps, site.hosts)
    assert site.once() == ""
    # As `mailman aliases` does: it writes all files again, with the same entries.
    site.files.write(CATS, BEES)
    assert site.once() == ""
    assert tree(site.maps, site.hosts) == before

    site.files.write(BEES, CATS, aliases={"cats@mail.example": CATS})
    assert site.once() == ""
    assert site.installed(ALIASES) == dict(zip(nine("cats@mail.example"), nine(CATS), strict=True))
    assert site.installed(DOMAINS)["cats.example"] == "mail.example"
    site.files.write(BEES, CATS)
    assert site.once() == ""
    assert_holds(site, BEES, CATS)


def test_changed_next_hop_rewrites_only_the_routes(site: Site) -> None:
    before = without_directory(site)
    site.files.write(ANTS, BEES, hop="lmtp:[127.0.0.1]:8025")
    assert site.once() == ""
    after = without_directory(site)
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == {ROUTES, index(site, ROUTES).name}


def test_owner_and_mode_do_not_depend_on_the_umask(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    for umask, map_type in ((0o077, "hash"), (0, "lmdb"), (0o077, "lmdb"), (0o777, "cdb")):
        site = make_site(map_type)
        site.files.write(ANTS)
        old = os.umask(umask)
        try:
            site.once()
        finally:
            os.umask(old)
        files = list(site.maps.iterdir())
        assert len(files) == 8
        for path in files:
            found = path.stat()
            assert stat.S_IMODE(found.st_mode) == 0o644, path
            assert (found.st_uid, found.st_gid) == (0, 0), path
        for path in (site.maps, site.state):
            subprocess.run(["rm", "-r", str(path)], check=True)
    assert idle_postfix.config_directory.exists()


DAMAGE: dict[str, Callable[[Site, str], None]] = {
    "removed": lambda site, name: index(site, name).unlink(),
    "older": lambda site, name: os.utime(index(site, name), (1, 1)),
    "empty": lambda site, name: os.truncate(index(site, name), 0),
    "garbage": lambda site, name: (index(site, name).write_bytes(b"no index\n" * 4096), None)[1],
    "text removed": lambda site, name: (site.maps / name).unlink(),
    "text garbage": lambda site, name: (
        (site.maps / name).write_bytes(b"\xff no text\n"),
        None,
    )[1],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_map_is_rebuilt_although_no_entry_changed(
    site: Site, damage: Callable[[Site, str], None]
) -> None:
    for name in (ROUTES, DOMAINS):
        damage(site, name)
    kept = (RECIPIENTS, ALIASES)
    before = tree(*(site.maps / name for name in kept), *(index(site, name) for name in kept))
    assert site.once() == ""
    assert_holds(site, ANTS, BEES)
    after = tree(*(site.maps / name for name in kept), *(index(site, name) for name in kept))
    assert after == before


def test_index_of_another_map_type_is_rebuilt(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    """Both hash and btree use the suffix .db, but `hash:` cannot open what btree wrote."""
    site = make_site("hash")
    idle_postfix.postconf(**mailman_parameters(site.maps, "hash"))
    site.files.write(ANTS, BEES)
    assert site.once() == ""
    assert site.postmap(f"btree:{site.maps / ROUTES}").returncode == 0
    assert site.postmap("-q", ANTS, f"hash:{site.maps / ROUTES}").returncode != 0
    assert site.once() == ""
    assert_holds(site, ANTS, BEES)


def test_sync_keeps_index_of_previous_map_type_unchanged(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    """While setup changes the map type in main.cf, a running daemon may still use the old one."""
    site = make_site("hash", options={"postfix": {"map_type": "auto"}})
    site.files.write(ANTS, BEES)
    for map_type in ("hash", "lmdb"):
        idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
        assert site.once() == ""
    before = tree(*site.maps.iterdir())
    for map_type in ("hash", "lmdb"):
        idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
        assert site.once() == ""
        assert tree(*site.maps.iterdir()) == before


def test_index_that_lost_a_key_is_rebuilt(site: Site) -> None:
    """An in-place postmap of hash that was killed leaves a readable index without keys."""
    text = site.maps / ROUTES
    content = text.read_bytes()
    text.write_bytes(b"# nothing\n")
    assert site.postmap(f"{site.map_type}:{text}").returncode == 0
    text.write_bytes(content)
    os.utime(text, (1, 1))
    assert site.lookup(ROUTES, [ANTS]) == {}
    assert site.once() == ""
    assert_holds(site, ANTS, BEES)


@pytest.mark.parametrize("named", TYPES)
def test_map_type_auto_uses_the_type_in_main_cf(
    make_site: MakeSite, idle_postfix: PostfixInstance, named: str
) -> None:
    site = make_site(named, options={"postfix": {"map_type": "auto"}})
    idle_postfix.postconf(**mailman_parameters(site.maps, named))
    site.files.write(ANTS)
    assert site.once() == ""
    assert_holds(site, ANTS)


def test_map_type_auto_uses_lmdb_if_main_cf_names_no_map(make_site: MakeSite) -> None:
    site = make_site("lmdb", options={"postfix": {"map_type": "auto"}})
    site.files.write(ANTS)
    site.once()
    assert_holds(site, ANTS)


def without(idle_postfix: PostfixInstance, *missing: str) -> None:
    """Remove map types from this Postfix, with a dynamicmaps.cf that lacks them."""
    plugins = Path("/etc/postfix/dynamicmaps.cf.d")
    lines = [
        line
        for path in (Path("/etc/postfix/dynamicmaps.cf"), *plugins.glob("*"))
        if path.exists()
        for line in path.read_text().splitlines()
        if line.split()[:1] not in [[name] for name in missing]
    ]
    own = idle_postfix.config_directory / "meta"
    own.mkdir()
    (own / "dynamicmaps.cf").write_text("".join(f"{line}\n" for line in lines))
    idle_postfix.postconf(meta_directory=str(own))


def test_map_type_auto_uses_default_database_type_without_lmdb(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    without(idle_postfix, "lmdb")
    idle_postfix.postconf(default_database_type="btree")
    site = make_site("btree", options={"postfix": {"map_type": "auto"}})
    site.files.write(ANTS)
    site.once()
    assert_holds(site, ANTS)


def test_map_type_that_postfix_lacks_is_a_configuration_error(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    without(idle_postfix, "lmdb", "cdb")
    site = make_site("cdb")
    site.files.write(ANTS)
    message, hint = site.once(expect=78).splitlines()
    assert f"{idle_postfix.config_directory}: this Postfix has no map type cdb" in message
    assert " hash " in message
    assert "postfix.map_type" in hint
    assert not site.maps.exists()


def test_sync_succeeds_if_postfix_was_never_started(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    """Such a Postfix has no queue directories; `postfix start` creates them."""
    for name in ("maildrop", "incoming", "active", "deferred", "hold"):
        (idle_postfix.queue_directory / name).rmdir()
    site = make_site("hash")
    idle_postfix.postconf(**mailman_parameters(site.maps, "hash"))
    site.files.write(ANTS, BEES)
    assert site.once() == ""
    site.files.write(ANTS)
    assert site.once() == ""
    assert site.retire() == ""
    assert_holds(site, ANTS)


def test_verbose_sync_reports_that_postfix_is_not_running(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site("hash")
    idle_postfix.postconf(**mailman_parameters(site.maps, "hash"))
    site.files.write(ANTS)
    said = site.once("-v")
    assert "postfix: not running, so not reloaded" in said
    assert "lists: +1 list: ants@lists.example.net" in said


@pytest.fixture
def running(idle_postfix: PostfixInstance) -> Iterator[Callable[..., Site]]:
    """Start the Postfix of a site that has bees installed."""
    sites: list[Site] = []

    def start(make_site: MakeSite, map_type: str, **others: object) -> Site:
        site = make_site(map_type, **others)
        idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
        site.files.write(BEES)
        assert site.once() == ""
        idle_postfix.start()
        sites.append(site)
        return site

    yield start
    idle_postfix.stop()


def rewriters(postfix: PostfixInstance) -> set[int]:
    """Return the ids of this instance's trivial-rewrite processes."""
    master = (postfix.queue_directory / "pid/master.pid").read_text().strip()
    done = subprocess.run(
        ["pgrep", "-P", master, "trivial-rewrit"], capture_output=True, text=True, check=False
    )
    return {int(line) for line in done.stdout.split()}


@pytest.mark.parametrize(("map_type", "reloads"), [("hash", 1), ("lmdb", 0)])
def test_only_new_list_in_hash_map_reloads_postfix(
    make_site: MakeSite,
    idle_postfix: PostfixInstance,
    running: Callable[..., Site],
    map_type: str,
    reloads: int,
) -> None:
    site = running(make_site, map_type)
    site.files.write(ANTS, BEES)
    said = site.once("-v")
    assert idle_postfix.reloads == reloads
    assert ("postfix: reloaded" in said) is bool(reloads)
    for lists in ([BEES, ANTS], [BEES]):
        site.files.write(*lists)
        assert site.once() == ""
        assert idle_postfix.reloads == reloads
    assert site.retire() == ""
    assert_holds(site, BEES)


def test_sync_makes_pending_reload_of_interrupted_sync(
    make_site: MakeSite, idle_postfix: PostfixInstance, running: Callable[..., Site]
) -> None:
    """The routes are published and only the reload is missing: there is nothing to publish."""
    site = running(make_site, "hash")
    (site.maps / ".reload").touch()
    for _ in range(2):
        assert site.once() == ""
        assert idle_postfix.reloads == 1
    assert_holds(site, BEES)


def test_reload_always_reloads_once_per_change_only(
    make_site: MakeSite, idle_postfix: PostfixInstance, running: Callable[..., Site]
) -> None:
    site = running(make_site, "lmdb", options={"postfix": {"reload": "always"}})
    for reloads, lists in ((1, [ANTS, BEES]), (1, [BEES, ANTS]), (2, [BEES])):
        site.files.write(*lists)
        assert site.once() == ""
        assert idle_postfix.reloads == reloads


def test_reload_never_accepts_list_only_after_trivial_rewrite_has_restarted(
    make_site: MakeSite, idle_postfix: PostfixInstance, running: Callable[..., Site]
) -> None:
    with LmtpSink([*nine(ANTS), *nine(BEES)]) as sink:
        hop = f"lmtp:[127.0.0.1]:{sink.port}"
        site = running(make_site, "hash", options={"postfix": {"reload": "never"}})
        site.files.write(BEES, hop=hop)
        assert "postfix.reload is never" in site.once(expect=1), "it has moved"
        assert send(idle_postfix.port, BEES).accepted
        old = rewriters(idle_postfix)
        assert old
        site.files.write(ANTS, BEES, hop=hop)
        syncing = site.start("--once")
        try:
            wait_for(lambda: site.lookup(ROUTES, [ANTS]), 20, "the wider routes")
            # The routes are published. The list is not accepted while the old trivial-rewrite runs.
            while rewriters(idle_postfix) & old:
                accepted = site.lookup(RECIPIENTS, [ANTS])
                ended = syncing.poll() is not None
                assert not ((accepted or ended) and rewriters(idle_postfix) & old)
        finally:
            stdout, stderr = syncing.communicate(timeout=60)
        assert (syncing.returncode, stdout, stderr) == (0, "", "")
        assert site.installed(RECIPIENTS).keys() == keys(ANTS, BEES)
        assert send(idle_postfix.port, ANTS).accepted
        wait_for(lambda: len(sink.deliveries()) == 2, 20, "both messages")
    assert idle_postfix.reloads == 0
    assert idle_postfix.bounces() == []


def test_routes_of_removed_list_are_kept_while_its_mail_is_deferred(
    make_site: MakeSite, idle_postfix: PostfixInstance, running: Callable[..., Site]
) -> None:
    sink = LmtpSink([*nine(ANTS), *nine(BEES)])
    hop = f"lmtp:[127.0.0.1]:{sink.port}"
    site = running(make_site, "lmdb")
    site.files.write(ANTS, BEES, hop=hop)
    assert site.once() == ""
    assert send(idle_postfix.port, ANTS).accepted
    wait_for(idle_postfix.outcomes, 20, "the first try")
    assert [outcome.status for outcome in idle_postfix.outcomes()] == ["deferred"]

    site.files.write(BEES, hop=hop)
    assert site.once() == ""
    assert site.installed(RECIPIENTS).keys() == keys(BEES)
    assert not send(idle_postfix.port, ANTS).accepted
    assert site.retire() == ""
    assert site.installed(ROUTES).keys() == keys(BEES, ANTS)

    with sink:
        idle_postfix.command("postqueue", "-f")
        wait_for(sink.deliveries, 30, "the message that waited")
        idle_postfix.wait_for_empty_queue()
    assert idle_postfix.bounces() == []
    assert site.retire() == ""
    assert site.installed(ROUTES).keys() == keys(BEES)


def test_line_separator_in_sender_address_does_not_prevent_removal(
    make_site: MakeSite, idle_postfix: PostfixInstance, running: Callable[..., Site]
) -> None:
    """U+2028 ends a line for some parsers; postqueue prints it unescaped."""
    site = running(make_site, "lmdb")
    site.files.write(ANTS, BEES, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    assert site.once() == ""
    with smtplib.SMTP("127.0.0.1", idle_postfix.port) as client:
        client.command_encoding = "utf-8"
        client.ehlo("client.example")
        assert client.docmd(f"MAIL FROM:<a\u2028b@{SENDER_DOMAIN}> SMTPUTF8")[0] == 250
        assert client.docmd(f"RCPT TO:<{ANTS}>")[0] == 250
        assert client.data(b"Subject: tricky\r\n\r\n")[0] == 250
    wait_for(
        lambda: any("\u2028" in message["sender"] for message in idle_postfix.queue()),
        20,
        "the message in the queue",
    )
    site.files.write(BEES, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    site.once()
    assert site.retire() == ""
    assert site.installed(RECIPIENTS).keys() == keys(BEES)
    assert site.installed(ROUTES).keys() == keys(BEES, ANTS)


NAMED = "lmtp:[Mailman-Web]:8024"


@pytest.fixture
def addressed(make_site: MakeSite, idle_postfix: PostfixInstance) -> Site:
    """A site whose destinations get an address in the hosts file."""
    site = make_site("lmdb", source={"address": "127.0.0.9"})
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"))
    site.files.write(ANTS, hop=NAMED)
    return site


OURS = b"# BEGIN postfix-sync\n127.0.0.9\tmailman-web\n# END postfix-sync\n"

BLOCK = b"127.0.0.1 localhost\n# BEGIN postfix-sync\n%s# END postfix-sync\n"


def test_hosts_block_is_written_once_and_foreign_lines_are_kept(addressed: Site) -> None:
    foreign = b"127.0.0.1\tlocalhost # \xff\r\n\n::1 x\n"
    addressed.hosts.write_bytes(foreign)
    os.chown(addressed.hosts, 1, 2)
    addressed.hosts.chmod(0o640)
    assert addressed.once() == ""
    assert addressed.hosts.read_bytes() == foreign + OURS
    found = addressed.hosts.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1, 2)
    before = tree(addressed.hosts)
    addressed.files.write(ANTS, BEES, hop=NAMED)
    assert addressed.once() == ""
    assert tree(addressed.hosts) == before


def test_hosts_last_line_without_newline_is_kept(addressed: Site) -> None:
    addressed.hosts.write_bytes(b"127.0.0.1 localhost\n::1 last")
    assert addressed.once() == ""
    assert addressed.hosts.read_bytes() == b"127.0.0.1 localhost\n" + OURS + b"::1 last"
    before = tree(addressed.hosts)
    assert addressed.once() == ""
    assert tree(addressed.hosts) == before


def test_hosts_file_that_is_a_mount_is_changed_in_place(addressed: Site) -> None:
    behind = addressed.directory / "behind"
    behind.write_bytes(b"127.0.0.1 localhost\n")
    with mounted(addressed.hosts, "--bind", str(behind)):
        inode = addressed.hosts.stat().st_ino
        assert addressed.once() == ""
        assert addressed.hosts.stat().st_ino == inode
        assert addressed.hosts.read_bytes() == b"127.0.0.1 localhost\n" + OURS
        addressed.files.write(ANTS, hop="lmtp:[b]:8024")
        assert addressed.once() == ""
        both = (b"127.0.0.9\tb\n", b"127.0.0.9\tmailman-web\n")
        assert addressed.hosts.read_bytes() == BLOCK % b"".join(both)
        assert addressed.retire() == ""
        assert addressed.hosts.read_bytes() == BLOCK % both[0]
        assert addressed.hosts.stat().st_ino == inode
    assert behind.stat().st_ino == inode
    assert addressed.hosts.read_bytes() == b"127.0.0.1 localhost\n"
    assert not list(addressed.directory.glob(".hosts*"))


def test_immutable_hosts_file_holds_back_only_lists_whose_name_it_lacks(addressed: Site) -> None:
    """The error that root gets has a hint, whose commands show and remove the attribute."""
    addressed.once()
    chattr(addressed.hosts, "+i")
    try:
        addressed.files.write(ANTS, BEES, hop=NAMED)
        assert addressed.once() == ""  # the hosts file already has the name
        addressed.files.put(
            ROUTES,
            lmtp_text([ANTS, BEES, CATS], NAMED)
            + lmtp_text([DOGS], "lmtp:[elsewhere]:8024")
            + lmtp_text([EELS], "lmtp:[127.0.0.1]:8024"),
        )
        domains = [name.rpartition("@")[2] for name in (ANTS, CATS, DOGS, EELS)]
        addressed.files.put(DOMAINS, domains_text(dict(zip(domains, domains, strict=True))))
        message, hint = addressed.once(expect=77).splitlines()
        assert f"{addressed.hosts}: Operation not permitted" in message
        assert message.endswith(
            f"; held back, for want of elsewhere there: 1 list: {DOGS}; every other list goes in"
        )
        found = addressed.installed(RECIPIENTS).keys()
        assert found == keys(ANTS) | keys(BEES) | keys(CATS) | keys(EELS)
        assert set(addressed.installed(DOMAINS)) == {*domains} - {domains[2]}
        show = hint.partition("? see ")[2].partition(";")[0]
        assert "----i---" in run(*shlex.split(show))
        run(*shlex.split(hint.rpartition(": ")[2]))
        assert addressed.once() == ""
        assert addressed.installed(RECIPIENTS).keys() == found | keys(DOGS)
    finally:
        chattr(addressed.hosts, "-i")


def chattr(path: Path, change: str) -> None:
    """Change an attribute; before Linux 6.6, tmpfs has none."""
    done = subprocess.run(["chattr", change, str(path)], check=False, capture_output=True)
    need(done.returncode == 0, "a file system with attributes")


def test_hosts_name_on_a_foreign_line_is_reported_and_not_added(addressed: Site) -> None:
    foreign = b"10.0.0.1 other MAILMAN-web\n"
    addressed.hosts.write_bytes(foreign)
    warning, hint = addressed.once().splitlines()
    assert warning.startswith(f"postfix-sync: warning: {addressed.hosts}: mailman-web has")
    assert "10.0.0.1" in warning
    assert "127.0.0.9" in warning
    assert "remove mailman-web from that line" in hint
    assert addressed.hosts.read_bytes() == foreign
    addressed.hosts.write_bytes(b"127.0.0.9 mailman-web\n")
    assert addressed.once() == ""
    assert addressed.hosts.read_bytes() == b"127.0.0.9 mailman-web\n"


def test_hosts_copy_in_chroot_is_created_and_updated(
    addressed: Site, idle_postfix: PostfixInstance
) -> None:
    copy = idle_postfix.chroot_hosts
    assert not copy.exists()
    assert addressed.once() == ""
    assert copy.read_bytes() == addressed.hosts.read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o644
    for stale in (b"old\n", b""):
        copy.write_bytes(stale)
        assert addressed.once() == ""
        assert copy.read_bytes() == addressed.hosts.read_bytes()
    addressed.hosts.write_bytes(b"::1 new\n" + addressed.hosts.read_bytes())
    assert addressed.once() == ""
    assert copy.read_bytes() == addressed.hosts.read_bytes()


@pytest.mark.parametrize("case", ["chroot: never", "not chrooted", "no address"])
def test_hosts_file_is_not_copied_if_no_chroot_needs_it(
    addressed: Site, idle_postfix: PostfixInstance, case: str
) -> None:
    if case == "chroot: never":
        addressed.configure(hosts={"chroot": "never"})
    elif case == "not chrooted":
        idle_postfix.command("postconf", "-F", "lmtp/unix/chroot=n")
    else:
        path = str(addressed.files.directory)
        addressed.configure(sources=[{"name": "lists", "path": path}])
    assert addressed.once() == ""
    assert not idle_postfix.chroot_hosts.exists()
    assert (b"mailman-web" in addressed.hosts.read_bytes()) is (case != "no address")


def remedies(said: str) -> list[str]:
    """Return the commands in the hints of the warnings."""
    lines = said.splitlines()
    assert len(lines) % 2 == 0
    for warning, hint in zip(lines[::2], lines[1::2], strict=True):
        assert warning.startswith("postfix-sync: warning: main.cf: ")
        assert hint.startswith("postfix-sync: hint: postconf -c ")
    return [line.removeprefix("postfix-sync: hint: ") for line in lines[1::2]]


def obey(commands: list[str]) -> None:
    """Run each hint's postconf; the Postfix is not running, so the reload is left out."""
    for command in commands:
        subprocess.run(command.partition(" && ")[0], shell=True, check=True)


SPOILT = {
    "nothing": (
        {},
        {"transport_maps", "relay_domains", "relay_recipient_maps", "virtual_alias_maps"},
    ),
    "other maps": (
        {
            "transport_maps": "inline:{x.example=smtp:}",
            "relay_domains": "y.example, z.example",
            "relay_recipient_maps": "inline:{a@y.example=ok}",
            "virtual_alias_maps": "inline:{b@y.example=a@y.example}",
        },
        # The parameter with the list domain is a table that a sync does not query, so the domain's
        # address class is unknown.
        {"transport_maps", "virtual_alias_maps"},
    ),
    "another type": (
        {"transport_maps": "inline:{x.example=smtp:}, btree:MAPS/postfix_lmtp"},
        {"transport_maps", "relay_domains", "relay_recipient_maps", "virtual_alias_maps"},
    ),
}


@pytest.mark.parametrize(("main_cf", "parameters"), SPOILT.values(), ids=SPOILT.keys())
def test_main_cf_each_hint_fixes_its_warning(
    make_site: MakeSite,
    idle_postfix: PostfixInstance,
    main_cf: dict[str, str],
    parameters: set[str],
) -> None:
    site = make_site("lmdb")
    for name, value in main_cf.items():
        idle_postfix.postconf(**{name: value.replace("MAPS", str(site.maps))})
    site.files.write(ANTS)
    commands = remedies(site.once())
    assert {shlex.split(command)[4].partition(" ")[0] for command in commands} == parameters
    assert all(str(idle_postfix.config_directory) in command for command in commands)
    obey(commands)
    assert site.once() == ""
    for name, value in main_cf.items():
        present = idle_postfix.command("postconf", "-h", name)
        assert value.partition(",")[0] in present, "what was there before stays"


def test_main_cf_domain_in_mydestination_needs_local_recipient_maps(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site("lmdb")
    idle_postfix.postconf(mydestination="localhost, lists.example.net")
    site.files.write(ANTS)
    commands = remedies(site.once())
    assert {shlex.split(command)[4].partition(" ")[0] for command in commands} == {
        "transport_maps", "local_recipient_maps", "virtual_alias_maps",
    }  # fmt: skip
    obey(commands)
    assert site.once() == ""
    assert "postmaster" in idle_postfix.command("postconf", "-h", "local_recipient_maps")


def test_main_cf_next_hop_with_host_name_needs_native_lookup(
    addressed: Site, idle_postfix: PostfixInstance
) -> None:
    idle_postfix.postconf(lmtp_host_lookup="dns")
    (command,) = remedies(addressed.once())
    assert "lmtp_host_lookup = native" in command
    obey([command])
    assert addressed.once() == ""


def test_main_cf_next_hop_with_ip_address_needs_no_native_lookup(
    addressed: Site, idle_postfix: PostfixInstance
) -> None:
    idle_postfix.postconf(lmtp_host_lookup="dns")
    addressed.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    assert addressed.once() == ""
    assert addressed.hosts.read_bytes() == b"127.0.0.1 localhost\n"


def test_sync_prints_nothing_if_all_is_well(site: Site) -> None:
    done = site.run("--once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
