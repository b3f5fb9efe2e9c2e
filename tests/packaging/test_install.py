"""make install and make uninstall, on a test's own hosts (tests.parts.other_host).

tests/booted has the tests with systemd.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from postfix_sync import __version__
from tests.conftest import need
from tests.parts import source
from tests.parts.common import run
from tests.parts.daemon import RunningDaemon
from tests.parts.mailman_files import nine
from tests.parts.other_host import OtherHost
from tests.parts.site import Site

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
PREFIX = "opt/postfix-sync"
ROOT = Path(__file__).parents[2]
UNITS = "usr/local/lib/systemd/system"
KILL_AT = "tests/integration/kill_at"

MakeSite = Callable[..., Site]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


class Clone:
    """A copy of the project, in which a host runs `make`."""

    def __init__(self, directory: Path) -> None:
        """Copy the project."""
        self.directory = source.copy(directory)
        self._environment = source.offline()

    def make(
        self,
        host: OtherHost,
        *arguments: str,
        expect: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run make, which must exit with `expect`; return its output."""
        done = host.run(
            *("make", "-s", "-C", str(self.directory), *arguments),
            environment={**self._environment, **(environment or {})},
        )
        assert done.returncode == expect, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """One clone for all tests; `make` does not change it."""
    return Clone(tmp_path_factory.mktemp("clone") / "postfix-sync")


