"""The units' sandbox: every step of a sync works in it, and every exception is necessary.

One sync does everything that the daemon ever does: it reads Mailman's volume, builds all maps,
enters names into a hosts file and its copy in the chroot, reloads Postfix, reads its queue, probes
over IPv4 and IPv6, and writes metrics. The tests remove each exception of the sandbox once; the
sync must then fail with the message in BROKEN.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.booted.conftest import need_booted_hosts
from tests.parts.booted import CHECKOUT, Booted
from tests.parts.common import PATIENCE, public_directory, wait_for
from tests.parts.debian_root import BOOKWORM, RELEASES, TRIXIE
from tests.parts.mailman_files import MailmanFiles, lmtp_text

pytestmark = [pytest.mark.booted, pytest.mark.slow]

DAEMON = "postfix-sync.service"
UNIT = CHECKOUT / "systemd" / DAEMON
ONCE = "postfix-sync-once.service"
TIMER = "postfix-sync-once.timer"

EXPOSED = 3.0
"""The highest exposure level that `systemd-analyze security` may report."""

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
VOLUME = "/home/mailman/data"
"""In a home directory, like a rootless podman's; only its owner can read it, as in containers."""
MAILMAN = 999

HOSTS = "/etc/hosts"
HOSTS_OWNER = (1000, 4)
"""The owner of the hosts file, which a sync must keep."""
COPY = "/var/spool/postfix/etc/hosts"
MAPS = "/etc/postfix/mailman"
STATE = "/var/lib/postfix-sync"
METRICS = "/var/lib/prometheus/node-exporter/postfix_sync.prom"

CONFIG = f"""\
sources:
  - name: lists
    path: {VOLUME}
    address: 127.0.0.1
metrics:
  textfile: {METRICS}
"""

BROKEN = {
    "StateDirectory=postfix-sync": f"{STATE}/once.lock: Read-only file system",
    "ReadWritePaths=/etc": f"{MAPS}: Read-only file system",
    "ReadWritePaths=/var/spool": f"{COPY}: Read-only file system",
    "ReadWritePaths=-/var/lib/prometheus/node-exporter": f"{METRICS}: Read-only file system",
    "CapabilityBoundingSet=CAP_DAC_READ_SEARCH": f"{VOLUME}/postfix_lmtp: user root (0) is not",
    "CapabilityBoundingSet=CAP_SETUID": "postsuper: fatal: setuid(",
    "CapabilityBoundingSet=CAP_SETGID": "postsuper: fatal: setgid(",
    "CapabilityBoundingSet=CAP_CHOWN": f"{HOSTS}: Operation not permitted",
    "CapabilityBoundingSet=CAP_FOWNER": f"{HOSTS}: Operation not permitted",
    "ProtectHome=read-only": f"{VOLUME}/postfix_lmtp: ",
    "RestrictAddressFamilies=AF_INET": "mailman:8024: down: connect: Address family not supported",
    "RestrictAddressFamilies=AF_INET6": "lists: ::1 is IPv6, which inet_protocols keeps",
    "RestrictAddressFamilies=AF_NETLINK": "getifaddrs: Address family not supported",
    "SystemCallFilter=@chown": f"{HOSTS}: Operation not permitted",
    "SystemCallFilter=@setuid": "postsuper: fatal: setgid(",
}
"""The error in the log if an exception is removed."""


LISTS = {
    "CapabilityBoundingSet",
    "ReadWritePaths",
    "RestrictAddressFamilies",
    "SystemCallFilter",
}
"""The settings that list what is permitted."""


def exceptions() -> list[str]:
    """Return all exceptions of the unit's sandbox, one per value."""
    lines = UNIT.read_text().splitlines()
    found = []
    for line in lines[lines.index("StateDirectory=postfix-sync") :]:
        name, _, value = line.partition("=")
        if name in LISTS and value[0] != "~" and value != "@system-service":
            found += [f"{name}={item}" for item in value.split()]
        elif line in {"StateDirectory=postfix-sync", "ProtectHome=read-only"}:
            found.append(line)
    return found


