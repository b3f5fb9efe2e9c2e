"""Compare the speed with that of the alternatives: `make bench` prints ratios, each of one run.

Fetching: 68 MB, the routes of 100,000 lists, read by `sftp` and by postfix-sync in turn from the
same sshd on this host.

Recovery: Mailman is down for two minutes on two hosts at the same time, and only one of them
flushes the deferred mail. It takes a quarter of an hour, because the other one waits for Postfix's
retries.
"""

# ruff: noqa: T201 - a benchmark prints

import asyncio
import os
import statistics
import subprocess
import time
from pathlib import Path, PurePosixPath

from postfix_sync.sources.mailman_files import QUIET
from postfix_sync.sources.sftp import Ssh
from postfix_sync.sources.ssh_login import Login
from tests.parts.common import public_directory
from tests.parts.mailman_files import MailmanFiles
from tests.parts.sshd import Sshd, make_key, rooted_directory
from tests.scenarios.recovery import PER_SECOND, side_by_side

SIZE = 68_000_000
RUNS = 5


DOWN = 120.0
"""Seconds."""

PATIENCE = 1800.0


def main() -> None:
    """Print all figures."""
    fetching()
    recovery()


def recovery() -> None:
    """Print how long mail stays deferred after Mailman is up, with and without a flush."""
    with public_directory() as first, public_directory() as second:
        ours, theirs = side_by_side((first, second), down=DOWN, after=30, patience=PATIENCE)
    print(f"Mailman down for {DOWN:g} s, {PER_SECOND:g} messages a second, both at the same time:")
    print(f"  probe.flush: false  {theirs}")
    print(f"  postfix-sync        {ours}")
    print(f"  rate                {theirs.seconds / ours.seconds:.0f} times as fast")


def fetching() -> None:
    """Print the times of a fetch and of `sftp` for the same files, logins included."""
    with rooted_directory() as directory, Sshd(directory / "sshd") as sshd:
        files = MailmanFiles(directory / "data")
        files.write("ants@lists.example.net")
        files.put("postfix_lmtp", os.urandom(SIZE))
        key = make_key(directory / "id_ed25519")
        sshd.authorize(key)
        known_hosts = sshd.write_known_hosts(directory / "known_hosts")
        login = Login(sshd.host, sshd.port, "root", key, known_hosts, 10.0)
        times = [(by_sftp(login, files), by_postfix_sync(login, files)) for _ in range(RUNS)]
    theirs, ours = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"fetching {SIZE / 1e6:.0f} MB over SSH, the median of {RUNS} runs, logins included:")
    print(f"  sftp          {theirs:.2f} s  {SIZE / theirs / 1e6:.0f} MB/s")
    print(f"  postfix-sync  {ours:.2f} s  {SIZE / ours / 1e6:.0f} MB/s")
    print(f"  rate          {theirs / ours:.2f} times that of sftp")


def by_sftp(login: Login, files: MailmanFiles) -> float:
    """Return the seconds that OpenSSH's own client takes."""
    command = [
        *("sftp", "-q", "-b", "-", "-P", str(login.port), "-i", str(login.identity)),
        *("-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={login.known_hosts}"),
        f"{login.user}@{login.host}",
    ]
    commands = "".join(
        f"get {path} {Path(login.identity).parent}/copy\n"
        for path in sorted(files.directory.iterdir())
    )
    began = time.monotonic()
    subprocess.run(command, input=commands, text=True, check=True, capture_output=True)
    return time.monotonic() - began


def by_postfix_sync(login: Login, files: MailmanFiles) -> float:
    """Return the seconds that the SSH source takes, without its wait for files to settle."""

    async def fetch() -> None:
        source = Ssh(login, PurePosixPath(files.directory), 2 * SIZE)
        assert await source.fetch()
        await source.close()

    began = time.monotonic()
    asyncio.run(fetch())
    return time.monotonic() - began - QUIET


if __name__ == "__main__":
    main()