@pytest.fixture(scope="module")
def staged(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that `make install DESTDIR=…` made, and that was renamed since."""

    def make(directory: Path) -> None:
        destination = directory / "as-it-was-built"
        command = ["make", "-s", "-C", str(clone.directory), "install", f"DESTDIR={destination}"]
        subprocess.run(command, env=source.offline(), check=True)
        destination.rename(directory / "tree")

    return source.once(tmp_path_factory, "staged", make) / "tree"


@pytest.fixture
def host(tmp_path: Path) -> OtherHost:
    """A host without postfix-sync."""
    return OtherHost.make(tmp_path / "host")


@pytest.fixture
def installed(host: OtherHost, staged: Path) -> OtherHost:
    """A host with postfix-sync installed."""
    shutil.copytree(staged, host.directory, symlinks=True, dirs_exist_ok=True)
    return host


@pytest.fixture
def site(make_site: MakeSite, installed: OtherHost) -> Site:
    """A site for the installed command, with one list."""
    made = make_site(command=(*installed.prefix, "/usr/local/sbin/postfix-sync"))
    made.files.write(ANTS)
    return made


def environments(host: OtherHost) -> set[str]:
    """Return the names of the virtual environments on a host."""
    return {path.name for path in (host.directory / PREFIX).glob("[0-9]*")}


def in_use(host: OtherHost) -> str:
    """Return the name of the virtual environment that the command is from."""
    return (host.directory / PREFIX / "bin/postfix-sync").readlink().parts[1]


def version(host: OtherHost) -> str:
    """Return the output of `postfix-sync --version`."""
    return host.run("/usr/local/sbin/postfix-sync", "--version", environment={}).stdout


def test_staged_tree_does_not_contain_destdir(staged: Path) -> None:
    """No file contains it, including compiled ones; and all users can read every file."""
    done = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "as-it-was-built", staged],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    modes = {path: path.stat().st_mode for path in staged.rglob("*") if not path.is_symlink()}
    assert [path for path, mode in modes.items() if not mode & 0o004 or mode & 0o022] == []


def test_staged_tree_has_only_what_the_command_needs(staged: Path) -> None:
    """It has no pip and no tests; every module is compiled, because only root can write there."""
    (packages,) = staged.glob(f"{PREFIX}/*/lib/python3*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"postfix_sync", "asyncssh"} <= names
    assert not names & {"pip", "setuptools", "tests", "tools", "hatchling"}
    ours = packages / "postfix_sync"
    modules = {path.stem for path in ours.glob("*.py")}
    assert modules == {path.name.partition(".")[0] for path in ours.glob("__pycache__/*.pyc")}


def test_units_name_the_command_of_the_prefix(staged: Path) -> None:
    """Only the path differs from the repository; the drop-in needs systemd 253."""
    units = [*(source.PROJECT / "systemd").glob("*.*")]
    installed = {path.name: path for path in (staged / UNITS).rglob("*") if path.is_file()}
    supported = int(run("systemctl", "--version").split()[1]) >= 253
    assert set(installed) == {unit.name for unit in units if unit.suffix != ".conf" or supported}
    assert {path.parent.name for path in installed.values() if path.suffix == ".conf"} == (
        {"postfix-sync.service.d"} if supported else set()
    )
    for unit in units:
        if unit.name in installed:
            text = installed[unit.name].read_text()
            assert "/usr/bin/postfix-sync" not in text
            assert text.replace("/opt/postfix-sync/bin/", "/usr/bin/") == unit.read_text()


def test_staged_tree_works_at_its_final_place(site: Site, installed: OtherHost) -> None:
    """The command on PATH makes a sync with only the files of the tree."""
    assert version(installed) == f"postfix-sync {__version__}\n"
    site.once()
    assert set(site.installed("postfix_recipients")) == set(nine(ANTS))


def test_uninstall_removes_only_what_install_put_there(clone: Clone, host: OtherHost) -> None:
    """It keeps the files from before the installation, and those that the operator wrote since."""
    page = host.directory / "usr/local/share/man/man8/other.8"
    page.parent.mkdir(parents=True)
    page.write_text("somebody else's")
    before = host.tree()
    said = clone.make(host, "install")
    assert "write /etc/postfix-sync/config.yaml" in said
    assert f"postfix-sync {__version__}" in version(host)
    assert "not from here" not in said

    written = {
        "etc/postfix-sync/config.yaml": "sources: [{path: /srv/data}]\n"
        "postfix: {map_directory: /etc/postfix/lists}\n",
        "etc/postfix/lists/postfix_lmtp": "",
        "etc/postfix/main.cf": "# lmdb:/etc/postfix/lists/postfix_lmtp was it\n"
        "transport_maps = hash:/etc/postfix/transport,\n"
        "    lmdb:$config_directory/lists/postfix_lmtp\n"
        "multi_instance_directories = /etc/postfix-in\n",
        "etc/postfix-in/main.cf": "relay_domains = lmdb:/etc/postfix/lists/postfix_domains\n",
    }
    for name, text in written.items():
        (host.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (host.directory / name).write_text(text)
    said = clone.make(host, "uninstall")
    assert "Kept: /etc/postfix-sync, /etc/postfix/lists. Postfix continues to use the maps" in said
    assert "  /etc/postfix/main.cf:3: lmdb:$config_directory/lists/postfix_lmtp\n" in said
    assert "  /etc/postfix-in/main.cf:1: relay_domains = lmdb:" in said
    assert said.count("main.cf:") == 2
    made = ("etc/postfix-sync", "etc/postfix", "etc/postfix/lists", "etc/postfix-in")
    assert host.tree() == {**before, **written, **dict.fromkeys(made, "/")}
    assert "make install has not installed anything there" in clone.make(
        host, "uninstall", expect=2
    )


@pytest.mark.kill
def test_killed_upgrade_leaves_the_previous_installation_working(
    site: Site, clone: Clone, installed: OtherHost
) -> None:
    """The command is from the previous installation until the link is changed.

    A running daemon continues to load modules from the environment that it was started from; the
    upgrade keeps that, and the uninstallation removes everything.
    """
    old = in_use(installed)
    killed = {"PYTHONPATH": str(clone.directory / KILL_AT), "KILL_AT_ROOT": f"/{PREFIX}"}
    with RunningDaemon(site) as daemon:
        daemon.wait_until_it_watches()
        for before in ("'install', '--no-compile'", f"os.rename /{PREFIX}/bin/postfix-sync"):
            said = clone.make(
                installed, "install", expect=2, environment={**killed, "KILL_AT_TEXT": before}
            )
            assert "Killed" in said
            assert in_use(installed) == old
            assert version(installed) == f"postfix-sync {__version__}\n"
        assert len(environments(installed)) == 3

        assert "has to be restarted" in clone.make(installed, "install")
        assert in_use(installed) != old
        assert environments(installed) == {old, in_use(installed)}
        assert version(installed) == f"postfix-sync {__version__}\n"
        site.files.write(ANTS, BEES)
        daemon.wait_for("bees@lists.example.net")

        refused = clone.make(installed, "uninstall", expect=2)
        assert f"end process {daemon.process.pid} first" in refused
        assert version(installed) == f"postfix-sync {__version__}\n"
        assert daemon.stop(signal.SIGTERM) == 0
    assert set(site.installed("postfix_recipients")) == {*nine(ANTS), *nine(BEES)}
    clone.make(installed, "uninstall")
    assert [path for path in installed.tree() if "postfix-sync" in path] == []


@pytest.mark.parametrize(
    ("there", "prefix", "said"),
    [
        ("usr/local/sbin/postfix-sync", "/opt/postfix-sync", "is there already, and not from here"),
        ("opt/postfix-sync/bin/python3", "/opt/postfix-sync", "choose another PREFIX"),
        ("usr/local/bin/other", "/usr/local", "choose another PREFIX"),
        ("opt/other", "/opt", "a directory of postfix-sync's own is expected"),
        ("opt/other", "opt/postfix-sync", "an absolute path of letters, digits and"),
        ("opt/other", "/opt/with a blank", "an absolute path of letters, digits and"),
    ],
)
def test_install_is_refused_before_it_overwrites_a_foreign_file(
    clone: Clone, tmp_path: Path, there: str, prefix: str, said: str
) -> None:
    path = tmp_path / there
    path.parent.mkdir(parents=True)
    path.write_text("somebody else's")
    before = sorted(tmp_path.rglob("*"))
    command = ["make", "-s", "-C", str(clone.directory), "install", f"DESTDIR={tmp_path}"]
    done = subprocess.run(
        [*command, f"PREFIX={prefix}"],
        env=source.offline(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert path.read_text() == "somebody else's"
    assert sorted(tmp_path.rglob("*")) == before


def test_immutable_directory_is_named_with_the_command_that_helps_root(tmp_path: Path) -> None:
    """It is not enough to be root: chattr(1) forbids changes to everyone."""
    destination = tmp_path / "dest"
    destination.mkdir()
    set_attribute = subprocess.run(["chattr", "+i", destination], check=False, capture_output=True)
    need(set_attribute.returncode == 0, "a file system with attributes")
    command = [sys.executable, "tools/install.py", "install", "--prefix", "/opt/p"]
    try:
        done = subprocess.run(
            [*command, "--destdir", str(destination)],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 1
        assert "Operation not permitted" in done.stderr
        assert "run it as root" not in done.stderr
        show, _, fix = (
            done.stderr.partition("see ")[2].strip().rstrip(")").partition(" (to remove i: ")
        )
        assert "----i---" in run(*show.split())
        run(*fix.split())
        destination.joinpath("file").touch()
    finally:
        subprocess.run(["chattr", "-i", destination], check=True)
