"""Fixtures of the SSH source's tests: Mailman hosts with an sshd, and a slow link."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from postfix_sync.sources import ssh_session
from tests.conftest import need
from tests.parts.slow_link import Link
from tests.parts.ssh_source import Far, rewrite_names
from tests.parts.sshd import Jail, available, rooted_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that sshd trusts, and users other than root can reach."""
    need(available(), "root and OpenSSH's sshd")
    with rooted_directory() as made:
        yield made


@pytest.fixture
def far(directory: Path) -> Iterator[Far]:
    """A Mailman host as it should be."""
    made = Far(directory)
    with made.sshd:
        yield made


@pytest.fixture
def counted(directory: Path) -> Iterator[Far]:
    """One whose SFTP server writes down the requests it gets."""
    made = Far(directory, count_requests=True)
    with made.sshd:
        yield made


@pytest.fixture
def jailed(directory: Path) -> Iterator[Far]:
    """Mailman's directory as docs/ssh.md has it: a chroot, read-only, for a user without rights."""
    (directory / "data").mkdir()
    made = Far(directory, jail=Jail("list", directory / "data"))
    with made.sshd:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts of half a second where they are half a minute."""
    monkeypatch.setattr(ssh_session, "READ_TIMEOUT", 0.5)


@pytest.fixture
def slow_link(far: Far) -> Iterator[Link]:
    """A host at the other end of a link of 20 MB/s, with 200 ms from question to answer."""
    with Link(far.sshd.port, delay=0.1, rate=20_000_000) as link:
        rewrite_names(far, f"[127.0.0.1]:{link.port}")
        yield link
