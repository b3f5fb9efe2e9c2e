"""sd_notify(3): what a daemon reports to the service manager, on a socket of the test.

The daemon is started as systemd starts it: with NOTIFY_SOCKET, and with WATCHDOG_USEC if the unit
has WatchdogSec.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.parts.common import PATIENCE, TRIES, is_stopped, wait_for
from tests.parts.daemon import NotifySocket, RunningDaemon, install
from tests.parts.disk import dead_disk
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"

WATCHED = 0.4
"""WatchdogSec in some tests, in seconds; a sync may take ten times as long."""

WATCHED_CLOSELY = {"WATCHDOG_USEC": f"{WATCHED * 1e6:.0f}"}

OVERDUE = "a sync has not ended in 4 s"

POSTMAP = "/usr/sbin/postmap"

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that keeps maps that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def site(make_site: MakeSite, template: Path) -> Site:
    """One list, installed, with an interval that is never reached."""
    return install(make_site("lmdb", source={"interval": "1h"}), ANTS, template=template)


@pytest.fixture
def abstract() -> Iterator[NotifySocket]:
    """A socket without a path, as in a container."""
    socket = NotifySocket(f"@postfix-sync-test-{os.getpid()}")
    yield socket
    socket.close()


def test_daemon_notifies_ready_reloading_and_stopping(site: Site) -> None:
    """READY=1 is sent after the first sync and after a reload, STOPPING=1 once at the end."""
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        assert daemon.notify.received[0] == "READY=1\nSTATUS=in step, 1 list"
        assert site.status()["sources"]["lists"]["state"] == "ok"
        daemon.wait_until_it_watches()
        heard, seen = len(daemon.notify.received), daemon.passes

        before = time.monotonic_ns() // 1000
        daemon.send(signal.SIGHUP)
        daemon.wait_for_passes(seen + 1)
        reloading, ready = daemon.notify.received[heard : heard + 2]
        first, second = reloading.split("\n")
        name, _, moment = second.partition("=")
        assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
        assert before <= int(moment) <= time.monotonic_ns() // 1000
        assert ready.startswith("READY=1\nSTATUS=")

        assert daemon.stop() == 0
        wait_for(lambda: daemon.notify.received[-1] == "STOPPING=1", PATIENCE, "STOPPING=1 at last")
        assert daemon.notify.received.count("STOPPING=1") == 1


def test_daemon_notifies_ready_after_an_invalid_configuration(site: Site) -> None:
    """Without it, `systemctl reload` would wait for its timeout."""
    with RunningDaemon(site) as daemon:
        daemon.wait_until_it_watches()
        heard = len(daemon.notify.received)
        site.config.write_text("sources: []\n")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("stays in use")
        wait_for(lambda: len(daemon.notify.received) >= heard + 2, PATIENCE, "READY=1")
        reloading, ready = daemon.notify.received[heard:]
        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert ready == "READY=1"


def test_status_line_is_updated_after_each_sync(site: Site) -> None:
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        site.files.write(ANTS, BEES)
        daemon.wait_for(BEES)
        daemon.look()
        assert daemon.notify.received[-1] == "READY=1\nSTATUS=in step, 2 lists"
        site.files.directory.rename(site.directory / "away")
        daemon.look()
        routes = site.files.directory / "postfix_lmtp"
        expected = f"STATUS={routes}: No such file or directory; the last good lists stay in use"
        assert daemon.notify.received[-1] == f"READY=1\n{expected}"


def test_daemon_notifies_ready_although_the_source_is_missing(site: Site) -> None:
    """Postfix has its maps, so units that are ordered after this one need not fail."""
    site.files.directory.rename(site.directory / "away")
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        assert "No such file" in daemon.notify.received[0]


def test_abstract_socket_is_notified(site: Site, abstract: NotifySocket) -> None:
    with RunningDaemon(site, environment={"NOTIFY_SOCKET": abstract.address}) as daemon:
        wait_for(lambda: abstract.received, PATIENCE, "READY=1")
        assert abstract.received[0].startswith("READY=1\nSTATUS=")
        assert daemon.stop() == 0
        wait_for(lambda: abstract.received[-1] == "STOPPING=1", PATIENCE, "STOPPING=1 at last")
        assert daemon.notify.received == []


def test_watchdog_is_notified_at_half_of_its_time(site: Site) -> None:
    began = time.monotonic()
    with RunningDaemon(site, environment={"WATCHDOG_USEC": "800000"}) as daemon:

        def signs() -> int:
            return daemon.notify.received.count("WATCHDOG=1")

        def times_of(number: int) -> Iterator[float]:
            seen = signs()
            for count in range(seen + 1, seen + 1 + number):
                wait_for(lambda: signs() >= count, PATIENCE, "a sign")  # noqa: B023 - called at once
                yield time.monotonic()

        for _ in range(TRIES):
            gaps = [after - before for before, after in itertools.pairwise(times_of(6))]
            heard, seconds = signs(), time.monotonic() - began
            assert seconds > 0.4 * (heard - 1) - 0.05, "more often than half of the watchdog time"
            if sorted(gaps)[len(gaps) // 2] < 0.5 and max(gaps) < 0.8:
                break
        assert sorted(gaps)[len(gaps) // 2] < 0.5
        assert max(gaps) < 0.8, "systemd would have killed it"


def test_watchdog_is_notified_while_the_source_is_missing(site: Site) -> None:
    site.files.directory.rename(site.directory / "away")
    with RunningDaemon(site, environment={"WATCHDOG_USEC": "400000"}) as daemon:
        daemon.wait_for("No such file")
        heard = daemon.notify.received.count("WATCHDOG=1")
        wait_for(lambda: daemon.notify.received.count("WATCHDOG=1") > heard + 2, PATIENCE, "signs")


def signs_stop(daemon: RunningDaemon) -> bool:
    """Return whether no WATCHDOG=1 arrives for five times the watchdog time."""
    seen = daemon.notify.received.count("WATCHDOG=1")
    time.sleep(5 * WATCHED)
    return daemon.notify.received.count("WATCHDOG=1") == seen


def wait_for_signs(daemon: RunningDaemon) -> None:
    seen = daemon.notify.received.count("WATCHDOG=1")
    wait_for(lambda: daemon.notify.received.count("WATCHDOG=1") > seen, PATIENCE, "signs of life")


def test_sync_that_hangs_in_a_command_stops_watchdog_notifications(site: Site) -> None:
    """The event loop still runs."""
    with RunningDaemon(site, environment=WATCHED_CLOSELY) as daemon:
        daemon.wait_until_it_watches()
        while not (stopped := stop_a_command(daemon)):
            daemon.send(signal.SIGUSR1)
        daemon.wait_for(OVERDUE)
        assert signs_stop(daemon)
        os.kill(stopped, signal.SIGCONT)
        daemon.wait_for("syncs: recovered")
        wait_for_signs(daemon)


def stop_a_command(daemon: RunningDaemon) -> int:
    """Stop a postmap of the daemon, if one is running; return its process id, or 0."""
    for pid, command in daemon.commands().items():
        if command[:1] == [POSTMAP]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if is_stopped(pid):
                    return pid
    return 0


def test_sync_that_hangs_in_a_thread_stops_watchdog_notifications(site: Site, fuse: None) -> None:
    """A thread hangs if a file system is dead."""
    with RunningDaemon(site, environment=WATCHED_CLOSELY) as daemon:
        daemon.wait_until_it_watches()
        with dead_disk(site.maps / "postfix_vmap") as release:
            daemon.send(signal.SIGUSR1)
            daemon.wait_for(OVERDUE)
            assert signs_stop(daemon)
            release()
            daemon.wait_for("syncs: recovered")
            wait_for_signs(daemon)


def test_daemon_aborted_by_the_watchdog_logs_where_it_hung(site: Site, fuse: None) -> None:
    with RunningDaemon(site, environment=WATCHED_CLOSELY) as daemon:
        daemon.wait_until_it_watches()
        with dead_disk(site.maps / "postfix_vmap"):
            daemon.send(signal.SIGUSR1)
            daemon.wait_for(OVERDUE)
            assert daemon.stop(signal.SIGABRT) == -signal.SIGABRT
            daemon.wait_for('postfix_sync/postfix/map_directory.py", line')


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"},
    ],
    ids=str,
)
def test_watchdog_is_not_notified_if_it_is_not_enabled(
    site: Site, environment: dict[str, str]
) -> None:
    with RunningDaemon(site, environment=environment) as daemon:
        daemon.wait_for_passes(1)
        daemon.look()
        assert not any("WATCHDOG" in message for message in daemon.notify.received)


def test_daemon_without_notify_socket_sends_and_logs_nothing(site: Site) -> None:
    """A daemon that an operator starts in a shell has no service manager."""
    with RunningDaemon(site, environment={"NOTIFY_SOCKET": ""}) as daemon:
        daemon.wait_for("transport_maps")
        assert daemon.stop() == 0
        assert daemon.notify.received == []
        assert daemon.count("NOTIFY") == 0


def test_daemon_continues_after_the_notify_socket_is_closed(site: Site) -> None:
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        daemon.notify.close()
        site.files.write(ANTS, BEES)
        daemon.wait_for("lists: +1 list: " + BEES)
        daemon.send(signal.SIGHUP)
        daemon.wait_for("was read again")
        assert daemon.stop() == 0
        assert daemon.count("error") == 0
