"""Files of the Mailman host that are refused, missing, or not permitted to be read."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from postfix_sync.errors import Exit, Missing, NotPermitted, OutOfReach, Refused
from tests.parts.mailman_files import MailmanFiles
from tests.parts.source_content import fetch
from tests.parts.ssh_source import ANTS, STAY, Far, closing, failed, fetched, refusal, run, until

pytestmark = pytest.mark.slow


def test_directory_that_is_created_later_is_fetched_over_the_same_connection(far: Far) -> None:
    away = far.files.directory.with_name("away")
    far.files.directory.rename(away)

    async def session() -> None:
        async with closing(far.source()) as source:
            error = await refusal(source)
            assert isinstance(error, Missing)
            assert error.message == f"{far.place()}: No such file or directory; {STAY}"
            assert "is " + str(far.files.directory) in error.hint
            assert "ChrootDirectory" in error.hint
            far.files.directory.mkdir()
            error = await refusal(source)
            assert isinstance(error, Missing)
            assert "mailman aliases" in error.hint
            assert error.status == Exit.OUT_OF_REACH
            far.files.write(ANTS)
            assert await fetch(source)
            assert len(far.sshd.sessions()) <= 3, "only one connection"

    run(session())


@pytest.mark.parametrize("name", ["postfix_lmtp", "postfix_domains"])
def test_missing_file_is_named(far: Far, name: str) -> None:
    (far.files.directory / name).unlink()
    error = failed(far.source())
    assert type(error) is Missing
    assert error.message == f"{far.place(name)}: No such file or directory; {STAY}"
    assert "Mailman writes it when a list is created" in error.hint


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a symbolic link", lambda path: path.symlink_to("/etc/passwd")),
        ("a directory", Path.mkdir),
        ("a FIFO", os.mkfifo),
        ("a device", lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))),
        ("a socket", lambda path: os.mknod(path, 0o666 | stat.S_IFSOCK)),
    ],
)
@pytest.mark.parametrize("name", ["postfix_lmtp", "postfix_vmap"])
def test_only_regular_files_are_opened(
    counted: Far, kind: str, make: Callable[[Path], object], name: str
) -> None:
    path = counted.files.directory / name
    path.unlink(missing_ok=True)
    make(path)
    error = failed(counted.source())
    assert type(error) is Refused
    assert error.message.startswith(f"{counted.place(name)}: is {kind}, not a regular file")
    assert counted.sshd.requests("open") == 0


def test_file_that_is_too_large_is_not_opened(counted: Far) -> None:
    size = (counted.files.directory / "postfix_lmtp").stat().st_size
    error = failed(counted.source(max_size=size - 1))
    assert type(error) is Refused
    assert error.message.startswith(
        f"{counted.place()}: has {size} bytes, more than guard.max_size ({size - 1}) allows"
    )
    assert counted.sshd.requests("open") == 0
    assert fetched(counted.source(max_size=size))


def test_user_in_a_chroot_can_fetch(jailed: Far) -> None:
    snapshot = fetched(jailed.source(user="list", path=Path("/")))
    assert snapshot
    assert snapshot.lmtp.content == (jailed.files.directory / "postfix_lmtp").read_bytes()
    assert snapshot.lmtp.place == "127.0.0.1:/postfix_lmtp"


def test_chroot_that_sshd_refuses_is_explained_in_the_hint(jailed: Far) -> None:
    """sshd accepts the login and then disconnects; only its log has the reason."""
    jailed.files.directory.chmod(0o775)
    error = failed(jailed.source(user="list", path=Path("/")))
    assert type(error) is OutOfReach
    assert "connection lost while starting SFTP" in error.message
    assert "ChrootDirectory" in error.hint
    assert "bad ownership or modes for chroot" in jailed.sshd.log_text()


def test_user_without_read_permission_gets_the_command_that_grants_it(jailed: Far) -> None:
    path = jailed.files.directory / "postfix_lmtp"
    os.chown(path, 999, 65533)
    path.chmod(0o660)
    error = failed(jailed.source(user="list", path=Path("/")))
    assert type(error) is NotPermitted
    assert error.message == (
        '127.0.0.1:/postfix_lmtp: user "list" is not permitted to read it'
        f" (owner 999:65533, mode 0660); {STAY}"
    )
    assert error.hint == (
        "on 127.0.0.1, as root: usermod -aG 65533 list (if that group has no name there, first:"
        " groupadd -g 65533 mailman-maps)"
    )
    path.chmod(0o600)
    hint = failed(jailed.source(user="list", path=Path("/"))).hint
    assert hint == "on 127.0.0.1, as root: chmod o+rX /postfix_lmtp"


def test_directory_without_search_permission_is_named(jailed: Far) -> None:
    inner = MailmanFiles(jailed.files.directory / "inner")
    inner.write(ANTS)
    inner.directory.chmod(0o750)
    error = failed(jailed.source(user="list", path=Path("/inner")))
    assert type(error) is NotPermitted
    assert error.message == (
        '127.0.0.1:/inner/postfix_lmtp: user "list" is not permitted to read it'
        f" (/inner has owner 0:0, mode 0750); {STAY}"
    )
    assert "usermod -aG 0 list" in error.hint


def test_fetch_after_a_denial_logs_in_again(jailed: Far) -> None:
    """A session has the groups of its login; usermod does not change an open session."""
    path = jailed.files.directory / "postfix_lmtp"
    path.chmod(0o660)

    async def session() -> None:
        async with closing(jailed.source(user="list", path=Path("/"))) as source:
            assert isinstance(await refusal(source), NotPermitted)
            await until(lambda: not jailed.sshd.sessions(), "the end of the session")
            path.chmod(0o664)
            assert await fetch(source)

    run(session())


def test_file_without_any_read_bit_is_refused_even_to_root(far: Far) -> None:
    (far.files.directory / "postfix_lmtp").chmod(0)
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert "owner 0:0, mode 0000" in error.message