def without(exception: str) -> list[str]:
    """Return the lines of a drop-in that remove an exception."""
    name, _, value = exception.partition("=")
    if name == "StateDirectory":
        return [f"{name}="]
    if name == "ProtectHome":
        return [f"{name}=yes"]
    if name == "ReadWritePaths":
        kept = [line for line in exceptions() if line.startswith(name) and line != exception]
        return [f"{name}=", *kept]
    return [f"{name}=~{value}"]


def test_each_exception_of_the_sandbox_has_a_test() -> None:
    assert sorted([*BROKEN, "RestrictAddressFamilies=AF_UNIX"]) == sorted(exceptions())


@dataclass(frozen=True)
class Sync:
    """The result of a sync by the unit on a host without maps."""

    status: int
    problems: list[str]
    lines: list[str]


@dataclass(frozen=True)
class Restricted:
    """A host with postfix-sync installed, whose Postfix uses the maps; no LMTP server listens."""

    host: Booted

    def restrict(self, *lines: str, unit: str = ONCE) -> None:
        """Write a drop-in with these lines; without lines, it restricts nothing."""
        path = self.host.path(f"/etc/systemd/system/{unit}.d/test.conf")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in ["[Service]", *lines]))
        self.host.systemctl("daemon-reload")

    def forget(self) -> None:
        """Remove all maps, metrics, state and entries in hosts files."""
        self.host.run("rm", "-rf", MAPS, METRICS)
        self.host.run("find", STATE, "-mindepth", "1", "-delete")
        self.host.run("sed", "-i", "/# BEGIN postfix-sync/,/# END postfix-sync/d", HOSTS, COPY)
        uid, gid = HOSTS_OWNER
        self.host.run("chown", f"{uid}:{gid}", HOSTS)

    def sync(self) -> Sync:
        """Start the unit; return the result of its sync."""
        before = len(self.host.journal(ONCE))
        self.host.ask("systemctl", "start", ONCE)
        lines = self.host.journal(ONCE)[before:]
        status = int(self.host.show(ONCE, "ExecMainStatus")["ExecMainStatus"])
        return Sync(status, [line for line in lines if line.startswith("error: ")], lines)


@pytest.fixture(scope="module")
def restricted() -> Iterator[Restricted]:
    """The host, with the older of the two versions of systemd."""
    need_booted_hosts()
    with public_directory() as directory, Booted(BOOKWORM, directory) as host:
        host.chroot("make", "-C", host.copy_checkout(), "install")
        configuration = host.path("/etc/postfix-sync/config.yaml")
        configuration.parent.mkdir(exist_ok=True)
        configuration.write_text(CONFIG)
        host.path(METRICS).parent.mkdir(parents=True)
        volume = MailmanFiles(host.path(VOLUME))
        volume.write(ANTS, BEES)
        routes = lmtp_text([ANTS], "lmtp:[mailman]:8024") + lmtp_text([BEES], "lmtp:[::1]:8024")
        volume.put("postfix_lmtp", routes)
        host.boot()
        host.run("chown", "-R", f"{MAILMAN}:{MAILMAN}", VOLUME)
        host.run("chmod", "700", VOLUME)
        # doctor, which setup runs last, finds no Mailman; that does not affect these tests.
        done = host.ask("/usr/local/sbin/postfix-sync", "setup", "--yes")
        assert "doctor still finds" in done.stdout, done
        yield Restricted(host)


def test_sync_works_in_the_sandbox(restricted: Restricted) -> None:
    restricted.restrict()
    restricted.forget()
    made = restricted.sync()
    refused = [line for line in made.problems if "connect: Connection refused" in line]
    assert made.problems == refused, "no error except that no Mailman listens"
    assert len(refused) == 2
    assert made.status == 69
    assert "postfix: reloaded" in made.lines
    host = restricted.host
    assert host.run("stat", "--format=%u %g", HOSTS).split() == [
        str(number) for number in HOSTS_OWNER
    ]
    assert "127.0.0.1\tmailman\n" in host.run("cat", COPY)
    assert "postfix_sync_" in host.run("cat", METRICS)
    assert host.run("postmap", "-q", BEES, f"lmdb:{MAPS}/postfix_lmtp") == "lmtp:[::1]:8024\n"


