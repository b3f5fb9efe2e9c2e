"""Memory and time: a small machine is enough, also for a hostile source."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from postfix_sync.mailman.entries import MAX_LISTS
from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES
from postfix_sync.store.state_directory import ONCE_LOCK_NAME
from tests.conftest import need
from tests.parts import sshd
from tests.parts.common import PATIENCE, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.mailman_files import HEADER, nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import COMMAND, Site
from tests.parts.sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
HOP = "lmtp:[127.0.0.1]:8024"

SMALL = 400 * 2**20
"""Bytes of address space: those of `ulimit -v 409600`."""

HOSTILE = 48 * 2**20
"""Bytes of a hostile file."""

MOST_MEMORY = 300 * 2**20
MOST_WORK = 20.0
"""Seconds of processor time; about three on an idle machine."""

STOP_TIMEOUT = 4.0
"""Seconds within which a service must end (TimeoutStopSec= in systemd/postfix-sync.service)."""

MANY = MAX_LISTS * 9 - 1

MEASURE = """\
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(status)
"""
"""Runs a command, and prints its KiB of memory and its seconds of processor time. The memory of a
process includes that of its parent at the fork, so the parent has to be small."""


@pytest.fixture
def site(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Site:
    """One list; main.cf names the maps."""
    made = make_site()
    idle_postfix.postconf(**mailman_parameters(made.maps, "lmdb"))
    made.files.write(ANTS)
    return made


def small() -> None:
    """Limit the address space of the command, as its preexec_fn."""
    resource.setrlimit(resource.RLIMIT_AS, (SMALL, SMALL))


def run_small(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with little address space."""
    with site.start(*arguments, preexec_fn=small) as process:
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_every_command_works_in_400_mib_of_address_space(site: Site) -> None:
    site.files.write(*(f"list{number}@lists.example.net" for number in range(500)))
    site.configure(probe={"level": "connect", "timeout": "1s"})
    down = "destination 127.0.0.1:1: down: connect: Connection refused"
    site.files.write(ANTS, hop="lmtp:[127.0.0.1]:1")
    for arguments, expected in (
        (("--once",), 69),
        (("--once", "--dry-run"), 0),
        (("probe", "127.0.0.1:1"), 69),
        (("status", "--json"), 0),
        (("doctor", "--json"), 78),
        (("setup", "--dry-run"), 0),
    ):
        done = run_small(site, *arguments)
        assert done.returncode == expected, done
        assert "memory" not in done.stderr, done
        assert down in done.stderr or arguments != ("--once",)
    with RunningDaemon(site, preexec_fn=small) as daemon:
        daemon.wait_until_it_watches()
        site.files.write(ANTS, BEES)
        daemon.wait_for(f"+1 list: {BEES}")
        assert daemon.count("memory") == 0
        assert daemon.stop() == 0


