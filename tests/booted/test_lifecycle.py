"""systemd looks after it: what it starts, stops, reloads and kills ends in step, by itself.

On real Debian 12 and 13 hosts, with their own postfix.service, and with the real Mailman, whose
volume is mounted into them. Whatever is done to postfix-sync or to Postfix, mail to a list that was
created meanwhile is delivered afterwards.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postfix_sync.model.map_names import ALIASES, RECIPIENTS, ROUTES
from tests.booted.conftest import FIRST
from tests.conftest import Measured
from tests.parts.common import PATIENCE, wait_for
from tests.parts.mailman_files import MailmanFiles, nine
from tests.parts.mx import MAPS, ONCE, SERVICE, TIMER, VOLUME, Mx

pytestmark = [pytest.mark.booted, pytest.mark.slow]

STATE = "/var/lib/postfix-sync"

OFTEN = ("[Timer]", "OnCalendar=", "OnCalendar=*:*:0/2", "AccuracySec=100ms")
"""The timer of a test: a pass every two seconds, and not every minute."""

_NUMBERS = itertools.count()


def new_list() -> str:
    """A list that nobody has used yet."""
    return f"list-{next(_NUMBERS)}@lists.example.net"


def run_by(mx: Mx, unit: str) -> None:
    """Have the daemon run anew, or the timer alone, from now on and after each boot."""
    mx.host.systemctl("disable", "--now", TIMER if unit == SERVICE else SERVICE)
    mx.configure()
    mx.edit(SERVICE)
    mx.edit(TIMER, *OFTEN)
    mx.host.systemctl("enable", unit)
    mx.host.systemctl("restart", unit)


@pytest.fixture(params=[SERVICE, TIMER], ids=["daemon", "timer"])
def way(mx: Mx, request: pytest.FixtureRequest) -> str:
    """What runs: the daemon, or the timer."""
    run_by(mx, request.param)
    return str(request.param)


@pytest.fixture
def daemon(mx: Mx) -> Mx:
    """The daemon runs."""
    run_by(mx, SERVICE)
    return mx


def restarts(mx: Mx) -> int:
    """How often systemd has restarted the daemon of itself, since somebody started it."""
    return int(mx.host.show(SERVICE, "NRestarts")["NRestarts"])


# Started and reloaded.


def test_it_is_active_when_the_first_pass_was_tried(mx: Mx, measured: Measured) -> None:
    """Not before; and without a configuration it isn't started, nor does that fail."""
    host = mx.host
    host.systemctl("stop", SERVICE)  # a package starts it, as packages do
    config = host.path("/etc/postfix-sync/config.yaml")
    config.rename(config.with_suffix(".not-yet"))
    host.systemctl("start", SERVICE)
    assert host.show(SERVICE, "ActiveState", "ConditionResult") == {
        "ActiveState": "inactive",
        "ConditionResult": "no",
    }
    config.with_suffix(".not-yet").rename(config)

    for map_file in host.path(MAPS).iterdir():
        map_file.unlink()
    lock = f"{STATE}/lock"
    host.run("systemd-run", "--unit=somebody", "flock", lock, "sleep", "1000")
    host.systemctl("enable", SERVICE)
    host.systemctl("start", "--no-block", SERVICE)
    has_opened = f"ls -l /proc/$(systemctl show -P MainPID {SERVICE})/fd"
    wait_for(lambda: lock in host.ask("sh", "-c", has_opened).stdout, PATIENCE, "a pass that waits")
    assert host.show(SERVICE, "ActiveState")["ActiveState"] == "activating"
    assert not list(host.path(MAPS).iterdir())
    host.systemctl("stop", "somebody")
    host.systemctl("start", SERVICE)  # waits for the start that is under way
    assert mx.at_rest()
    mx.deliver(FIRST)
    name = new_list()
    mx.create(name)
    mx.deliver(name)

    idle = memory(mx)
    host.systemctl("restart", SERVICE)
    seconds = starting(mx)
    measured(
        f"READY on {host.release}",
        {"seconds": round(seconds, 2), "idle_mib": round(idle, 1)},
        f"{host.release}: READY {seconds:.2f} s after the start, {idle:.1f} MiB when idle",
    )


def starting(mx: Mx) -> float:
    """Seconds from the start of the daemon's process until systemd had it for active."""
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    times = mx.host.show(SERVICE, *names)
    began, ready = (int(times[name]) / 1e6 for name in names)
    return ready - began


