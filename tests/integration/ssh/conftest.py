"""Fixtures for the tests of the SSH source: Mailman hosts with an sshd, and a slow link."""

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
    """A directory that sshd trusts and that users other than root can reach."""
    need(available(), "root and OpenSSH's sshd")
    with rooted_directory() as made:
        yield made


@pytest.fixture
def far(directory: Path) -> Iterator[Far]:
    """A Mailman host with an sshd; its login works."""
    made = Far(directory)
    with made.sshd:
        yield made


@pytest.fixture
def counted(directory: Path) -> Iterator[Far]:
    """A Mailman host whose SFTP server logs its requests."""
    made = Far(directory, count_requests=True)
    with made.sshd:
        yield made


@pytest.fixture
def jailed(directory: Path) -> Iterator[Far]:
    """A Mailman host as in docs/ssh.md: an unprivileged user, in a read-only chroot."""
    (directory / "data").mkdir()
    made = Far(directory, jail=Jail("list", directory / "data"))
    with made.sshd:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the read timeouts from half a minute to half a second."""
    monkeypatch.setattr(ssh_session, "READ_TIMEOUT", 0.5)


@pytest.fixture
def slow_link(far: Far) -> Iterator[Link]:
    """A link to the Mailman host with 20 MB/s and a round-trip time of 200 ms."""
    with Link(far.sshd.port, delay=0.1, rate=20_000_000) as link:
        rewrite_names(far, f"[127.0.0.1]:{link.port}")
        yield link
