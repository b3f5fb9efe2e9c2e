"""A FIFO, a socket or a huge file in place of a regular file never blocks the program.

A sync and doctor end, report the file in one line, and work again once it is removed.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts.daemon import install
from tests.parts.doctor import examine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

ANTS = "ants@lists.example.net"

MakeSite = Callable[..., Site]

pytestmark = [pytest.mark.attack, pytest.mark.usefixtures("root"), pytest.mark.slow]

WHATS = {
    "fifo": "is a FIFO, not a regular file",
    "socket": "is a socket or a device, not a regular file",
    "directory": "is a directory, not a regular file",
    "huge": "has 1099511627776 bytes, more than the limit of 1073741824",
}
FIFO = WHATS["fifo"]


def put(path: Path, what: str = "fifo") -> None:
    """Put another kind of file in the place of a file."""
    path.unlink(missing_ok=True)
    match what:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        case "directory":
            path.mkdir()
        case _:
            path.touch()
            os.truncate(path, 2**40)


@pytest.fixture
def site(make_site: MakeSite, idle_postfix: PostfixInstance, tmp_path: Path) -> Site:
    """A site with one list, installed; main.cf names the maps."""
    made = make_site()
    idle_postfix.postconf(**mailman_parameters(made.maps, "lmdb"))
    install(made, ANTS, template=tmp_path)
    made.once()
    return made


@pytest.mark.parametrize("what", WHATS)
def test_text_of_a_map_that_is_not_a_regular_file_is_put_aside(site: Site, what: str) -> None:
    """A sync and doctor each report it in one line; doctor's command puts it aside."""
    text = site.maps / "postfix_lmtp"
    put(text, what)
    message, hint = site.once(expect=1).splitlines()
    assert f"{text}: {WHATS[what]}; what is installed is left as it is" in message
    assert f"put it aside: mv -T {text} {text}.aside" in hint
    report = examine(site)
    assert f"{text}: {WHATS[what]}" in report["maps"]["seen"]
    report = report.fix("maps")
    assert report.status("map:postfix_lmtp") == "failure"
    assert report.fix("map:postfix_lmtp").status("map:postfix_lmtp") == "ok"


@pytest.mark.parametrize("what", ["fifo", "socket"])
def test_index_that_is_not_a_regular_file_is_rebuilt(site: Site, what: str) -> None:
    """Doctor reports the file; a sync builds the index again."""
    index = site.maps / "postfix_lmtp.lmdb"
    put(index, what)
    report = examine(site)
    assert report["map:postfix_lmtp"]["seen"] == f"{index}: {WHATS[what]}"
    assert report.fix("map:postfix_lmtp").status("map:postfix_lmtp") == "ok"
    assert index.is_file()


def test_state_files_that_are_not_regular_are_reported_and_written_again(site: Site) -> None:
    """Doctor reports each file; a sync works without it, and writes it again."""
    status, record = site.state / "status.json", site.state / "sources/lists.json"
    kept, note = site.state / "generations/1.json.gz", site.state / "installed.json"
    for path in (status, record, kept, note, site.state / "lock"):
        put(path)
    done = site.run("status")
    assert done.returncode == 75
    assert f"{status}: is not a status file: {FIFO}" in done.stderr
    assert f"{kept}: is damaged, so generation 1 can't be installed: {FIFO}" in (
        site.run("rollback", "1").stderr
    )
    report = examine(site)
    assert FIFO in report["passes"]["seen"]
    assert FIFO in report["generation:1"]["seen"]
    report.run_fix("generation:1")
    warnings = site.once().splitlines()
    assert all(FIFO in warning for warning in warnings)
    named = [warning.removeprefix("postfix-sync: warning: ").split(": ")[0] for warning in warnings]
    assert named == [str(note), str(record), str(status)]
    assert site.once() == ""
    assert examine(site).troubles.keys().isdisjoint({"passes", "generation:1"})


def test_hold_that_is_a_fifo_holds_until_doctor_fixes_it(site: Site) -> None:
    """A hold that cannot be read still holds, until it is released."""
    put(site.state / "held.json")
    assert f"{site.state}/held.json: can't be read" in site.once(expect=1)
    assert examine(site).fix("held").status("held") == "ok"
    assert site.once() == ""


def test_hosts_file_that_is_a_fifo_is_reported(site: Site) -> None:
    put(site.hosts)
    site.configure(sources=[{"path": str(site.files.directory), "address": "127.0.0.1"}])
    assert f"{site.hosts}: {FIFO}" in site.once(expect=1).splitlines()[0]
    assert f"{site.hosts}: {FIFO}" in examine(site)["hosts"]["seen"]


@pytest.mark.parametrize("what", WHATS)
def test_configuration_that_is_not_a_regular_file_is_reported(site: Site, what: str) -> None:
    put(site.config, what)
    for arguments in (["--once"], []):
        done = site.run(*arguments)
        assert done.returncode == 78
        assert f"{site.config}: {WHATS[what]}" in done.stderr.splitlines()[0]


def test_postfix_configuration_that_is_a_fifo_is_reported(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    """postconf(1) would block; like Postfix, a sync ignores a FIFO that a parameter names."""
    listed = site.directory / "listed"
    put(listed)
    idle_postfix.postconf(mydestination=f"{listed}, localhost")
    assert site.once() == ""
    for name in ("master.cf", "main.cf"):
        path = site.config_directory / name
        put(path)
        assert f"{path}: {FIFO}" in site.once(expect=78).splitlines()[0]
        assert examine(site)["postfix"]["seen"] == f"{path}: {FIFO}"
        path.unlink()
