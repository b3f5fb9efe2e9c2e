"""Changes become visible to Postfix's running processes, wherever postfix-sync runs."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postfix_sync.model.installed import MOVED_LISTS
from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.postfix.processes import STARTED_WITH
from postfix_sync.postfix.reload_note import NAME as RELOAD_NOTE
from tests.conftest import need
from tests.parts.common import free_port, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.disk import mounted
from tests.parts.kill_at import Ended, Killer
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import rcpt, send
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import COMMAND, Site

MakeSite = Callable[..., Site]
Start = Callable[..., Site]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES, CATS = "ants@lists.example.net", "bees@lists.example.net", "cats@lists.example.net"
MOTHS = "moths@two.example"

IN_A_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", *COMMAND)


@pytest.fixture
def sink() -> Iterator[LmtpSink]:
    """A Mailman's LMTP server that knows all lists of these tests."""
    with LmtpSink([key for name in (ANTS, BEES, CATS, MOTHS) for key in nine(name)]) as sink:
        yield sink


@pytest.fixture
def started(make_site: MakeSite, idle_postfix: PostfixInstance, sink: LmtpSink) -> Iterator[Start]:
    """Start a Postfix that has bees installed: `started(map_type, **Site's other fields)`."""

    def start(map_type: str, **others: object) -> Site:
        site = make_site(map_type, **others)
        idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
        site.files.write(BEES, hop=hop(sink))
        assert site.once() == ""
        idle_postfix.start()
        return site

    yield start
    idle_postfix.stop()


def hop(sink: LmtpSink) -> str:
    """Return the next hop of a sink."""
    return f"lmtp:[127.0.0.1]:{sink.port}"


@contextmanager
def overlaid(directory: Path, image: Path, upper: Path) -> Iterator[None]:
    """Mount an image at a directory, with overlayfs as in a container; changes are in `upper`."""
    for path in (upper / "changes", upper / "work"):
        path.mkdir(parents=True)
    layers = f"lowerdir={image},upperdir={upper / 'changes'},workdir={upper / 'work'}"
    with mounted(directory, "-t", "overlay", "overlay", "-o", layers):
        yield


