"""A FIFO, a socket or a huge file in the place of one that is read: nothing waits for it.

A pass and doctor come to their ends, say in one line what is there, and all is well again after it.
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
    """Puts something else into the place of a file."""
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
    """One list, installed and wired."""
    made = make_site()
    idle_postfix.postconf(**mailman_parameters(made.maps, "lmdb"))
    install(made, ANTS, template=tmp_path)
    made.once()
    return made


@pytest.mark.parametrize("what", WHATS)
def test_a_text(site: Site, what: str) -> None:
    """It is named in one line by a pass and by doctor, whose command puts it aside."""
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
def test_an_index(site: Site, what: str) -> None:
    """A pass builds it anew; doctor says what is there."""
    index = site.maps / "postfix_lmtp.lmdb"
    put(index, what)
    report = examine(site)
    assert report["map:postfix_lmtp"]["seen"] == f"{index}: {WHATS[what]}"
    assert report.fix("map:postfix_lmtp").status("map:postfix_lmtp") == "ok"
    assert index.is_file()


def test_what_is_remembered(site: Site) -> None:
    """Doctor names each; a pass does without, and makes it anew."""
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
    assert all(FIFO in one for one in warnings)
    named = [one.removeprefix("postfix-sync: warning: ").split(": ")[0] for one in warnings]
    assert named == [str(note), str(record), str(status)]
    assert site.once() == ""
    assert examine(site).troubles.keys().isdisjoint({"passes", "generation:1"})


def test_an_order(site: Site) -> None:
    """One that can't be read is one, until it is taken away."""
    put(site.state / "held.json")
    assert f"{site.state}/held.json: can't be read" in site.once(expect=1)
    assert examine(site).fix("held").status("held") == "ok"
    assert site.once() == ""


def test_the_hosts_file(site: Site) -> None:
    put(site.hosts)
    site.configure(sources=[{"path": str(site.files.directory), "address": "127.0.0.1"}])
    assert f"{site.hosts}: {FIFO}" in site.once(expect=1).splitlines()[0]
    assert f"{site.hosts}: {FIFO}" in examine(site)["hosts"]["seen"]


@pytest.mark.parametrize("what", WHATS)
def test_the_configuration(site: Site, what: str) -> None:
    put(site.config, what)
    for arguments in (["--once"], []):
        done = site.run(*arguments)
        assert done.returncode == 78
        assert f"{site.config}: {WHATS[what]}" in done.stderr.splitlines()[0]


def test_what_postfix_is_told(site: Site, idle_postfix: PostfixInstance) -> None:
    """postconf(1) would wait; what a list names counts as nothing, as for Postfix."""
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
