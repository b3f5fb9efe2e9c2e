"""The units in their restrictions: all that a pass does works, and no exception is for nothing.

One pass does everything that the daemon ever does: it reads Mailman's volume, builds the maps from
nothing, enters names into a hosts file and the chroot's copy, reloads Postfix, asks its queue,
probes over both IPs and writes metrics. Each exception that the unit makes is taken away once:
something of that must break then, in the words that stand here.
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
"""What `systemd-analyze security` may say at most."""

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
VOLUME = "/home/mailman/data"
"""In a home, as that of a podman without root; for its owner alone, as containers' are."""
MAILMAN = 999

HOSTS = "/etc/hosts"
HOSTS_OWNER = (1000, 4)
"""A hosts file of somebody else's, which it stays."""
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
"""What the log says without each of the exceptions."""


LISTS = {
    "CapabilityBoundingSet",
    "ReadWritePaths",
    "RestrictAddressFamilies",
    "SystemCallFilter",
}
"""The settings that say what is allowed."""


def exceptions() -> list[str]:
    """All that the unit lets the daemon do."""
    lines = UNIT.read_text().splitlines()
    found = []
    for line in lines[lines.index("StateDirectory=postfix-sync") :]:
        name, _, value = line.partition("=")
        if name in LISTS and value[0] != "~" and value != "@system-service":
            found += [f"{name}={one}" for one in value.split()]
        elif line in {"StateDirectory=postfix-sync", "ProtectHome=read-only"}:
            found.append(line)
    return found


def without(exception: str) -> list[str]:
    """What takes it away in a drop-in."""
    name, _, value = exception.partition("=")
    if name == "StateDirectory":
        return [f"{name}="]
    if name == "ProtectHome":
        return [f"{name}=yes"]
    if name == "ReadWritePaths":
        kept = [one for one in exceptions() if one.startswith(name) and one != exception]
        return [f"{name}=", *kept]
    return [f"{name}=~{value}"]


def test_each_exception_is_taken_away_once() -> None:
    assert sorted([*BROKEN, "RestrictAddressFamilies=AF_UNIX"]) == sorted(exceptions())


@dataclass(frozen=True)
class Pass:
    """One pass from nothing, as the unit makes it."""

    status: int
    problems: list[str]
    lines: list[str]


@dataclass(frozen=True)
class Restricted:
    """A host with postfix-sync installed, and a Postfix that uses its maps; no Mailman listens."""

    host: Booted

    def restrict(self, *lines: str, unit: str = ONCE) -> None:
        """Have a drop-in with these lines, or none."""
        path = self.host.path(f"/etc/systemd/system/{unit}.d/test.conf")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in ["[Service]", *lines]))
        self.host.systemctl("daemon-reload")

    def forget(self) -> None:
        """Have nothing installed any more."""
        self.host.run("rm", "-rf", MAPS, METRICS)
        self.host.run("find", STATE, "-mindepth", "1", "-delete")
        self.host.run("sed", "-i", "/# BEGIN postfix-sync/,/# END postfix-sync/d", HOSTS, COPY)
        uid, gid = HOSTS_OWNER
        self.host.run("chown", f"{uid}:{gid}", HOSTS)

    def sync(self) -> Pass:
        """Have the unit make one; what came of it."""
        before = len(self.host.journal(ONCE))
        self.host.ask("systemctl", "start", ONCE)
        lines = self.host.journal(ONCE)[before:]
        status = int(self.host.show(ONCE, "ExecMainStatus")["ExecMainStatus"])
        return Pass(status, [one for one in lines if one.startswith("error: ")], lines)


@pytest.fixture(scope="module")
def restricted() -> Iterator[Restricted]:
    """On the older of the two systemds, which are asked for the same."""
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
        # Doctor, which it ends with, finds no Mailman: that is no matter here.
        done = host.ask("/usr/local/sbin/postfix-sync", "setup", "--yes")
        assert "doctor still finds" in done.stdout, done
        yield Restricted(host)


def test_everything_works(restricted: Restricted) -> None:
    restricted.restrict()
    restricted.forget()
    made = restricted.sync()
    refused = [one for one in made.problems if "connect: Connection refused" in one]
    assert made.problems == refused, "nothing but that no Mailman listens"
    assert len(refused) == 2
    assert made.status == 69
    assert "postfix: reloaded" in made.lines
    host = restricted.host
    assert host.run("stat", "--format=%u %g", HOSTS).split() == [str(one) for one in HOSTS_OWNER]
    assert "127.0.0.1\tmailman\n" in host.run("cat", COPY)
    assert "postfix_sync_" in host.run("cat", METRICS)
    assert host.run("postmap", "-q", BEES, f"lmdb:{MAPS}/postfix_lmtp") == "lmtp:[::1]:8024\n"


@pytest.mark.parametrize("exception", BROKEN)
def test_no_exception_is_for_nothing(restricted: Restricted, exception: str) -> None:
    restricted.restrict(*without(exception))
    restricted.forget()
    made = restricted.sync()
    assert any(BROKEN[exception] in one for one in made.lines), "\n".join(made.lines)


def test_the_daemon_can_tell_that_it_is_ready(restricted: Restricted) -> None:
    """Without AF_UNIX it makes its passes, and systemd waits for it in vain."""
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


def test_it_sees_which_trivial_rewrite_is_still_there(restricted: Restricted) -> None:
    """Postfix's processes are not hidden from it: else it could only wait, and tell of that."""
    assert waits_for_it(restricted)


def waits_for_it(restricted: Restricted) -> bool:
    """Whether a pass that has had Postfix reload waits for a trivial-rewrite that goes on."""
    host = restricted.host
    restricted.restrict()
    restricted.forget()
    host.run("sendmail", "-bv", "root")
    pid = wait_for(lambda: rewriter(host), PATIENCE, "a trivial-rewrite")
    host.run("kill", "-STOP", pid)
    try:
        host.systemctl("start", "--no-block", ONCE)
        wait_for(lambda: has(host, "postfix_lmtp"), PATIENCE, "the routes")
        # What is accepted is published when all that is routed is in use.
        with suppress(TimeoutError):
            wait_for(lambda: has(host, "postfix_recipients"), 5, "the recipients")
            return False
        return True
    finally:
        host.run("kill", "-CONT", pid)
        wait_for(
            lambda: host.show(ONCE, "ActiveState")["ActiveState"] == "failed", PATIENCE, "its end"
        )


def has(host: Booted, name: str) -> bool:
    """Whether a map names a list."""
    text = host.path(f"{MAPS}/{name}")
    return text.exists() and ANTS in text.read_text()


def rewriter(host: Booted) -> str:
    """The process id of trivial-rewrite(8), as the host numbers it; empty if there is none."""
    return host.ask("pgrep", "-x", "trivial-rewrite").stdout.strip()


@pytest.mark.parametrize("release", RELEASES)
def test_what_systemd_says_of_the_units(release: str, tmp_path: Path) -> None:
    """Each of the two that it is made for; nothing is installed, and nothing runs, for that."""
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
            said = host.chroot("systemd-analyze", "security", "--offline=true", service)
            found = re.search(r"exposure level for \S+: ([0-9.]+)", said)
            assert found, said
            assert float(found[1]) <= EXPOSED, said
