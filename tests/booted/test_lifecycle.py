"""The service under systemd: after a start, stop, reload or kill, the maps converge automatically.

The hosts are real Debian 12 and 13 with their own postfix.service; the volume of a real Mailman is
mounted into them. After each disturbance of postfix-sync or Postfix, mail to a list that was
created during it must be delivered.
"""

import itertools
import json
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
"""Drop-in of the timer: a sync every two seconds instead of every minute."""

_NUMBERS = itertools.count()


def new_list() -> str:
    """Return the name of a list that no test has used."""
    return f"list-{next(_NUMBERS)}@lists.example.net"


def run_by(mx: Mx, unit: str) -> None:
    """Restart and enable the daemon, or only the timer."""
    mx.host.systemctl("disable", "--now", TIMER if unit == SERVICE else SERVICE)
    mx.configure()
    mx.edit(SERVICE)
    mx.edit(TIMER, *OFTEN)
    mx.host.systemctl("enable", unit)
    mx.host.systemctl("restart", unit)


@pytest.fixture(params=[SERVICE, TIMER], ids=["daemon", "timer"])
def way(mx: Mx, request: pytest.FixtureRequest) -> str:
    """The unit that syncs: the daemon, or the timer."""
    run_by(mx, request.param)
    return str(request.param)


@pytest.fixture
def daemon(mx: Mx) -> Mx:
    """The mail host, with the daemon running."""
    run_by(mx, SERVICE)
    return mx


def restarts(mx: Mx) -> int:
    """Return how often systemd has restarted the daemon automatically since its manual start."""
    return int(mx.host.show(SERVICE, "NRestarts")["NRestarts"])


# Start and reload.


def test_unit_is_active_only_after_the_first_sync(mx: Mx, measured: Measured) -> None:
    """Without a configuration systemd does not start the daemon, which is not a failure."""
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
    wait_for(lambda: lock in host.ask("sh", "-c", has_opened).stdout, PATIENCE, "a sync that waits")
    assert host.show(SERVICE, "ActiveState")["ActiveState"] == "activating"
    assert not list(host.path(MAPS).iterdir())
    host.systemctl("stop", "somebody")
    host.systemctl("start", SERVICE)  # waits for the start job that is running
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
    """Return the seconds from the start of the daemon's process to the unit's state active."""
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    times = mx.host.show(SERVICE, *names)
    began, ready = (int(times[name]) / 1e6 for name in names)
    return ready - began


def memory(mx: Mx) -> float:
    """Return the daemon's proportional set size (PSS) in MiB."""
    (pid,) = (pid for pid, name in mx.host.processes(SERVICE).items() if name == "postfix-sync")
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def test_reload_with_an_invalid_configuration_keeps_the_previous_one(daemon: Mx) -> None:
    """`systemctl reload` fails, and the log has the problem and its line."""
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


# Killed, stopped and hanging daemons.


@pytest.mark.kill
def test_killed_daemon_is_restarted_and_converges(daemon: Mx) -> None:
    """The list is created after SIGKILL, before the restart."""
    before = daemon.host.main_pid(SERVICE)
    daemon.host.systemctl("kill", "--signal=KILL", SERVICE)
    name = new_list()
    daemon.create(name)
    daemon.deliver(name)
    daemon.host.wait_for_unit(SERVICE)
    assert restarts(daemon) == 1
    assert daemon.host.main_pid(SERVICE) != before


def test_daemon_stopped_by_a_signal_is_restarted_by_the_watchdog(daemon: Mx) -> None:
    daemon.edit(SERVICE, "[Service]", "WatchdogSec=2s")
    daemon.host.systemctl("restart", SERVICE)
    daemon.host.systemctl("kill", "--signal=STOP", "--kill-whom=main", SERVICE)
    name = new_list()
    daemon.create(name)
    daemon.deliver(name)
    assert restarts(daemon) >= 1
    assert any("Watchdog timeout" in line for line in daemon.host.journal(SERVICE))


def test_daemon_with_a_hanging_sync_is_restarted_by_the_watchdog(daemon: Mx) -> None:
    """The event loop runs, but postmap never ends."""
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


# Boots without Postfix, the network, or the volume.


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
def test_host_booted_without_a_part_converges_when_it_appears(
    mx: Mx, way: str, without: Callable[[Mx], Callable[[], None]]
) -> None:
    """The maps converge automatically once the missing part is there."""
    bring = without(mx)
    name = new_list()
    mx.create(name)
    mx.host.boot()
    mx.host.wait_for_unit(way)
    if without is not without_volume:
        wait_for(lambda: mx.knows(name), 3 * PATIENCE, f"{name} in the maps")
    bring()
    mx.deliver(name)


# Changes of Postfix and its chroot.


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
def test_names_resolve_after_a_change_of_the_chroot(
    daemon: Mx, change: Callable[[Mx], None]
) -> None:
    """Different programs copy the files into the chroot."""
    change(daemon)
    daemon.host.wait_for_unit("postfix")
    daemon.deliver(FIRST)


# Interrupted syncs.


BULK = "/srv/bulk"


def many(count: int) -> list[str]:
    """Return the names of `count` lists."""
    return [f"bulk-{number}@bulk.example.net" for number in range(count)]


