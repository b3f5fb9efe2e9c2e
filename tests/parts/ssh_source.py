"""The SSH source, and a Mailman host with an sshd; `run` checks for leftovers of a fetch."""

import asyncio
import dataclasses
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pytest

from postfix_sync.errors import SyncError
from postfix_sync.sources.sftp import Ssh
from postfix_sync.sources.ssh_login import Login

from .mailman_files import MailmanFiles
from .source_content import Contents, fetch
from .sshd import Sshd, make_key

T = TypeVar("T")
ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
BIG = 2**26
"""Bytes whose transfer takes long enough for a test to act meanwhile."""
STAY = "the last good lists stay in use"


class Far:
    """Mailman's host: its files, its sshd, and the keys to log in there."""

    def __init__(self, directory: Path, **options: Any) -> None:
        """Prepare; the options are Sshd's."""
        self.directory = directory
        self.files = MailmanFiles(directory / "data")
        self.files.write(ANTS)
        self.sshd = Sshd(directory / "sshd", **options)
        self.key = make_key(directory / "id_ed25519")
        self.sshd.authorize(self.key, "restrict")
        self.known_hosts = self.sshd.write_known_hosts(directory / "known_hosts")

    def login(self, **changed: Any) -> Login:
        """Return a login that works, except for what is changed."""
        plain = Login("127.0.0.1", self.sshd.port, "root", self.key, self.known_hosts, 10.0)
        return dataclasses.replace(plain, **changed)

    def source(self, *, max_size: int = 2**30, path: Path | None = None, **changed: Any) -> Ssh:
        """Return the source, whose login works, except for what is changed."""
        path = path or self.files.directory
        return Ssh(self.login(**changed), PurePosixPath(path), max_size)

    def place(self, name: str = "postfix_lmtp") -> str:
        """Return a file's name in messages."""
        return f"127.0.0.1:{self.files.directory / name}"

    def grow(self, size: int = BIG) -> Path:
        """Make postfix_lmtp a large file of zeros."""
        path = self.files.directory / "postfix_lmtp"
        with path.open("r+b") as file:
            file.truncate(size)
        return path


def run(session: Coroutine[Any, Any, T]) -> T:
    """Call asyncio.run; no task, open file or warning may be left afterwards."""
    complaints: list[str] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        try:
            return await session
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            complaints.extend(map(str, left))

    before = open_files()
    try:
        return asyncio.run(watched())
    finally:
        assert not complaints
        assert open_files() == before


def open_files() -> int:
    """Return the number of open sockets and temporary files of this process."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            seen = descriptor.stat()
            found += stat.S_ISSOCK(seen.st_mode) or (
                stat.S_ISREG(seen.st_mode) and not seen.st_nlink
            )
        except OSError:  # it has been closed
            continue
    return found


@asynccontextmanager
async def closing(source: Ssh) -> AsyncIterator[Ssh]:
    """Close the source after the block, within a time limit."""
    try:
        yield source
    finally:
        began = time.monotonic()
        await source.close()
        assert time.monotonic() - began < 5


def fetched(source: Ssh) -> Contents | None:
    """Fetch once and close the source; return the snapshot."""

    async def session() -> Contents | None:
        async with closing(source):
            return await fetch(source)

    return run(session())


def failed(source: Ssh) -> SyncError:
    """Fetch once and close the source; return the error."""
    with pytest.raises(SyncError) as caught:
        fetched(source)
    error = caught.value
    assert error.message.isprintable()
    assert error.hint
    assert STAY in error.message or "keeps the last good maps" in error.message
    return error


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition while the event loop runs."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def refusal(source: Ssh) -> SyncError:
    """Fetch within a session; return the error."""
    try:
        found = await fetch(source)
    except SyncError as error:
        return error
    raise AssertionError(f"fetched {found}")


def rewrite_names(far: Far, pattern: str) -> None:
    """Replace the names of the keys in known_hosts."""
    keys = [line.split(None, 1)[1] for line in far.known_hosts.read_text().splitlines()]
    far.known_hosts.write_text("".join(f"{pattern} {key}\n" for key in keys))


def run_fix(command: str) -> None:
    """Run the command of a hint."""
    subprocess.run(["sh", "-ec", command], check=True, capture_output=True)


def by_hand(error: SyncError, expect: int) -> str:
    """Run the command of a hint, which must exit with `expect`; return its output."""
    introduction, _, command = error.hint.partition(": ")
    assert introduction == "see where it fails, as root"
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    assert done.returncode == expect, done
    return done.stderr
