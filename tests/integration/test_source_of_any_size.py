"""A source's file of guard.max_size is refused with its line, in memory that does not grow with it.

Through a volume and over SFTP: neither has the file in memory.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from postfix_sync.mailman.entries import MAX_LISTS
from postfix_sync.model.map_names import RECIPIENTS, ROUTES
from tests.conftest import need
from tests.integration.test_limits import MEASURE
from tests.parts import sshd
from tests.parts.mailman_files import HEADER, nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import COMMAND, Site
from tests.parts.sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.attack, pytest.mark.usefixtures("root")]

ANTS = "ants@lists.example.net"

SIZE = 512 * 2**20
"""The default of guard.max_size."""

MOST_MEMORY = 250 * 2**20


@pytest.fixture
def site(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Site:
    """One list that is installed; main.cf names the maps."""
    made = make_site()
    idle_postfix.postconf(**mailman_parameters(made.maps, "lmdb"))
    made.files.write(ANTS)
    assert made.once() == ""
    return made


@pytest.fixture(params=["volume", "sftp"])
def far(request: pytest.FixtureRequest, site: Site) -> Iterator[None]:
    """Have the site read its source as a volume, or over SFTP."""
    if request.param == "volume":
        yield
        return
    need(sshd.available(), "OpenSSH's sshd")
    with Sshd(site.directory / "sshd") as server:
        login = server.login_with_new_key(site.directory)
        site.configure(sources=[{"name": "data", "path": str(site.files.directory), "ssh": login}])
        yield


def lists() -> Iterator[str]:
    """Yield the lines of as many lists as are permitted, with names that fill the file."""
    length = SIZE // MAX_LISTS // 9 - len("012345-unsubscribe@b.c lmtp:[m]:1\n")
    for number in range(MAX_LISTS):
        yield "".join(f"{key} lmtp:[m]:1\n" for key in nine(f"{number:06}{'x' * length}@b.c"))


def write(path: Path, kind: str) -> int:
    """Write a bad file; return the number of the line that is wrong."""
    with path.open("w") as file:
        match kind:
            case "comments":
                for _ in range(SIZE // 2**20):
                    file.write("#\n" * 2**19)
                return 1001
            case "lists and a bad line":
                file.writelines(lists())
                file.write("bad\n")
                return MAX_LISTS * 9 + 1
            case "one line":
                file.truncate(SIZE)
                return 1
            case _:
                file.write(HEADER)
                file.truncate(SIZE - 1)
                file.seek(SIZE - 1)
                file.write("\n")
                return HEADER.count("\n") + 1


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(
    "kind", ["comments", "one line", "one line with an end", "lists and a bad line"]
)
def test_file_of_the_greatest_size_is_refused_with_its_line(site: Site, kind: str) -> None:
    path = site.files.directory / ROUTES
    line = write(path, kind)
    assert path.stat().st_size <= SIZE
    try:
        done = measured(site)
    finally:
        path.unlink()
    assert done.returncode == 65, done.stderr
    assert f"{path}:{line}: " in done.stderr
    assert int(done.stdout.split()[0]) * 1024 < MOST_MEMORY
    assert site.installed(RECIPIENTS).keys() == {*nine(ANTS)}


def measured(site: Site) -> subprocess.CompletedProcess[str]:
    """Run `--once`; its output has the KiB of memory that it has taken."""
    command = (sys.executable, "-c", MEASURE, *COMMAND)
    return replace(site, command=command).run("--once", timeout=300)
