"""The Debian package on Debian 13: install, upgrade, remove and purge."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import postfix_sync
from tests.booted.conftest import need_booted_hosts
from tests.conftest import need
from tests.parts import debian_package
from tests.parts.booted import Booted
from tests.parts.common import PATIENCE, public_directory, run, wait_for
from tests.parts.debian_root import TRIXIE
from tests.parts.mailman_files import MailmanFiles

pytestmark = [pytest.mark.booted, pytest.mark.slow]

EARLIER = "0.0.1~test"

CONFIG = "/etc/postfix-sync/config.yaml"
MAIN_CF = "/etc/postfix/main.cf"
HOSTS = "/etc/hosts"
VOLUME = "/srv/mailman/var/data"
CONFIGURATION: dict[str, Any] = {
    "sources": [{"path": VOLUME, "address": "127.0.0.1"}],
    "probe": {"level": "off"},
}
ANTS, BEES, CATS = (f"{name}@lists.example.net" for name in ("ants", "bees", "cats"))
HOP = "lmtp:[mailman-core]:8024"
BLOCK = "# BEGIN postfix-sync\n127.0.0.1\tmailman-core\n# END postfix-sync\n"
MAPS = "/etc/postfix/mailman"
ROUTES = f"lmdb:{MAPS}/postfix_lmtp"

DAEMON, ONCE, TIMER = "postfix-sync.service", "postfix-sync-once.service", "postfix-sync-once.timer"

RESTLESS = (
    *("/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp", "/var/cache", "/var/log", "/srv"),
    *("/root", "/var/lib/dpkg", "/var/lib/apt", "/var/spool/postfix"),
)
"""Paths that change with any package, or on their own."""

RCPT = """\
import smtplib, sys
with smtplib.SMTP("127.0.0.1") as smtp:
    smtp.ehlo()
    smtp.mail("somebody@example.org")
    print(*(smtp.rcpt(address)[0] for address in sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the package and one of an earlier version."""
    need_booted_hosts()
    need(shutil.which("dpkg-buildpackage"), "dpkg-dev")
    built = debian_package.build(tmp_path_factory.mktemp("package") / "checkout")
    debian_package.earlier(built, EARLIER)
    return built.parent


@pytest.fixture
def mx(packages: Path) -> Iterator[Booted]:
    """A host with the packages in /root and a Mailman with one list; it is switched off."""
    with public_directory() as directory, Booted(TRIXIE, directory) as mx:
        for package in packages.glob("*.deb"):
            shutil.copy(package, mx.path("/root"))
        MailmanFiles(mx.path(VOLUME)).write(ANTS, hop=HOP)
        yield mx


def deb(version: str = postfix_sync.__version__) -> str:
    """Return the path of a version's package on the host."""
    return f"/root/postfix-sync_{version}_all.deb"


def apt(run: Callable[..., str], *arguments: str) -> str:
    """Run apt-get; return its output."""
    return run(
        *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"),
        *("-o", "Dpkg::Use-Pty=0", *arguments),
        timeout=600,
    )


def write_configuration(mx: Booted, configuration: dict[str, Any]) -> None:
    """Write postfix-sync's configuration, as an operator does."""
    mx.path(CONFIG).write_text(yaml.safe_dump(configuration))


def listing(run: Callable[..., str]) -> set[str]:
    """Return every file of the host, except those that change on their own."""
    pruned = [part for path in RESTLESS for part in ("-path", path, "-prune", "-o")]
    found = run("find", "/", "-xdev", *pruned, "!", "-name", "*.pyc", "-print")
    return set(found.splitlines())


def answers(mx: Booted, *recipients: str) -> str:
    """Return Postfix's reply codes to RCPT for these recipients."""
    return mx.run("python3", "-c", RCPT, *recipients).strip()


def states(mx: Booted) -> str:
    """Return the states of the daemon and the timer."""
    return mx.ask("systemctl", "is-active", DAEMON, TIMER).stdout.replace("\n", " ").strip()


def test_package_keeps_mail_flowing_from_install_to_purge(mx: Booted) -> None:
    """Each of install, upgrade, remove and purge leaves units and files as documented."""
    mx.boot()
    before = listing(mx.run)
    _is_not_started_without_a_configuration(mx)
    _is_configured_and_started(mx)
    kept = {path: mx.path(path).read_text() for path in (CONFIG, MAIN_CF, HOSTS)}
    _continues_after_an_upgrade(mx)
    assert {path: mx.path(path).read_text() for path in kept} == kept
    _is_removed_and_mail_is_accepted(mx)
    assert {path: mx.path(path).read_text() for path in kept} == kept
    _continues_when_it_is_installed_again(mx)
    _is_purged_except_the_maps_that_postfix_uses(mx)
    del kept[CONFIG]
    assert {path: mx.path(path).read_text() for path in kept} == kept
    left = listing(mx.run) - before
    assert {path for path in left if not path.startswith(MAPS)} == set()


def _is_not_started_without_a_configuration(mx: Booted) -> None:
    apt(mx.run, "install", deb(EARLIER))
    assert mx.run("postfix-sync", "--version") == f"postfix-sync {EARLIER}\n"
    assert mx.run("stat", "--format=%U %a", "/etc/postfix-sync") == "root 755\n"
    assert not mx.path(CONFIG).exists()
    assert mx.ask("systemctl", "is-enabled", DAEMON, TIMER).stdout == "enabled\ndisabled\n"
    assert states(mx) == "inactive inactive"
    assert mx.show(DAEMON, "ConditionResult") == {"ConditionResult": "no"}
    assert mx.journal(DAEMON, "warning") == []


def _is_configured_and_started(mx: Booted) -> None:
    write_configuration(mx, CONFIGURATION)
    mx.systemctl("start", DAEMON)
    assert mx.run("postmap", "-q", ANTS, ROUTES) == f"{HOP}\n"
    mx.ask("postfix-sync", "setup", "--yes")
    assert answers(mx, ANTS, BEES) == "250 550"
    assert BLOCK in mx.path(HOSTS).read_text()
    mx.systemctl("enable", "--now", TIMER)


def _continues_after_an_upgrade(mx: Booted) -> None:
    generations = mx.run("ls", "/var/lib/postfix-sync/generations")
    assert generations
    pid = mx.main_pid(DAEMON)
    apt(mx.run, "install", deb())
    assert states(mx) == "active active"
    assert mx.main_pid(DAEMON) not in {0, pid}
    status = json.loads(mx.run("postfix-sync", "status", "--json"))
    assert status["version"] == postfix_sync.__version__
    assert mx.run("ls", "/var/lib/postfix-sync/generations") == generations
    MailmanFiles(mx.path(VOLUME)).write(ANTS, BEES, hop=HOP)
    wait_for(lambda: answers(mx, ANTS, BEES) == "250 250", PATIENCE, "a list after the upgrade")


def _is_removed_and_mail_is_accepted(mx: Booted) -> None:
    # A sync that is running, and would run for long.
    mx.run("mkdir", f"/run/systemd/system/{ONCE}.d")
    slow = "[Service]\nExecStart=\nExecStart=sleep 1000\n"
    mx.ask("tee", f"/run/systemd/system/{ONCE}.d/slow.conf", stdin=slow)
    mx.systemctl("daemon-reload")
    mx.systemctl("start", "--no-block", ONCE)
    mx.wait_for_unit(ONCE, "activating")
    printed = apt(mx.run, "remove", "postfix-sync")
    assert f"Postfix continues to use the maps in {MAPS} as they are now" in printed
    assert states(mx) == "inactive inactive"
    mx.run("rm", "-r", f"/run/systemd/system/{ONCE}.d")
    assert mx.show(ONCE, "ActiveState") == {"ActiveState": "inactive"}
    mx.systemctl("restart", "postfix")
    assert answers(mx, ANTS, BEES, CATS) == "250 250 550"


def _continues_when_it_is_installed_again(mx: Booted) -> None:
    apt(mx.run, "install", deb())
    assert states(mx) == "active active"
    # A unit that the operator has disabled stays disabled.
    mx.systemctl("disable", "--now", DAEMON)
    apt(mx.run, "install", "--reinstall", deb())
    assert states(mx) == "inactive active"


def _is_purged_except_the_maps_that_postfix_uses(mx: Booted) -> None:
    printed = apt(mx.run, "purge", "postfix-sync")
    for number, line in enumerate(mx.path(MAIN_CF).read_text().splitlines(), 1):
        assert (f"{MAIN_CF}:{number}:{line}" in printed) == (f"{MAPS}/" in line)
    assert f"rm -r {MAPS}" in printed
    mx.systemctl("restart", "postfix")
    assert answers(mx, ANTS, BEES, CATS) == "250 250 550"


@pytest.fixture
def image(mx: Booted) -> Booted:
    """A host that is off, as in an image build: policy-rc.d lets no package start a service."""
    policy = mx.path("/usr/sbin/policy-rc.d")
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    return mx


def use(image: Booted, configuration: dict[str, Any]) -> None:
    """Install the package, configure it, and sync."""
    printed = apt(image.chroot, "install", deb())
    assert "postfix-sync.service" in printed  # enabled, for when the image is booted
    write_configuration(image, configuration)
    image.chroot("postfix-sync", "-q", "--once")


ELSEWHERE = {
    **CONFIGURATION,
    "postfix": {"map_directory": "/etc/postfix/lists"},
    "hosts": {"file": "/etc/postfix/hosts"},
    "state_directory": "/var/lib/lists",
    "metrics": {"textfile": "/var/lib/prometheus/node-exporter/postfix-sync.prom"},
}


MINE = "127.0.0.1 localhost\n\n192.0.2.1 mine\n"


@pytest.mark.parametrize(
    ("configuration", "map_directory", "hosts", "is_mount"),
    [
        (CONFIGURATION, MAPS, HOSTS, False),
        (ELSEWHERE, "/etc/postfix/lists", "/etc/postfix/hosts", True),
    ],
    ids=["defaults", "elsewhere"],
)
def test_purge_removes_everything_if_postfix_does_not_use_the_maps(
    image: Booted, configuration: dict[str, Any], map_directory: str, hosts: str, is_mount: bool
) -> None:
    """It removes maps, state and the block in each hosts file, without systemd.

    A hosts file that is a mount point, as in a container, can't be replaced.
    """

    def mounted(*command: str, timeout: float) -> str:
        script = f'mount --bind {hosts} {hosts} && exec "$@"'
        return image.chroot("sh", "-c", script, "sh", *command, timeout=timeout)

    files = [image.path(hosts), image.path("/var/spool/postfix/etc/hosts")]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_text(MINE)
        path.chmod(0o664)
    image.path("/var/lib/prometheus/node-exporter").mkdir(parents=True)
    before = listing(image.chroot)
    use(image, configuration)
    assert f"{map_directory}/postfix_lmtp.lmdb" in listing(image.chroot)
    assert [BLOCK in path.read_text() for path in files] == [True, True]
    printed = apt(mounted if is_mount else image.chroot, "purge", "postfix-sync")
    assert "postfix-sync: " not in printed  # no report of maps that are in use
    assert listing(image.chroot) == before
    for path in files:
        assert path.read_text() == MINE
        assert path.stat().st_mode & 0o777 == 0o664


POSTRM = "/var/lib/dpkg/info/postfix-sync.postrm"

NAMED = {
    "in a continuation line": (MAIN_CF, f"transport_maps = hash:/x,\n  {ROUTES}\n", ROUTES),
    "by way of a parameter": (
        MAIN_CF,
        f"lists = {MAPS}\ntransport_maps = lmdb:$lists/postfix_lmtp\n",
        f"transport_maps = {ROUTES}",
    ),
    "for one service": (
        "/etc/postfix/master.cf",
        f"  -o transport_maps={ROUTES}\n",
        f"-o transport_maps={ROUTES}",
    ),
    "in another instance": (
        "/etc/postfix-out/main.cf",
        f"transport_maps = {ROUTES}\n",
        f"/etc/postfix-out/main.cf:1:transport_maps = {ROUTES}",
    ),
}


def test_purge_keeps_maps_that_any_instance_uses(image: Booted) -> None:
    """It finds each way to name a map, and does not change a hosts file with a damaged block."""
    image.chroot("postconf", "multi_instance_directories = /etc/postfix-out")
    image.path("/etc/postfix-out").mkdir()
    for file, *_ in NAMED.values():
        image.path(file).touch()
    use(image, CONFIGURATION)
    for how, (file, lines, said) in NAMED.items():
        before = image.path(file).read_text()
        image.path(file).write_text(before + lines)
        printed = image.chroot("sh", POSTRM, "purge")
        assert said in printed, how
        assert image.chroot("postmap", "-q", ANTS, ROUTES) == f"{HOP}\n", how
        assert BLOCK in image.path(HOSTS).read_text(), how
        image.path(file).write_text(before)
    hosts = image.path(HOSTS).read_text().replace("# END postfix-sync\n", "192.0.2.1 mine\n")
    image.path(HOSTS).write_text(hosts)
    apt(image.chroot, "purge", "postfix-sync")
    assert not image.path(MAPS).exists()
    assert image.path(HOSTS).read_text() == hosts


TOOLS = (
    *("debhelper", "dh-python", "dpkg-dev", "lintian", "make", "pybuild-plugin-pyproject"),
    "python3-hatchling",
)


def contents(run: Callable[..., str], package: str) -> set[tuple[str, str]]:
    """Return mode and name of each file in a package, except the wheel's own metadata."""
    lines = [line.split() for line in run("dpkg-deb", "--contents", package).splitlines()]
    return {(mode, name) for mode, *_, name in lines if ".dist-info/" not in name}


def complaints(run: Callable[..., str], package: str) -> str:
    """Return lintian's output."""
    return run("lintian", "--allow-root", "--fail-on", "none", package)


def test_package_built_on_debian_13_has_the_same_files(packages: Path) -> None:
    """lintian finds nothing in either."""
    with public_directory() as directory, Booted(TRIXIE, directory, packages=TOOLS) as mx:
        mx.chroot("make", "-C", mx.copy_checkout(), "deb")
        there, ours = f"/root/postfix-sync/dist/{Path(deb()).name}", deb()
        shutil.copy(packages / Path(ours).name, mx.path(ours))
        assert contents(mx.chroot, there) == contents(mx.chroot, ours)
        assert [complaints(mx.chroot, path) for path in (there, ours)] == ["", ""]


def test_lintian_of_this_machine_finds_no_problem(packages: Path) -> None:
    """Debian 12's lintian has rules that Debian 13's has dropped."""
    need(shutil.which("lintian"), "lintian")
    assert complaints(run, str(packages / Path(deb()).name)) == ""