@pytest.fixture
def bulk(mx: Mx, way: str) -> Iterator[MailmanFiles]:
    """A second Mailman with 2000 lists, so that a sync of more of them takes seconds."""
    files = MailmanFiles(mx.host.path(BULK))
    files.write(*many(2000))
    # A running sync without this source would remove its lists, so no sync may be running.
    mx.host.systemctl("stop", way, ONCE)
    first = {"path": f"{VOLUME}/data", "address": mx.network["lists"].address}
    mx.configure(sources=[first, {"name": "bulk", "path": BULK}], probe={"level": "off"})
    mx.host.systemctl("start", way)
    yield files
    mx.configure()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_interrupted_sync_leaves_each_map_old_or_new(
    mx: Mx, way: str, bulk: MailmanFiles, end: str, measured: Measured
) -> None:
    """The sync is interrupted by `systemctl stop`, or by SIGKILL to all processes of the unit."""
    host, unit = mx.host, SERVICE if way == SERVICE else ONCE
    before, after = many(2000), many(4000)
    wait_for(lambda: mx.knows(before[-1]), 3 * PATIENCE, "the first lists")
    wait_for(mx.at_rest, 3 * PATIENCE, "the end of the first sync")
    bulk.write(*after)
    wait_for(lambda: "postmap" in host.processes(unit).values(), 3 * PATIENCE, "a running sync")
    if end == "kill":
        host.systemctl("kill", "--signal=KILL", unit)
    else:
        assert host.show(unit, "TimeoutStopUSec")["TimeoutStopUSec"] == "4s"
        began = time.monotonic()
        host.systemctl("stop", *{way, unit})
        seconds = time.monotonic() - began
        line = f"{host.release}: {unit} stopped during a sync after {seconds:.2f} s"
        measured(f"stop {unit} on {host.release}", round(seconds, 2), line)
        assert host.show(unit, "ActiveState")["ActiveState"] != "active"
    for name in (ROUTES, RECIPIENTS):
        found = {key for key in mx.dumped(name) if key.endswith("@bulk.example.net")}
        assert found in [
            {address for list_name in lists for address in nine(list_name)}
            for lists in (before, after)
        ]
    assert not mx.dumped(ALIASES)
    mx.deliver(FIRST)
    host.systemctl("start", way)
    wait_for(lambda: mx.knows(after[-1]), 3 * PATIENCE, "all lists")
    wait_for(mx.at_rest, 3 * PATIENCE, "complete maps and no leftover files")


# What doctor finds.


def doctor(mx: Mx, name: str) -> dict[str, str]:
    """Return a finding of doctor; none is an empty dictionary."""
    found = json.loads(mx.host.ask("postfix-sync", "doctor", "--json").stdout)["checks"]
    return next((check for check in found if check["name"] == name), {})


def test_doctor_reports_units_that_are_off_and_its_command_starts_them(mx: Mx, way: str) -> None:
    assert doctor(mx, "units")["status"] == "ok"
    mx.host.systemctl("disable", way)
    found = doctor(mx, "units")
    assert (found["status"], found["fix"]) == ("warning", f"systemctl enable {way}")
    mx.host.run("sh", "-c", found["fix"])
    mx.host.systemctl("stop", way)
    found = doctor(mx, "units")
    assert (found["status"], found["fix"]) == ("warning", f"systemctl start {way}")
    mx.host.run("sh", "-c", found["fix"])
    assert doctor(mx, "units")["status"] == "ok"

    mx.host.systemctl("disable", "--now", way)
    cron = mx.host.path("/etc/cron.d/postfix-sync")
    cron.parent.mkdir(exist_ok=True)
    cron.write_text("* * * * * root /usr/bin/postfix-sync --once\n")
    assert doctor(mx, "units")["seen"].endswith("/etc/cron.d/postfix-sync makes syncs")
    cron.unlink()
    found = doctor(mx, "units")
    assert found["status"] == "warning"
    assert "neither the daemon nor the timer runs" in found["why"]
    mx.host.run("sh", "-c", found["fix"])
    assert doctor(mx, "units")["status"] == "ok"


def test_doctor_reports_that_the_sandbox_needs_the_socket_of_podman(daemon: Mx) -> None:
    daemon.configure(sources=[{"path": f"{VOLUME}/data", "address": "podman:mm"}])
    found = doctor(daemon, "podman_socket")
    assert found["status"] == "warning"
    assert found["fix"] == "systemctl enable --now podman.socket"
    daemon.edit(SERVICE, "[Service]", "CapabilityBoundingSet=CAP_SYS_ADMIN")
    daemon.edit(ONCE, "[Service]", "CapabilityBoundingSet=CAP_SYS_ADMIN")
    assert doctor(daemon, "podman_socket") == {}
    daemon.edit(SERVICE)
    daemon.edit(ONCE)
    daemon.host.path("/run/podman").mkdir()
    daemon.host.run(
        "systemd-run",
        "--unit=podman-socket",
        "systemd-socket-activate",
        "-l",
        "/run/podman/podman.sock",
        "true",
    )
    wait_for(lambda: doctor(daemon, "podman_socket")["status"] == "ok", PATIENCE, "the socket")
