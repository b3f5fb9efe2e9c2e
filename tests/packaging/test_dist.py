"""make dist: the contents of the wheel and the source archive, and that both can be used."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from postfix_sync import __version__
from tests.parts import source
from tests.parts.common import run
from tests.parts.mailman import PYTHON
from tests.parts.mailman_files import nine
from tests.parts.site import Site

WHEEL = f"postfix_sync-{__version__}-py3-none-any.whl"
ARCHIVE = f"postfix_sync-{__version__}.tar.gz"
TIME = "1700000000"

ANTS = "ants@lists.example.net"

pytestmark = pytest.mark.slow


def make_dist(clone: Path, *, umask: int) -> Path:
    """Run `make dist`; return the directory of its results."""
    subprocess.run(
        ["make", "-s", "-C", clone, "dist"],
        env={**source.offline(), "SOURCE_DATE_EPOCH": TIME},
        check=True,
        umask=umask,
    )
    return clone / "dist"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with what `make dist` makes in a clone."""

    def make(directory: Path) -> None:
        shutil.copytree(
            make_dist(source.copy(directory / "clone"), umask=0o022), directory / "dist"
        )

    return source.once(tmp_path_factory, "made", make) / "dist"


@pytest.fixture
def unpacked(dist: Path, tmp_path: Path) -> Path:
    """The directory of the unpacked source archive."""
    run("tar", "--extract", "--file", str(dist / ARCHIVE), "--directory", str(tmp_path))
    return tmp_path / ARCHIVE.removesuffix(".tar.gz")


def files(directory: Path) -> set[str]:
    """Return the paths of all files in a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_wheel_has_only_the_package(dist: Path) -> None:
    """The package includes its type marker and its licence."""
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"postfix_sync-{__version__}.dist-info/METADATA").decode()
    package = {name for name in names if ".dist-info/" not in name}
    expected = files(source.PROJECT / "postfix_sync")
    assert package == {f"postfix_sync/{name}" for name in expected if "__pycache__" not in name}
    assert "postfix_sync/py.typed" in package
    assert f"postfix_sync-{__version__}.dist-info/licenses/LICENSE" in names
    assert f"\nVersion: {__version__}\n" in metadata


def test_source_archive_has_all_files_of_a_clone(unpacked: Path, tmp_path: Path) -> None:
    """It has the tests, the documentation and the units."""
    clone = files(source.copy(tmp_path / "clone"))
    assert files(unpacked) == {*clone, "PKG-INFO"}
    assert {"tests/conftest.py", "systemd/postfix-sync.service", "Makefile", "LICENSE"} <= clone


def test_dist_is_reproducible(dist: Path, unpacked: Path) -> None:
    """Another directory, time and umask, and a build from the archive, give the same bytes."""
    again = make_dist(unpacked, umask=0o077)
    for name in (WHEEL, ARCHIVE):
        first, second = (
            hashlib.sha256((directory / name).read_bytes()).hexdigest()
            for directory in (dist, again)
        )
        assert first == second, name


def test_pipx_installs_the_wheel(
    dist: Path, tmp_path: Path, make_site: Callable[..., Site]
) -> None:
    """The command that pipx puts on PATH makes a sync."""
    environment = {
        **source.offline(),
        "PIPX_HOME": str(tmp_path / "home"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
    }

    def succeed(*command: str | Path) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done

    run(PYTHON, "-m", "venv", str(tmp_path / "venv"))
    succeed(tmp_path / "venv/bin/pip", "install", "--quiet", "pipx")
    succeed(tmp_path / "venv/bin/pipx", "install", "--python", PYTHON, dist / WHEEL)
    site = make_site(command=(str(tmp_path / "bin/postfix-sync"),))
    assert site.run("--version").stdout == f"postfix-sync {__version__}\n"
    site.files.write(ANTS)
    site.once()
    assert set(site.installed("postfix_recipients")) == set(nine(ANTS))


def test_tests_in_the_source_archive_test_its_own_modules(unpacked: Path) -> None:
    """A module of the archive is changed, and a test of it fails."""
    environment = without_xdist(os.environ)

    def tests(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=unpacked,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    version = "tests/integration/test_command_line.py::test_version_is_printed"
    done = tests("tests/unit", version)
    assert done.returncode == 0, done.stdout
    package = unpacked / "postfix_sync/__init__.py"
    package.write_text(package.read_text().replace(__version__, "9.9"))
    cli = unpacked / "postfix_sync/cli/command_line.py"
    cli.write_text(cli.read_text().replace("{__version__}", "7.7"))
    done = tests(version)
    assert done.returncode == 1
    assert "postfix-sync 7.7" in done.stdout
    assert "postfix-sync 9.9" in done.stdout


def without_xdist(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a pytest that is not a worker of this one."""
    return {name: value for name, value in environment.items() if "PYTEST" not in name}