def memory(mx: Mx) -> float:
    """MiB of the daemon's own, with its share of what it has in common with others."""
    (pid,) = (pid for pid, name in mx.host.processes(SERVICE).items() if name == "postfix-sync")
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def test_a_bad_configuration_is_not_taken(daemon: Mx) -> None:
    """`systemctl reload` says so, the log says what is wrong and where, and the old one stays."""
    host, pid = daemon.host, daemon.host.main_pid(SERVICE)
    daemon.write_config("sourcse: []\n")
    reload = host.ask("systemctl", "reload", SERVICE)
    assert reload.returncode != 0
    host.wait_for_message(SERVICE, "the previous configuration stays in use")
    problems = "\n".join(host.journal(SERVICE, "err"))
    assert "/etc/postfix-sync/config.yaml:1" in problems
    assert "sourcse" in problems
    assert host.show(SERVICE, "ActiveState")["ActiveState"] == "active"
    name = new_list()
    daemon.create(name)
    daemon.deliver(name)

    daemon.configure()
    host.systemctl("reload", SERVICE)
    assert host.main_pid(SERVICE) == pid
    host.wait_for_message(SERVICE, "config.yaml was read again")


# Killed, stopped, hung.


@pytest.mark.kill
def test_killed_it_is_restarted_and_converges(daemon: Mx) -> None:
    """SIGKILL; the list is created while nobody looks."""
    before = daemon.host.main_pid(SERVICE)
    daemon.host.systemctl("kill", "--signal=KILL", SERVICE)
    name = new_list()
    daemon.create(name)
    daemon.deliver(name)
    daemon.host.wait_for_unit(SERVICE)
    assert restarts(daemon) == 1
    assert daemon.host.main_pid(SERVICE) != before


def test_stopped_it_is_restarted_by_the_watchdog(daemon: Mx) -> None:
    """SIGSTOP."""
    daemon.edit(SERVICE, "[Service]", "WatchdogSec=2s")
    daemon.host.systemctl("restart", SERVICE)
    daemon.host.systemctl("kill", "--signal=STOP", "--kill-whom=main", SERVICE)
    name = new_list()
    daemon.create(name)
    daemon.deliver(name)
    assert restarts(daemon) >= 1
    assert any("Watchdog timeout" in line for line in daemon.host.journal(SERVICE))


def test_a_pass_that_hangs_does_not_fool_the_watchdog(daemon: Mx) -> None:
    """The event loop goes round, but postmap never ends."""
    host = daemon.host
    daemon.edit(SERVICE, "[Service]", "WatchdogSec=1s")
    host.systemctl("restart", SERVICE)
    host.path("/root/hang").write_text("#!/bin/sh\nexec sleep 1000\n")
    host.path("/root/hang").chmod(0o755)
    host.run("mount", "--bind", "/root/hang", "/usr/sbin/postmap")
    name = new_list()
    try:
        daemon.create(name)
        host.wait_for_message(SERVICE, "a sync has not ended", timeout=3 * PATIENCE)
        wait_for(lambda: restarts(daemon), 3 * PATIENCE, "a restart by systemd")
        assert any("Watchdog timeout" in line for line in host.journal(SERVICE))
    finally:
        host.run("umount", "/usr/sbin/postmap")
    daemon.deliver(name)


# Booted without something.


def without_postfix(mx: Mx) -> Callable[[], None]:
    mx.host.systemctl("disable", "postfix")
    mx.host.power_off()

    def bring() -> None:
        assert mx.host.show("postfix", "ActiveState")["ActiveState"] == "inactive"
        mx.host.systemctl("enable", "--now", "postfix")

    return bring


def without_network(mx: Mx) -> Callable[[], None]:
    mx.host.power_off()
    mx.network["mx"].take_down()
    return mx.network["mx"].bring_up


def without_volume(mx: Mx) -> Callable[[], None]:
    mx.host.power_off()
    mx.volume_at_boot(mounted=False)

    def bring() -> None:
        assert not mx.host.run("ls", VOLUME)
        mx.volume_at_boot(mounted=True)
        mx.mount_volume()

    return bring


