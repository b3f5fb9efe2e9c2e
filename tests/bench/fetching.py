"""Fetch Mailman's files over SSH, beside OpenSSH's `sftp`, in turn from one sshd on this host."""

import asyncio
import os
import statistics
import subprocess
import time
from pathlib import Path, PurePosixPath

from postfix_sync.sources.mailman_files import QUIET
from postfix_sync.sources.sftp import Ssh
from postfix_sync.sources.ssh_login import Login
from tests.bench.measure import Row, Say
from tests.bench.plan import Plan
from tests.parts.mailman_files import MailmanFiles
from tests.parts.source_content import fetch
from tests.parts.sshd import Sshd, make_key, rooted_directory


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return one row: the seconds of both, logins included."""
    with rooted_directory() as directory, Sshd(directory / "sshd") as sshd:
        files = MailmanFiles(directory / "data")
        files.write("ants@lists.example.net")
        files.put("postfix_lmtp", os.urandom(plan.fetch_bytes))
        key = make_key(directory / "id_ed25519")
        sshd.authorize(key)
        known_hosts = sshd.write_known_hosts(directory / "known_hosts")
        login = Login(sshd.host, sshd.port, "root", key, known_hosts, 10.0)
        times = []
        for number in range(plan.fetch_rounds):
            say(f"fetching: round {number + 1}")
            times.append((by_sftp(login, files), by_postfix_sync(login, files, plan)))
    theirs, ours = (statistics.median(column) for column in zip(*times, strict=True))
    return [
        {
            "bytes": plan.fetch_bytes,
            "rounds": plan.fetch_rounds,
            "sftp_seconds": theirs,
            "seconds": ours,
            "ratio": ours / theirs,
        }
    ]


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


def by_postfix_sync(login: Login, files: MailmanFiles, plan: Plan) -> float:
    """Return the seconds that the SSH source takes, without its wait for files to settle."""

    async def session() -> None:
        source = Ssh(login, PurePosixPath(files.directory), 2 * plan.fetch_bytes)
        assert await fetch(source)
        await source.close()

    began = time.monotonic()
    asyncio.run(session())
    return time.monotonic() - began - QUIET