def test_change_of_lmdb_index_of_a_container_image_is_visible(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    """On overlayfs, the first write creates another file; processes have the first file mapped."""
    site = started("lmdb")
    image, upper = site.directory / "image", site.directory / "upper"
    shutil.copytree(site.maps, image)
    with overlaid(site.maps, image, upper):
        idle_postfix.reload()
        assert send(idle_postfix.port, BEES).accepted
        assert rcpt(idle_postfix.port, ANTS) == 550
        before = idle_postfix.reloads
        site.files.write(ANTS, BEES, hop=hop(sink))
        assert site.once() == ""
        assert send(idle_postfix.port, ANTS).accepted
        assert idle_postfix.reloads > before
        before = idle_postfix.reloads
        site.files.write(ANTS, BEES, CATS, hop=hop(sink))
        assert site.once() == ""
        assert send(idle_postfix.port, CATS).accepted
        assert idle_postfix.reloads == before, "once it is the container's own, it is one file"
        idle_postfix.wait_for_empty_queue()
        idle_postfix.stop()
    assert idle_postfix.bounces() == []


@pytest.mark.kill
def test_reload_for_an_index_of_an_image_does_not_replace_the_second_reload(
    started: Start, idle_postfix: PostfixInstance, killer: Killer
) -> None:
    """If a sync is killed before the second reload, the next sync makes it."""
    site = started("lmdb")
    image, state = site.directory / "image", site.directory / "state-before"
    shutil.copytree(site.maps, image)
    shutil.copytree(site.state, state)
    site.files.write(BEES, MOTHS, hop="lmtp:[127.0.0.1]:9")

    @contextmanager
    def sync(number: int, event: int) -> Iterator[Ended]:
        """Run a sync that finds only the index of the routes in the image."""
        upper = site.directory / f"upper{number}"
        shutil.rmtree(site.state)
        shutil.copytree(state, site.state)
        with overlaid(site.maps, image, upper):
            for name in MAP_NAMES:
                if name != ROUTES:
                    (site.maps / f"{name}.lmdb").touch()
            idle_postfix.reload()
            try:
                yield killer.run(site, "--once", event=event)
            finally:
                idle_postfix.stop()

    with sync(1, 0) as whole:
        assert whole.returncode == 0, whole
        reloads = [at for at, event in enumerate(whole.events, 1) if "'reload']" in event]
        assert len(reloads) == 2, whole.events
    idle_postfix.start()
    with sync(2, reloads[1]) as killed:
        assert killed.returncode == -9, killed
        before = idle_postfix.reloads
        site.once()
        assert idle_postfix.reloads == before + 1
        assert rcpt(idle_postfix.port, MOTHS) == 250


def test_postfix_in_another_pid_namespace_is_waited_for_and_reported(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    """It cannot be reloaded from there, so a new list is accepted after every table is read."""
    need(shutil.which("unshare"), "unshare")
    site = started("hash", command=IN_A_PID_NAMESPACE)
    assert send(idle_postfix.port, BEES).accepted
    site.files.write(ANTS, BEES, hop=hop(sink))
    assert site.once() == ""
    assert send(idle_postfix.port, ANTS).accepted
    site.files.write(ANTS, BEES, MOTHS, hop=hop(sink))
    message, hint = site.once(expect=1).splitlines()
    assert (
        f"{idle_postfix.queue_directory}: Postfix runs where its processes can't be seen" in message
    )
    assert "postfix reload" in hint
    assert site.installed(RECIPIENTS).keys() >= set(nine(MOTHS))
    idle_postfix.wait_for_empty_queue()
    assert idle_postfix.bounces() == []
    assert idle_postfix.reloads == 0


def test_stopped_postfix_in_another_pid_namespace_is_not_waited_for(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    need(shutil.which("unshare"), "unshare")
    site = make_site("hash", command=IN_A_PID_NAMESPACE)
    idle_postfix.postconf(**mailman_parameters(site.maps, "hash"))
    site.files.write(BEES)
    with idle_postfix:
        pass
    assert "postfix: not running, so not reloaded" in site.once("-v")


def test_reload_never_reports_that_processes_may_use_old_entries(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    site = started("lmdb", options={"postfix": {"reload": "never"}})
    site.files.write(BEES, hop=f"lmtp:[localhost]:{sink.port}")
    message, hint = site.once(expect=1).splitlines()
    assert "postfix.reload is never" in message
    assert hint.endswith(f"postfix -c {idle_postfix.config_directory} reload")
    assert site.once() == ""


@pytest.mark.transition
@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
@pytest.mark.parametrize("what", ["directory", "index"])
def test_map_that_a_user_removes_is_rebuilt_and_no_mail_is_rejected(
    started: Start, idle_postfix: PostfixInstance, map_type: str, what: str
) -> None:
    """Without a map, Postfix defers mail; with an empty map, it would reject it."""
    site = started(map_type)
    lists = [BEES, *(f"list{number}@lists.example.net" for number in range(1000))]
    site.files.write(*lists, hop="lmtp:[127.0.0.1]:24")
    with RunningDaemon(site) as daemon:
        daemon.wait_for("+1000 lists")
        wait_for(lambda: rcpt(idle_postfix.port, lists[-1]) == 250, 20, "the lists")
        codes = []
        if what == "directory":
            shutil.rmtree(site.maps)
        else:
            next(site.maps.glob(f"{RECIPIENTS}.*")).unlink()
        codes.append(rcpt(idle_postfix.port, lists[-1]))

        def is_back() -> bool:
            codes.append(rcpt(idle_postfix.port, lists[-1]))
            found = all(list(site.maps.glob(f"{name}.*")) for name in MAP_NAMES)
            return found and codes[-1] == 250

        wait_for(is_back, 20, "the maps")
        assert daemon.stop() == 0
    assert set(codes) <= {250, 451}


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_mail_deferred_for_the_old_destination_of_a_list_is_sent_to_the_new_one(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink, map_type: str
) -> None:
    site = started(map_type)
    site.files.write(ANTS, BEES, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    assert site.once() == ""
    assert send(idle_postfix.port, ANTS).accepted
    wait_for(idle_postfix.outcomes, 20, "the first try")
    assert [outcome.status for outcome in idle_postfix.outcomes()] == ["deferred"]
    site.files.write(ANTS, BEES, hop=hop(sink))
    assert site.once() == ""
    wait_for(sink.deliveries, 20, "the message that was deferred")
    idle_postfix.wait_for_empty_queue()
    assert idle_postfix.bounces() == []


def reloaded_just_now(postfix: PostfixInstance) -> None:
    """Reload Postfix, but not within the time in which it may still be starting."""
    master = int((postfix.queue_directory / "pid/master.pid").read_text())
    started = Path(f"/proc/{master}").stat().st_ctime
    wait_for(lambda: time.time() - started > STARTED_WITH + 1, 20, "a Postfix that has started")
    before = postfix.reloads
    postfix.reload()
    wait_for(lambda: postfix.reloads > before, 20, "the reload")


def test_deferred_mail_of_a_moved_list_is_sent_after_postfix_was_reloaded(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    """Earlier, trivial-rewrite(8) would route it to the old server, which now rejects it."""
    site = started("hash")
    old = free_port()
    site.files.write(BEES, hop=f"lmtp:[127.0.0.1]:{old}")
    with RunningDaemon(site) as daemon:
        daemon.wait_for("-> lmtp")
        assert all(send(idle_postfix.port, BEES).accepted for _ in range(5))
        wait_for(lambda: len(idle_postfix.outcomes()) == 5, 20, "the first tries")
        reloaded_just_now(idle_postfix)
        with LmtpSink([], port=old):
            site.files.write(BEES, hop=hop(sink))
            wait_for(lambda: len(sink.deliveries()) == 5, 40, "what was deferred")
        assert daemon.stop() == 0
    assert idle_postfix.bounces() == []


def test_reload_never_accepts_a_new_domain_while_trivial_rewrite_runs(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    """trivial-rewrite(8) does not restart after a change of lmdb, as it sees each change."""
    site = started("lmdb", options={"postfix": {"reload": "never"}})
    assert rcpt(idle_postfix.port, BEES) == 250
    site.files.write(BEES, MOTHS, hop=hop(sink))
    assert "postfix.reload is never" in site.once(expect=1)
    assert rcpt(idle_postfix.port, MOTHS) in (250, 454), "454 from a process that remembers"
    assert site.installed(RECIPIENTS).keys() >= set(nine(MOTHS))
    assert site.stray() == set()


@pytest.mark.transition
@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_map_whose_text_is_gone_refuses_no_list_right_after_a_reload(
    started: Start, idle_postfix: PostfixInstance, map_type: str
) -> None:
    """The index's entries are unknown, but it must not be rebuilt without entries."""
    site = started(map_type)
    assert rcpt(idle_postfix.port, BEES) == 250
    reloaded_just_now(idle_postfix)
    (site.maps / RECIPIENTS).unlink()
    codes = []
    with site.start("--once") as process:
        while process.poll() is None:
            codes.append(rcpt(idle_postfix.port, BEES))
        process.communicate()
        assert process.returncode == 0
    assert set(codes) == {250}


@pytest.mark.transition
@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_list_that_returns_elsewhere_is_accepted_after_its_old_route_is_dropped(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink, map_type: str
) -> None:
    """Postfix was reloaded recently, so the sync has to wait before it reloads it again."""
    site = started(map_type)
    with LmtpSink() as old:
        site.files.write(ANTS, BEES, hop=hop(old))
        site.once()
        assert send(
            idle_postfix.port, ANTS
        ).accepted  # processes know its route; the server does not
        site.files.write(BEES, hop=hop(old))
        site.once()
        assert rcpt(idle_postfix.port, ANTS) == 550
        reloaded_just_now(idle_postfix)
        assert send(idle_postfix.port, BEES).accepted  # trivial-rewrite has its tables
        wait_for(lambda: len(idle_postfix.bounces()) == 2, 20, "the answers of the old server")
        site.files.write(ANTS, BEES, hop=hop(sink))
        sent = 0
        with site.start("--once") as process:
            while process.poll() is None or not sent:
                if rcpt(idle_postfix.port, ANTS) == 250:
                    assert send(idle_postfix.port, ANTS).accepted
                    sent += 1
            process.communicate()
        wait_for(lambda: sink.by_recipient()[ANTS] == sent, 20, "the messages at its new place")
    assert len(idle_postfix.bounces()) == 2


@pytest.mark.kill
def test_second_reload_for_rebuilt_maps_is_made_by_the_next_sync(
    started: Start, idle_postfix: PostfixInstance, killer: Killer
) -> None:
    """A process that started without a map returns errors until it ends."""
    site = started("lmdb")
    event = 0
    for turn in range(3):
        for path in site.maps.glob("postfix_[rv]*"):
            path.unlink()
        ended = killer.run(site, "--once", event=event)
        reloads = [at for at, event in enumerate(ended.events, 1) if "'reload']" in event]
        assert len(reloads) == 2, ended
        event = reloads[1] if turn else 0  # the first sync creates its state directory
    assert ended.returncode == -9
    before = idle_postfix.reloads
    site.once()
    assert idle_postfix.reloads == before + 1
    assert rcpt(idle_postfix.port, BEES) == 250


@pytest.mark.kill
def test_sync_that_was_killed_before_its_reload_is_completed(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    """The previous sync was killed while it waited for the time of its reload."""
    site = started("hash")
    reloaded_just_now(idle_postfix)
    site.files.write(ANTS, BEES, hop=hop(sink))
    waiting = site.start("--once")
    wait_for(
        lambda: ANTS in site.installed(ROUTES) and not (site.maps / ".staging").exists(),
        20,
        "a sync that waits for its turn",
    )
    waiting.kill()
    waiting.communicate()
    assert ANTS not in site.installed(RECIPIENTS)
    reloaded_just_now(idle_postfix)
    (site.maps / ".reload").touch()  # as if the note had been written after that reload
    assert site.once() == ""
    assert rcpt(idle_postfix.port, ANTS) == 250
    assert site.stray() == set()


@pytest.mark.transition
@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_removed_domain_is_relayed_at_once(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink, map_type: str
) -> None:
    """smtpd(8) does not reject unknown lists for a client that is permitted to relay."""
    idle_postfix.postconf(
        mynetworks="127.0.0.0/8",
        smtpd_relay_restrictions="permit_mynetworks, reject_unauth_destination",
    )
    site = started(map_type)
    site.files.write(BEES, MOTHS, hop=hop(sink))
    site.once()
    assert rcpt(idle_postfix.port, MOTHS) == 250
    site.files.write(BEES, hop=hop(sink))
    site.once()
    assert [rcpt(idle_postfix.port, MOTHS) for _ in range(20)] == [250] * 20


def test_rollback_right_after_a_reload_accepts_the_restored_lists(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    site = started("lmdb")
    site.files.write(MOTHS, hop=hop(sink))
    site.once("--force")
    reloaded_just_now(idle_postfix)
    done = site.call("rollback", "1")
    assert done.returncode == 0, done
    assert rcpt(idle_postfix.port, BEES) == 250
    assert site.stray() == set()


def test_unwritable_hosts_file_causes_no_reload(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site("lmdb", source={"address": "127.0.0.1"})
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"))
    site.files.write(BEES, hop="lmtp:[mailman]:8024")
    assert site.once() == ""
    (site.directory / ".hosts.postfix-sync").mkdir()  # the path of the staged hosts file
    with idle_postfix:
        source = {"name": "lists", "path": str(site.files.directory), "address": "127.0.0.2"}
        site.configure(sources=[source])
        for _ in range(3):
            assert f"{site.hosts}: " in site.once(expect=1)
            assert not (site.maps / ".reload").exists()
        assert idle_postfix.reloads == 0
    assert "  1  " in site.call("rollback").stdout, "what was not brought about is no generation"
    assert "  2  " not in site.call("rollback").stdout


def test_name_is_removed_with_its_address_in_the_configuration(make_site: MakeSite) -> None:
    """The routes still name the host: it must be resolvable by other means."""
    site = make_site("lmdb", source={"address": "127.0.0.1"})
    site.files.write(BEES, hop="lmtp:[mailman]:8024")
    site.once()
    assert b"mailman" in site.hosts.read_bytes()
    site.configure(sources=[{"name": "lists", "path": str(site.files.directory)}])
    site.once()
    assert b"mailman" not in site.hosts.read_bytes()


def test_removed_list_whose_route_is_kept_is_not_probed(make_site: MakeSite) -> None:
    """Mailman replies 550 to its address, although it is up."""
    with LmtpSink([*nine(ANTS), *nine(BEES)]) as sink:
        site = make_site("lmdb", options={"probe": {"level": "rcpt"}})
        site.files.write(ANTS, BEES, hop=hop(sink))
        site.once()
        sink.accept(nine(BEES))
        site.files.write(BEES, hop=hop(sink))
        site.once()
        assert ANTS in site.installed("postfix_lmtp")
        [destination] = site.status()["destinations"].values()
        assert (destination["up"], destination["phase"]) == (True, "rcpt")
        assert site.call("probe").returncode == 0


def test_sync_killed_after_its_reload_still_closes_old_connections(
    started: Start, idle_postfix: PostfixInstance, sink: LmtpSink
) -> None:
    """Postfix was reloaded after the note; a connection to the host's old address is still open."""
    site = started("lmdb")
    note = site.maps / RELOAD_NOTE
    note.write_text(f"{MOVED_LISTS}\n{hop(sink)}\n")
    reloaded_just_now(idle_postfix)
    os.utime(note, (0, 0))
    with socket.create_connection(("127.0.0.1", sink.port)):
        before = idle_postfix.reloads
        done = site.run("-v", "--once")
        assert done.returncode == 0, done
        assert f"connections to 127.0.0.1:{sink.port} are still open: 1" in done.stderr
        assert idle_postfix.reloads == before + 3
    assert not note.exists()