@pytest.mark.parametrize("without", [without_postfix, without_network, without_volume])
def test_it_boots_without(mx: Mx, way: str, without: Callable[[Mx], Callable[[], None]]) -> None:
    """And is in step by itself as soon as it has what was missing."""
    bring = without(mx)
    name = new_list()
    mx.create(name)
    mx.host.boot()
    mx.host.wait_for_unit(way)
    if without is not without_volume:
        wait_for(lambda: mx.knows(name), 3 * PATIENCE, f"{name} in the maps")
    bring()
    mx.deliver(name)


# What is done to Postfix.


def restart(mx: Mx) -> None:
    mx.host.systemctl("restart", "postfix")


def reinstall(mx: Mx) -> None:
    mx.host.run("apt-get", "-q", "install", "-y", "--reinstall", "postfix", timeout=600)


def renew_chroot(mx: Mx) -> None:
    mx.host.run("rm", "-r", "/var/spool/postfix/etc")
    mx.host.systemctl("restart", "postfix")
    assert mx.host.path("/var/spool/postfix/etc/hosts").exists()


def spoil_chroot(mx: Mx) -> None:
    hosts = mx.host.path("/var/spool/postfix/etc/hosts")
    hosts.write_text("127.0.0.1 localhost\n")
    mx.host.systemctl("kill", "--signal=USR1", "--kill-whom=main", SERVICE)
    wait_for(lambda: mx.mailman.lmtp_host in hosts.read_text(), PATIENCE, "the name in the chroot")


@pytest.mark.parametrize("change", [restart, reinstall, renew_chroot, spoil_chroot])
def test_names_still_resolve(daemon: Mx, change: Callable[[Mx], None]) -> None:
    """Whatever copies the files of the chroot."""
    change(daemon)
    daemon.host.wait_for_unit("postfix")
    daemon.deliver(FIRST)


# In the middle of a pass.


BULK = "/srv/bulk"


def many(count: int) -> list[str]:
    """Names of lists."""
    return [f"bulk-{number}@bulk.example.net" for number in range(count)]


@pytest.fixture
def bulk(mx: Mx, way: str) -> Iterator[MailmanFiles]:
    """A second Mailman, with so many lists that a pass with more of them takes a while."""
    files = MailmanFiles(mx.host.path(BULK))
    files.write(*many(2000))
    # A pass that has begun without this source takes its lists out: none may be under way then.
    mx.host.systemctl("stop", way, ONCE)
    first = {"path": f"{VOLUME}/data", "address": mx.network["lists"].address}
    mx.configure(sources=[first, {"name": "bulk", "path": BULK}], probe={"level": "off"})
    mx.host.systemctl("start", way)
    yield files
    mx.configure()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_pass_that_is_cut_off(
    mx: Mx, way: str, bulk: MailmanFiles, end: str, measured: Measured
) -> None:
    """`systemctl stop`, or SIGKILL for all of it: each map is as before or as wanted."""
    host, unit = mx.host, SERVICE if way == SERVICE else ONCE
    before, wanted = many(2000), many(4000)
    wait_for(lambda: mx.knows(before[-1]), 3 * PATIENCE, "the lists from before")
    wait_for(mx.at_rest, 3 * PATIENCE, "the end of the pass before")
    bulk.write(*wanted)
    wait_for(lambda: "postmap" in host.processes(unit).values(), 3 * PATIENCE, "a pass at work")
    if end == "kill":
        host.systemctl("kill", "--signal=KILL", unit)
    else:
        assert host.show(unit, "TimeoutStopUSec")["TimeoutStopUSec"] == "4s"
        began = time.monotonic()
        host.systemctl("stop", *{way, unit})
        seconds = time.monotonic() - began
        line = f"{host.release}: {unit} stopped in the middle of a pass after {seconds:.2f} s"
        measured(f"stop {unit} on {host.release}", round(seconds, 2), line)
        assert host.show(unit, "ActiveState")["ActiveState"] != "active"
    for name in (ROUTES, RECIPIENTS):
        found = {one for one in mx.dumped(name) if one.endswith("@bulk.example.net")}
        assert found in [{one for name in some for one in nine(name)} for some in (before, wanted)]
    assert not mx.dumped(ALIASES)
    mx.deliver(FIRST)
    host.systemctl("start", way)
    wait_for(lambda: mx.knows(wanted[-1]), 3 * PATIENCE, "all lists")
    wait_for(mx.at_rest, 3 * PATIENCE, "whole maps and no remains")