def test_source_over_sftp_is_read_in_400_mib_of_address_space(site: Site) -> None:
    need(sshd.available(), "OpenSSH's sshd")
    with Sshd(site.directory / "sshd") as server:
        login = server.login_with_new_key(site.directory)
        source = {"name": "far", "path": str(site.files.directory), "ssh": login}
        site.configure(sources=[source])
        done = run_small(site, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert site.installed(RECIPIENTS).keys() == {*nine(ANTS)}


# --- memory runs out


@pytest.fixture
def too_much(site: Site) -> Site:
    """A site with a list installed; its source then has more lists than fit into SMALL."""
    assert site.once() == ""
    site.files.put(ROUTES, "".join(_entries(1_000_000)))
    return site


def _entries(count: int) -> Iterator[str]:
    return (f"{number:0100}@lists.example.net {HOP}\n" for number in range(count))


def test_source_that_exceeds_memory_changes_nothing(too_much: Site) -> None:
    """The first allocation to fail is random; a library may even abort the process."""
    done = run_small(too_much, "--once")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert too_much.installed(RECIPIENTS).keys() == {*nine(ANTS)}


def test_sync_without_memory_reports_it(site: Site) -> None:
    assert site.once() == ""
    os.truncate(site.maps / ROUTES, SMALL)
    done = run_small(site, "--once")
    assert done.returncode == 1
    assert done.stderr.startswith("postfix-sync: error: the sync: out of memory; Postfix keeps")


def test_command_without_memory_ends_with_one_line(site: Site) -> None:
    assert site.once() == ""
    os.truncate(site.state / "status.json", SMALL)
    done = run_small(site, "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == (
        "postfix-sync: error: postfix-sync: out of memory; Postfix keeps using the installed maps"
    )


def test_daemon_without_memory_starts_again(site: Site) -> None:
    with RunningDaemon(site, preexec_fn=small) as daemon:
        daemon.wait_until_it_watches()
        os.truncate(site.state / "status.json", SMALL)
        site.files.write(ANTS, BEES)
        daemon.wait_for("error: postfix-sync: out of memory; Postfix keeps", times=2)
        (site.state / "status.json").unlink()
        daemon.wait_for(f"+1 list: {BEES}")


# --- hostile files


def repeated(line: str) -> bytes:
    """Repeat a line up to the size of a hostile file."""
    raw = line.encode()
    return raw * (HOSTILE // len(raw))


def distinct(line: str) -> bytes:
    """Return lines that differ in a number, then an invalid line."""
    size = len(line.format(0).encode()) + 5
    lines = (line.format(f"{number:06x}") for number in range(HOSTILE // size))
    return "".join(lines).encode() + b"x\n"


TOO_MANY = MAX_LISTS * 9 + 1
KINDS: dict[str, tuple[str, Callable[[], bytes], int, str]] = {
    "comments": (ROUTES, partial(repeated, "#a\n"), 1001, "too many comments and blank lines"),
    "blank lines": (ROUTES, partial(repeated, "\n"), 1001, "too many comments and blank lines"),
    "one line": (ROUTES, lambda: b"a" * HOSTILE, 1, "the last line has no newline"),
    "one line with an end": (ROUTES, lambda: b"a" * HOSTILE + b"\n", 1, "2048 at most"),
    "distinct keys": (
        ROUTES,
        partial(distinct, "{}@b.c lmtp:[m]:1\n"),
        TOO_MANY,
        f"more than {TOO_MANY - 1} entries",
    ),
    "distinct keys as long as most": (
        ROUTES,
        partial(distinct, "ants-are-welcome-here-{}@lists.example.net lmtp:[mailman-test]:8024\n"),
        0,
        "is not a key",
    ),
    "duplicate keys": (ROUTES, partial(repeated, "a@b.c lmtp:[m]:1\n"), TOO_MANY, "entries"),
    "comments between": (
        ROUTES,
        partial(repeated, "a@b.c lmtp:[m]:1\n#\n"),
        2 * TOO_MANY - 1,
        "entries",
    ),
    "domains": (DOMAINS, partial(distinct, "{}.b.c b.c\n"), MAX_LISTS + 1, "entries"),
    "aliases": (ALIASES, partial(distinct, "{0}@b.c {0}@c.c\n"), TOO_MANY, "entries"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_file_is_refused_in_seconds_and_300_mb(site: Site, kind: str) -> None:
    assert site.once() == ""
    file, content, line, reason = KINDS[kind]
    site.files.put(file, content())
    done = replace(site, command=(sys.executable, "-c", MEASURE, *COMMAND)).run(
        "--once", timeout=300
    )
    message, _hint = done.stderr.splitlines()
    assert done.returncode == 65, message
    assert f"{site.files.directory / file}:{line or ''}" in message
    assert reason in message
    kibibytes, seconds = done.stdout.split()
    assert int(kibibytes) * 1024 < MOST_MEMORY
    assert float(seconds) < MOST_WORK
    assert site.installed(RECIPIENTS).keys() == {*nine(ANTS)}


@pytest.fixture
def slow_to_parse(site: Site) -> Site:
    """As many valid lines as are permitted, which are read one by one, in some ten seconds."""
    site.files.put(ROUTES, HEADER + f"\u00e4@b.c {HOP}\n" * MANY)
    site.files.put(ALIASES, HEADER + "\u00e4@c.c \u00e4@b.c\n" * MANY)
    site.configure()
    return site


def seconds_of_work(pid: int) -> float:
    """Return the processor time that a process has used."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("arguments", "expected"), [((), 0), (("--once",), 75)])
def test_signal_ends_the_process_while_it_parses(
    slow_to_parse: Site, arguments: tuple[str, ...], expected: int, number: int
) -> None:
    process = slow_to_parse.start(*arguments)
    wait_for(lambda: seconds_of_work(process.pid) > 2, 60, "parsing")
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < STOP_TIMEOUT
    assert process.returncode == expected
    assert "Traceback" not in said


# --- several --once


def test_once_reads_the_source_only_after_another_once_has_ended(site: Site) -> None:
    """The source is bad at first, and replaced by a good one while the second `--once` waits."""
    assert site.once() == ""
    site.files.put(ROUTES, "hostile\n")
    with (site.state / ONCE_LOCK_NAME).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        inode = os.fstat(held.fileno()).st_ino
        waiting = site.start("--once")
        wait_for(lambda: _has_open(waiting.pid, inode), PATIENCE, "a sync that waits")
        site.files.write(ANTS, BEES)
        assert site.call("--once", "--dry-run").returncode == 0  # a dry run does not wait
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60) == ("", "")
    assert waiting.returncode == 0
    assert site.installed(RECIPIENTS).keys() == {*nine(ANTS), *nine(BEES)}


def test_daemon_continues_while_a_once_hangs(site: Site) -> None:
    assert site.once() == ""
    with RunningDaemon(site) as daemon, (site.state / ONCE_LOCK_NAME).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        site.files.write(ANTS, BEES)
        daemon.wait_for(f"+1 list: {BEES}")


def _has_open(pid: int, inode: int) -> bool:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:
            continue
    return inode in found