@pytest.mark.parametrize("exception", BROKEN)
def test_sync_fails_without_an_exception_of_the_sandbox(
    restricted: Restricted, exception: str
) -> None:
    restricted.restrict(*without(exception))
    restricted.forget()
    made = restricted.sync()
    assert any(BROKEN[exception] in line for line in made.lines), "\n".join(made.lines)


def test_daemon_notifies_systemd_only_with_af_unix(restricted: Restricted) -> None:
    """Without AF_UNIX the daemon syncs, but its unit stays in the state activating."""
    host = restricted.host
    restricted.restrict("RestrictAddressFamilies=~AF_UNIX", unit=DAEMON)
    host.systemctl("start", "--no-block", DAEMON)
    host.wait_for_message(DAEMON, "down: connect: Connection refused", times=2)
    assert host.show(DAEMON, "ActiveState")["ActiveState"] == "activating"
    host.systemctl("stop", DAEMON)
    restricted.restrict(unit=DAEMON)
    host.systemctl("start", DAEMON)
    assert host.show(DAEMON, "ActiveState")["ActiveState"] == "active"
    host.systemctl("stop", DAEMON)


def test_sync_waits_for_an_old_trivial_rewrite_process(restricted: Restricted) -> None:
    """The sandbox does not hide Postfix's processes from postfix-sync."""
    assert waits_for_trivial_rewrite(restricted)


def waits_for_trivial_rewrite(restricted: Restricted) -> bool:
    """Whether a sync waits, after its reload, for the end of a stopped trivial-rewrite."""
    host = restricted.host
    restricted.restrict()
    restricted.forget()
    host.run("sendmail", "-bv", "root")
    pid = wait_for(lambda: rewriter(host), PATIENCE, "a trivial-rewrite")
    host.run("kill", "-STOP", pid)
    try:
        host.systemctl("start", "--no-block", ONCE)
        wait_for(lambda: has(host, "postfix_lmtp"), PATIENCE, "the routes")
        # The recipients are published once all processes use the routes.
        with suppress(TimeoutError):
            wait_for(lambda: has(host, "postfix_recipients"), 5, "the recipients")
            return False
        return True
    finally:
        host.run("kill", "-CONT", pid)
        wait_for(
            lambda: host.show(ONCE, "ActiveState")["ActiveState"] == "failed",
            PATIENCE,
            "the end of the sync",
        )


def has(host: Booted, name: str) -> bool:
    """Whether a map's text has a list."""
    text = host.path(f"{MAPS}/{name}")
    return text.exists() and ANTS in text.read_text()


def rewriter(host: Booted) -> str:
    """Return trivial-rewrite(8)'s process id on the host, or an empty text."""
    return host.ask("pgrep", "-x", "trivial-rewrite").stdout.strip()


@pytest.mark.parametrize("release", RELEASES)
def test_systemd_analyze_accepts_the_units(release: str, tmp_path: Path) -> None:
    """Check the units with both versions of systemd, without installing or starting anything."""
    need_booted_hosts()
    with Booted(release, tmp_path / "host") as host:
        host.path("/usr/bin/postfix-sync").symlink_to("/bin/true")
        units = "/etc/systemd/system"
        for path in UNIT.parent.glob("*.[st]*"):
            shutil.copy(path, host.path(units))
        if release == TRIXIE:
            dropins = host.path(f"{units}/{DAEMON}.d")
            dropins.mkdir()
            shutil.copy(UNIT.with_name("notify-reload.conf"), dropins)
        installed = [f"{units}/{name}" for name in (DAEMON, ONCE, TIMER)]
        assert host.chroot("systemd-analyze", "verify", "--man=no", *installed) == ""
        for service in installed[:2]:
            printed = host.chroot("systemd-analyze", "security", "--offline=true", service)
            found = re.search(r"exposure level for \S+: ([0-9.]+)", printed)
            assert found, printed
            assert float(found[1]) <= EXPOSED, printed
