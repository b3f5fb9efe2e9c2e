"""The SSH source on OpenSSH's own sshd: whole snapshots, named failures, and always an end."""

import asyncio
import dataclasses
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import asyncssh
import pytest

from postfix_sync.errors import Exit, Missing, NotPermitted, OutOfReach, Refused, SyncError
from postfix_sync.model import Peer, Snapshot
from postfix_sync.sources import sftp, ssh_session
from postfix_sync.sources.mailman_files import QUIET, SETTLE_AT_MOST
from postfix_sync.sources.sftp import Ssh
from postfix_sync.sources.ssh_login import Jump, Login
from postfix_sync.sources.ssh_session import BLOCK, Session
from tests.conftest import need
from tests.parts.common import TRIES, free_port, wait_for
from tests.parts.lmtp_rogues import rogue
from tests.parts.mailman_files import MailmanFiles, lmtp_text
from tests.parts.slow_link import Link
from tests.parts.ssh_rogues import (
    BANNERS,
    Generous,
    Honest,
    Rude,
    Stingy,
    ends,
    floods,
    mute,
    mute_at,
    sftp_rogue,
    sized,
    subsystem_rogue,
)
from tests.parts.sshd import Jail, Sshd, available, fingerprint, make_key, public, rooted_directory

pytestmark = pytest.mark.slow

T = TypeVar("T")
ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
HOP = "lmtp:[127.0.0.1]:8024"
BIG = 2**26
"""Bytes that take a while to come, so that something can happen meanwhile."""
STAY = "the last good maps stay"


class Far:
    """Mailman's host: its files, its sshd, and what this host needs to log in there."""

    def __init__(self, directory: Path, **options: Any) -> None:
        """Prepare; sshd takes the options."""
        self.directory = directory
        self.files = MailmanFiles(directory / "data")
        self.files.write(ANTS)
        self.sshd = Sshd(directory / "sshd", **options)
        self.key = make_key(directory / "id_ed25519")
        self.sshd.authorize(self.key, "restrict")
        self.known_hosts = self.sshd.write_known_hosts(directory / "known_hosts")

    def login(self, **changed: Any) -> Login:
        """A login that works, but for what is changed."""
        plain = Login("127.0.0.1", self.sshd.port, "root", self.key, self.known_hosts, 10.0)
        return dataclasses.replace(plain, **changed)

    def source(self, *, max_size: int = 2**30, path: Path | None = None, **changed: Any) -> Ssh:
        """The source, with a login that works but for what is changed."""
        path = path or self.files.directory
        return Ssh(self.login(**changed), PurePosixPath(path), max_size)

    def place(self, name: str = "postfix_lmtp") -> str:
        """A file, as messages name it."""
        return f"127.0.0.1:{self.files.directory / name}"

    def grow(self, size: int = BIG) -> Path:
        """Makes postfix_lmtp a large file, of zeros."""
        path = self.files.directory / "postfix_lmtp"
        with path.open("r+b") as file:
            file.truncate(size)
        return path


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


def run(session: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, after which nothing may be left: no task, no socket, no complaint."""
    complaints: list[str] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        try:
            return await session
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            complaints.extend(map(str, left))

    before = sockets()
    try:
        return asyncio.run(watched())
    finally:
        assert not complaints
        assert sockets() == before


def sockets() -> int:
    """How many sockets this process has open."""
    found = 0
    for one in Path("/proc/self/fd").iterdir():
        try:
            found += stat.S_ISSOCK(one.stat().st_mode)
        except OSError:  # it was closed meanwhile
            continue
    return found


@asynccontextmanager
async def closing(source: Ssh) -> AsyncIterator[Ssh]:
    """Closes the source after the block, in time."""
    try:
        yield source
    finally:
        began = time.monotonic()
        await source.close()
        assert time.monotonic() - began < 5


def fetched(source: Ssh) -> Snapshot | None:
    """One fetch, and close."""

    async def session() -> Snapshot | None:
        async with closing(source):
            return await source.fetch()

    return run(session())


def failed(source: Ssh) -> SyncError:
    """What one fetch raises."""
    with pytest.raises(SyncError) as caught:
        fetched(source)
    error = caught.value
    assert error.message.isprintable()
    assert error.hint
    assert STAY in error.message or "keeps the last good maps" in error.message
    return error


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits, with the event loop going on."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def refusal(source: Ssh) -> SyncError:
    """What a fetch raises, within a session."""
    try:
        found = await source.fetch()
    except SyncError as error:
        return error
    raise AssertionError(f"fetched {found}")


# --- whole, and only when there is news


def test_the_files_come_whole(far: Far) -> None:
    far.files.write(ANTS, aliases={"ants@alias.example.net": ANTS})
    snapshot = fetched(far.source())
    assert snapshot
    assert snapshot.vmap
    for found, name in (
        (snapshot.lmtp, "postfix_lmtp"),
        (snapshot.domains, "postfix_domains"),
        (snapshot.vmap, "postfix_vmap"),
    ):
        assert found.content == (far.files.directory / name).read_bytes()
        assert found.place == far.place(name)


def test_no_aliases_are_normal(far: Far) -> None:
    snapshot = fetched(far.source())
    assert snapshot
    assert snapshot.vmap is None


@pytest.mark.parametrize(
    "size",
    [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5_000_001],
)
def test_every_size_comes_whole(far: Far, size: int) -> None:
    content = os.urandom(size)
    far.files.put("postfix_lmtp", content)
    snapshot = fetched(far.source())
    assert snapshot
    assert snapshot.lmtp.content == content


def test_an_unchanged_set_is_only_looked_at(counted: Far) -> None:
    """It is read a second time if it was young when it was read first, and never after that."""

    async def session() -> None:
        async with closing(counted.source()) as source:
            assert await source.fetch()
            await asyncio.sleep(sftp.COARSE)  # being old is a matter of time alone
            assert await source.fetch() is None
            opened = counted.sshd.requests("open")
            assert opened == 4
            looked = counted.sshd.requests("lstat")
            for _ in range(3):
                assert await source.fetch() is None
            assert counted.sshd.requests("open") == opened
            await until(
                lambda: counted.sshd.requests("lstat") == looked + 9, "three looks at three files"
            )
            source.forget()
            assert await source.fetch()
            assert counted.sshd.requests("open") == opened + 2

    run(session())


def test_news_is_fetched(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.files.write(ANTS, BEES)
            again = await source.fetch()
            assert again
            assert BEES.encode() in again.lmtp.content
            far.files.write(ANTS, BEES, aliases={"ants@alias.example.net": ANTS})
            again = await source.fetch()
            assert again
            assert again.vmap

    run(session())


def test_a_rewrite_within_the_same_second_is_noticed(far: Far) -> None:
    """Same size, same second: nothing that SFTP tells of the file has changed."""
    name = "postfix_domains"
    path = far.files.directory / name

    async def session() -> None:
        async with closing(far.source()) as source:
            far.files.put(name, "a.example a.example\n")
            whole = int(time.time())
            os.utime(path, (whole, whole))
            assert await source.fetch()
            far.files.put(name, "b.example b.example\n")
            os.utime(path, (whole, whole))
            again = await source.fetch()
            assert again
            assert again.domains.content.startswith(b"b.")

    run(session())


def test_a_set_that_was_just_written_is_given_time_to_be_completed(far: Far) -> None:
    far.files.put("postfix_lmtp", lmtp_text([ANTS, "cats@other.example"], HOP))
    far.files.put("postfix_domains", "early")

    async def session() -> Snapshot | None:
        async with closing(far.source()) as source:
            assert await refusal_or(source)  # so that the login is no part of what follows
            far.files.put("postfix_lmtp", "changed")
            fetching = asyncio.create_task(source.fetch())
            await asyncio.sleep(QUIET * 0.7)
            far.files.put("postfix_domains", "late")
            return await fetching

    async def refusal_or(source: Ssh) -> bool:
        return await source.fetch() is not None

    snapshot = run(session())
    assert snapshot
    assert (snapshot.lmtp.content, snapshot.domains.content) == (b"changed", b"late")


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(counted: Far) -> None:
    """Both files carry a number: a snapshot with two numbers would be torn."""
    names = ("postfix_lmtp", "postfix_domains")

    def stage(number: int) -> None:
        for name in names:
            with (counted.files.directory / f"{name}.new").open("wb") as file:
                file.write(b"%d" % number)
                file.truncate(BIG)
                file.seek(-1, os.SEEK_END)
                file.write(b"%d" % number)
            os.utime(file.name, (number, number))  # or one second might see both

    def publish() -> None:
        for name in names:
            (counted.files.directory / f"{name}.new").rename(counted.files.directory / name)

    async def session() -> Snapshot | None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            assert not fetching.done()
            publish()
            return await fetching

    stage(1)
    publish()
    stage(2)
    snapshot = run(session())
    assert snapshot
    for one in (snapshot.lmtp, snapshot.domains):
        assert (len(one.content), one.content[:1], one.content[-1:]) == (BIG, b"2", b"2")


def test_a_set_that_never_rests_is_given_up_or_taken_whole(far: Far) -> None:
    """Each version is longer than the one before, or SFTP would not know one from another."""
    ended = threading.Event()

    def text(turn: int) -> str:
        return f"{turn}\n" + "#" * turn

    def rewrite() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            far.files.put("postfix_lmtp", text(turn))

    thread = threading.Thread(target=rewrite)
    thread.start()

    async def session() -> Snapshot | SyncError | None:
        async with closing(far.source()) as source:
            try:
                return await source.fetch()
            except OutOfReach as error:
                return error

    began = time.monotonic()
    try:
        found = run(session())
    finally:
        ended.set()
        thread.join()
    assert time.monotonic() - began > SETTLE_AT_MOST
    if isinstance(found, SyncError):
        assert "change faster than they can be read" in found.message
        assert found.hint == f"see what writes there: fuser -v {far.files.directory}/postfix_lmtp"
    else:
        assert found
        content = found.lmtp.content.decode()
        assert content == text(int(content.split()[0]))


def test_a_set_that_changes_during_each_read_is_read_three_times(
    counted: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "SETTLE_AT_MOST", 0.0)
    real = Session.read
    reads = 0

    async def read(self: Any, state: Any) -> Any:
        nonlocal reads
        reads += 1
        found = await real(self, state)
        counted.files.put("postfix_lmtp", "x" * reads)
        return found

    monkeypatch.setattr(Session, "read", read)
    error = failed(counted.source())
    assert type(error) is OutOfReach
    assert "change faster than they can be read" in error.message
    assert reads == sftp.READS_AT_LEAST


# --- the other host's files


def test_a_directory_that_comes_later(far: Far) -> None:
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
            assert await source.fetch()
            assert len(far.sshd.sessions()) <= 3, "one connection for all of it"

    run(session())


@pytest.mark.parametrize("name", ["postfix_lmtp", "postfix_domains"])
def test_a_file_is_missing(far: Far, name: str) -> None:
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


def test_a_file_that_is_too_large_is_not_opened(counted: Far) -> None:
    size = (counted.files.directory / "postfix_lmtp").stat().st_size
    error = failed(counted.source(max_size=size - 1))
    assert type(error) is Refused
    assert error.message.startswith(
        f"{counted.place()}: has {size} bytes, more than guard.max_size ({size - 1}) allows"
    )
    assert counted.sshd.requests("open") == 0
    assert fetched(counted.source(max_size=size))


def test_a_file_that_grows_while_it_is_read_is_refused_in_the_end(far: Far) -> None:
    """It is read to the size that it had, and no further."""
    path = far.grow(2**24)
    ended = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not ended.is_set() and file.tell() < 2**27:
                file.write(bytes(2**16))
                file.flush()
                time.sleep(0.001)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        error = failed(far.source(max_size=2**25))
    finally:
        ended.set()
        thread.join()
    assert type(error) is Refused
    assert "more than guard.max_size" in error.message


@pytest.fixture
def jailed(directory: Path) -> Iterator[Far]:
    """Mailman's directory as docs/ssh.md has it: a chroot, read-only, for a user without rights."""
    (directory / "data").mkdir()
    made = Far(directory, jail=Jail("list", directory / "data"))
    with made.sshd:
        yield made


def test_a_jailed_user_is_enough(jailed: Far) -> None:
    snapshot = fetched(jailed.source(user="list", path=Path("/")))
    assert snapshot
    assert snapshot.lmtp.content == (jailed.files.directory / "postfix_lmtp").read_bytes()
    assert snapshot.lmtp.place == "127.0.0.1:/postfix_lmtp"


def test_a_chroot_that_sshd_does_not_accept(jailed: Far) -> None:
    """It lets the user in, and then hangs up: what is wrong, only its log says."""
    jailed.files.directory.chmod(0o775)
    error = failed(jailed.source(user="list", path=Path("/")))
    assert type(error) is OutOfReach
    assert "connection lost while starting SFTP" in error.message
    assert "ChrootDirectory" in error.hint
    assert "bad ownership or modes for chroot" in jailed.sshd.log_text()


def test_a_user_who_may_not_read_the_files(jailed: Far) -> None:
    path = jailed.files.directory / "postfix_lmtp"
    os.chown(path, 999, 65533)
    path.chmod(0o660)
    error = failed(jailed.source(user="list", path=Path("/")))
    assert type(error) is NotPermitted
    assert error.message == (
        f'127.0.0.1:/postfix_lmtp: user "list" may not read it (owner 999:65533, mode 0660); {STAY}'
    )
    assert error.hint == (
        "on 127.0.0.1, as root: usermod -aG 65533 list (if that group has no name there, first:"
        " groupadd -g 65533 mailman-maps)"
    )
    path.chmod(0o600)
    hint = failed(jailed.source(user="list", path=Path("/"))).hint
    assert hint == "on 127.0.0.1, as root: chmod o+rX /postfix_lmtp"


def test_a_directory_that_may_not_be_entered(jailed: Far) -> None:
    inner = MailmanFiles(jailed.files.directory / "inner")
    inner.write(ANTS)
    inner.directory.chmod(0o750)
    error = failed(jailed.source(user="list", path=Path("/inner")))
    assert type(error) is NotPermitted
    assert error.message == (
        '127.0.0.1:/inner/postfix_lmtp: user "list" may not read it'
        f" (/inner has owner 0:0, mode 0750); {STAY}"
    )
    assert "usermod -aG 0 list" in error.hint


def test_after_a_denial_the_next_fetch_logs_in_anew(jailed: Far) -> None:
    """A user's groups are those of the login: usermod would change nothing for an open session."""
    path = jailed.files.directory / "postfix_lmtp"
    path.chmod(0o660)

    async def session() -> None:
        async with closing(jailed.source(user="list", path=Path("/"))) as source:
            assert isinstance(await refusal(source), NotPermitted)
            await until(lambda: not jailed.sshd.sessions(), "the end of the session")
            path.chmod(0o664)
            assert await source.fetch()

    run(session())


def test_a_file_without_any_read_bit_is_refused_even_to_root(far: Far) -> None:
    (far.files.directory / "postfix_lmtp").chmod(0)
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert "owner 0:0, mode 0000" in error.message


# --- host keys


def test_hashed_names_are_found(far: Far) -> None:
    far.known_hosts.unlink()
    far.sshd.write_known_hosts(far.known_hosts, hashed=True)
    assert "127.0.0.1" not in far.known_hosts.read_text()
    assert fetched(far.source())


def rewrite_names(far: Far, pattern: str) -> None:
    """Gives the keys of known_hosts to other names."""
    keys = [line.split(None, 1)[1] for line in far.known_hosts.read_text().splitlines()]
    far.known_hosts.write_text("".join(f"{pattern} {key}\n" for key in keys))


@pytest.mark.parametrize(
    "pattern", ["127.0.0.1", "*", "[127.0.0.*]:*", "elsewhere,[127.0.0.1]:{port}"]
)
def test_names_match_as_in_ssh(far: Far, pattern: str) -> None:
    rewrite_names(far, pattern.format(port=far.sshd.port))
    assert fetched(far.source())


@pytest.mark.parametrize("pattern", ["[127.0.0.1]:1", "127.0.0.2", "*,!127.0.0.1,![127.0.0.1]:*"])
def test_names_of_others_do_not_match(far: Far, pattern: str) -> None:
    rewrite_names(far, pattern)
    assert type(failed(far.source())) is NotPermitted


def test_an_address_of_another_host_does_not_vouch_for_this_one(far: Far) -> None:
    """As ssh(1): the name that was asked for decides, not the address that it has today."""
    error = failed(far.source(host="localhost"))
    assert "is not in" in error.message


@pytest.mark.parametrize("pattern", ["LocalHost", "[LocalHost]:*", "other,LOCAL*"])
def test_capitals_make_no_difference(far: Far, pattern: str) -> None:
    """Hosts are in lower case in the configuration, and names before they are hashed."""
    rewrite_names(far, pattern)
    assert fetched(far.source(host="localhost"))


@pytest.mark.parametrize("pattern", ["LocalHost", "[LOCALHOST]:{port}", "Local*", "x,LocalHost"])
def test_capitals_make_no_difference_to_a_revoked_key(far: Far, pattern: str) -> None:
    key = public(far.sshd.host_key())
    pattern = pattern.format(port=far.sshd.port)
    far.known_hosts.write_text(f"localhost {key}\n@revoked {pattern} {key}\n")
    assert "is marked @revoked in" in failed(far.source(host="localhost")).message


def test_comments_make_no_difference(far: Far) -> None:
    key = public(far.sshd.host_key())
    far.known_hosts.write_text(f"127.0.0.1 {key} clé de l'hôte\n", encoding="utf-8")
    assert fetched(far.source())
    with far.known_hosts.open("ab") as file:
        file.write(f"@revoked\t127.0.0.1 {key} volée, cl\xe9".encode("latin-1"))
    assert "is marked @revoked in" in failed(far.source()).message


@pytest.mark.parametrize("known", ["ed25519", "ecdsa", "rsa"])
def test_one_of_several_host_keys_is_enough(directory: Path, known: str) -> None:
    far = Far(directory, host_keys=["rsa", "ecdsa", "ed25519"])
    key = public(far.sshd.host_key(known))
    far.known_hosts.write_text(f"{far.sshd.known_as} {key}\n")
    with far.sshd:
        assert fetched(far.source())


def test_an_unknown_host_key(far: Far) -> None:
    far.known_hosts.write_text("# nobody is known\n\nother.example ssh-ed25519 AAAA\n")
    error = failed(far.source())
    port = far.sshd.port
    assert type(error) is NotPermitted
    assert error.status == Exit.NOT_PERMITTED
    assert error.message == (
        f"127.0.0.1:{port}: its host key ssh-ed25519 {fingerprint(far.sshd.host_key())}"
        f" is not in {far.known_hosts}; {STAY}"
    )
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in error.hint
    assert error.hint.endswith(f"ssh-keyscan -p {port} 127.0.0.1 >> {far.known_hosts}")
    mend(error.hint.rpartition(": ")[2])
    assert fetched(far.source())


def mend(command: str) -> None:
    """Does what a hint says."""
    subprocess.run(["sh", "-ec", command], check=True, capture_output=True)


def test_a_changed_host_key(far: Far) -> None:
    """Also in a daemon's life: the connection that it had is gone, and the next is not made."""
    known = fingerprint(far.sshd.host_key())

    async def session() -> SyncError:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.stop()
            far.sshd.replace_host_key()
            far.sshd.start()
            return await refusal(source)

    error = run(session())
    offered = fingerprint(far.sshd.host_key())
    assert type(error) is NotPermitted
    assert error.message == (
        f"127.0.0.1:{far.sshd.port}: its host key has changed, or another host answers: it offers"
        f" ssh-ed25519 {offered}, {far.known_hosts} has ssh-ed25519 {known}; {STAY}"
    )
    name = f"[127.0.0.1]:{far.sshd.port}"
    removal = f"ssh-keygen -R '{name}' -f {far.known_hosts}"
    assert removal in error.hint
    mend(removal)
    mend(error.hint.rpartition(", then ")[2])
    assert fetched(far.source())


def test_a_key_of_another_type_than_the_known_one(directory: Path) -> None:
    """The host's key is shown, where a handshake would only say that no algorithm matched."""
    far = Far(directory, host_keys=["rsa"])
    other = make_key(directory / "other")
    far.known_hosts.write_text(f"{far.sshd.known_as} {public(other)}\n")
    with far.sshd:
        error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"it offers ssh-rsa {fingerprint(far.sshd.host_key('rsa'))}" in error.message
    assert f"has ssh-ed25519 {fingerprint(other)}" in error.message


@pytest.mark.parametrize("name", ["{known_as}", "127.0.0.1", "*"])
def test_a_revoked_host_key(far: Far, name: str) -> None:
    """Whether or not its line names the port, and although another line trusts the key."""
    key = public(far.sshd.host_key())
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked {name.format(known_as=far.sshd.known_as)} {key}\n")
        file.write(f"127.0.0.1 {key}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{fingerprint(far.sshd.host_key())} is marked @revoked in" in error.message


def test_a_key_revoked_under_its_port_alone(far: Far) -> None:
    """asyncssh's own match would forget this line when it falls back to the plain name."""
    key = public(far.sshd.host_key())
    far.known_hosts.write_text(f"@revoked {far.sshd.known_as} {key}\n127.0.0.1 {key}\n")
    assert "is marked @revoked in" in failed(far.source()).message


@pytest.fixture
def certified(directory: Path) -> Iterator[tuple[Far, Path]]:
    """A host with a certificate, known by its CA alone; and the CA's key."""
    authority = make_key(directory / "ca")
    far = Far(directory)
    certify(far.sshd.host_key(), authority, "127.0.0.1")
    far.sshd = Sshd(
        directory / "certified",
        options=[
            f"HostCertificate {far.sshd.host_key()}-cert.pub",
            f"HostKey {far.sshd.host_key()}",
        ],
        host_keys=[],
    )
    far.sshd.authorize(far.key, "restrict")
    far.known_hosts.write_text(f"@cert-authority * {public(authority)}\n")
    with far.sshd:
        yield far, authority


def certify(key: Path, authority: Path, name: str, valid: str = "+1h") -> None:
    """Has the CA sign a host's key."""
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "id", "-h", "-n", name]
    subprocess.run([*command, "-V", valid, f"{key}.pub"], check=True, capture_output=True)


def test_a_host_that_its_ca_vouches_for(certified: tuple[Far, Path]) -> None:
    assert fetched(certified[0].source())


def test_capitals_make_no_difference_to_a_ca(certified: tuple[Far, Path]) -> None:
    far, authority = certified
    certify(far.directory / "sshd" / "ssh_host_ed25519_key", authority, "localhost")
    far.sshd.restart()
    far.known_hosts.write_text(f"@cert-authority LocalHost {public(authority)}\n")
    assert fetched(far.source(host="localhost"))


def test_a_certificate_of_another_ca(certified: tuple[Far, Path]) -> None:
    far, authority = certified
    other = make_key(far.directory / "other")
    far.known_hosts.write_text(f"@cert-authority * {public(other)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"its host certificate by the CA ssh-ed25519 {fingerprint(authority)}" in error.message
    assert "no such CA is known for this host" in error.message


def test_a_certificate_of_a_revoked_ca(certified: tuple[Far, Path]) -> None:
    far, authority = certified
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked * {public(authority)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{fingerprint(authority)} is marked @revoked" in error.message


def test_a_certificate_of_a_revoked_key(certified: tuple[Far, Path]) -> None:
    far, _ = certified
    key = far.directory / "sshd" / "ssh_host_ed25519_key"
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked * {public(key)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{fingerprint(key)} is marked @revoked" in error.message


@pytest.mark.parametrize(
    ("name", "valid"), [("other.example", "+1h"), ("127.0.0.1", "20200101:20200102")]
)
def test_a_certificate_for_another_host_or_time(
    certified: tuple[Far, Path], name: str, valid: str
) -> None:
    far, authority = certified
    certify(far.directory / "sshd" / "ssh_host_ed25519_key", authority, name, valid)
    far.sshd.restart()
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert "its host certificate by a known CA is not accepted" in error.message


def test_a_certificate_that_is_revoked_itself_can_not_be_read(
    certified: tuple[Far, Path],
) -> None:
    """Passed over, it would be accepted."""
    far, _ = certified
    certificate = (far.directory / "sshd" / "ssh_host_ed25519_key-cert.pub").read_text()
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked * {certificate}")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.known_hosts}:2: no line of a known_hosts file")


@pytest.mark.parametrize("names", ["other.example,", ",other.example", "a,,b", ","])
def test_an_empty_name_in_known_hosts_is_no_name_of_every_host(far: Far, names: str) -> None:
    key = public(far.sshd.host_key())
    far.known_hosts.write_text(f"{names} {key}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.known_hosts}:1: no line of a known_hosts file")


def test_a_host_without_a_certificate_where_one_is_expected(far: Far) -> None:
    authority = make_key(far.directory / "ca")
    far.known_hosts.write_text(f"@cert-authority * {public(authority)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"wants a certificate of ssh-ed25519 {fingerprint(authority)}" in error.message


# --- files on this host


def test_no_known_hosts_file(far: Far) -> None:
    far.known_hosts.unlink()
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.known_hosts}: No such file or directory: no host key")
    assert f"ssh-keyscan -p {far.sshd.port} 127.0.0.1 >> {far.known_hosts}" in error.hint


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "@revoked",
        "@revoked 127.0.0.1",
        "@revoked {key}",
        "@revoked * {cut}",
        "@revoked * {data}",
        "@revoked * {data} comment",
        "@revoked * ssh-unknown {data}",
        "@revoked * ssh-ed25519-cert-v01@openssh.com {data}",
        "@revoked |1|x|y {key}",
        "@unknown * ssh-ed25519 AAAA",
        "|1|x|y {key}",
    ],
)
def test_a_malformed_known_hosts_file(far: Far, line: str) -> None:
    key = public(far.sshd.host_key())
    line = line.format(key=key, cut=key[:-4], data=key.split()[1])
    far.known_hosts.write_bytes(far.known_hosts.read_bytes() + b"# caf\xe9\n" + line.encode())
    error = failed(far.source())
    assert type(error) is NotPermitted
    said = f'{far.known_hosts}:3: no line of a known_hosts file: "{line[:60]}'
    assert error.message.startswith(said)


def test_no_identity(far: Far) -> None:
    far.key.unlink()
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.key}: No such file or directory: there is no key")
    assert error.hint.startswith(f"ssh-keygen -t ed25519 -N '' -f {far.key}")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_an_identity_that_others_can_read(far: Far, mode: int) -> None:
    far.key.chmod(mode)
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{far.key}: mode {mode:04o}: others than its owner have access" in error.message
    assert f"chmod 600 {far.key}" in error.hint
    assert far.sshd.log_text().count("Connection from") == 0


@pytest.mark.parametrize("form", [[], ["-m", "PEM", "-t", "rsa"], ["-m", "PKCS8", "-t", "ecdsa"]])
def test_an_encrypted_identity(far: Far, form: list[str]) -> None:
    path = far.directory / "encrypted"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", *form, "-f", str(path)]
    subprocess.run(command, check=True)
    error = failed(far.source(identity=path))
    assert type(error) is NotPermitted
    assert "a daemon has nobody to ask for it" in error.message
    assert f"ssh-keygen -p -N '' -f {path}" in error.hint


@pytest.mark.parametrize(
    "content", [b"", b"\xff\0", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", b"ssh-ed25519 AAAA"]
)
def test_an_identity_that_is_no_key(far: Far, content: bytes) -> None:
    far.key.write_bytes(content)
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message == f"{far.key}: this is no private key; {STAY}"


def test_an_identity_that_is_a_fifo_is_not_waited_for(far: Far) -> None:
    far.key.unlink()
    os.mkfifo(far.key, 0o600)
    assert type(failed(far.source())) is NotPermitted


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_other_types_log_in(far: Far, kind: str) -> None:
    key = make_key(far.directory / "other", kind)
    far.sshd.authorize(key)
    assert fetched(far.source(identity=key))


# --- the login


def test_a_refused_login(far: Far) -> None:
    other = make_key(far.directory / "other key")
    error = failed(far.source(identity=other))
    assert type(error) is NotPermitted
    assert error.message == (
        f'127.0.0.1:{far.sshd.port}: refuses user "root" with the key ssh-ed25519'
        f" {fingerprint(other)} of {other}; {STAY}"
    )
    command = f'echo "restrict $(ssh-keygen -y -f {shlex.quote(str(other))})"'
    assert error.hint.startswith(command)
    mend(f"{command} >> {far.sshd.authorized_keys}")
    assert fetched(far.source(identity=other))


def test_a_user_that_does_not_exist(far: Far) -> None:
    error = failed(far.source(user="no-such-user"))
    assert type(error) is NotPermitted
    assert 'refuses user "no-such-user" with the key' in error.message


def test_neither_agent_nor_home_are_used(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent and a default key that the host accepts, and a configuration that leads there."""
    home = tmp_path / ".ssh"
    home.mkdir(mode=0o700)
    shutil.copy(far.key, home / "id_ed25519")
    (home / "known_hosts").write_text(far.known_hosts.read_text())
    (home / "config").write_text(
        f"Host *\n  Port {far.sshd.port}\n  User root\n  StrictHostKeyChecking no\n"
        f"  ProxyCommand touch {tmp_path}/used\n  IdentityFile {home}/id_ed25519\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = tmp_path / "agent"
    other = make_key(tmp_path / "other")
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL) as run:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            wait_for(agent.exists, 5, "the agent's socket")
            subprocess.run(["ssh-add", "-q", str(far.key)], check=True)
            error = failed(far.source(identity=other))
            assert "refuses user" in error.message
            assert far.sshd.log_text().count("Failed publickey") == 1
            assert fetched(far.source())
        finally:
            run.terminate()
    assert not (tmp_path / "used").exists()


def test_a_server_that_lets_anybody_in_is_refused(far: Far) -> None:
    """Without having asked for the key (disable_trivial_auth): it may pass the login on."""

    class Open(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    async def session() -> SyncError:
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Open, server_host_keys=[str(far.sshd.host_key())]
        )
        port = server.get_port()
        rewrite_names(far, f"[127.0.0.1]:{port}")
        async with closing(far.source(port=port)) as source:
            error = await refusal(source)
        server.close()
        await server.wait_closed()
        return error

    error = run(session())
    assert type(error) is NotPermitted
    assert "refuses user" in error.message


@pytest.mark.parametrize("option", ["Subsystem other /bin/true", "ForceCommand /bin/false"])
def test_a_server_without_sftp(directory: Path, option: str) -> None:
    far = Far(directory, options=[option])
    with far.sshd:
        error = failed(far.source())
    assert type(error) is NotPermitted
    assert 'user "root" may log in, but there is no SFTP' in error.message
    assert "Subsystem sftp internal-sftp" in error.hint


# --- the way there


def test_nobody_listens(far: Far) -> None:
    port = free_port()
    error = failed(far.source(port=port))
    assert type(error) is OutOfReach
    assert error.message == f"127.0.0.1:{port}: Connection refused; {STAY}"
    assert "connect to address 127.0.0.1" in by_hand(error, expect=255)


def by_hand(error: SyncError, expect: int) -> str:
    """What the command of a hint prints, as root pastes it; `expect` is its exit status."""
    introduction, _, command = error.hint.partition(": ")
    assert introduction == "see where it fails, as root"
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    assert done.returncode == expect, done
    return done.stderr


def test_hint_logs_in_as_postfix_sync_does(far: Far) -> None:
    """With its key and its known hosts, and nothing of root's own."""
    far.sshd.stop()
    error = failed(far.source())
    far.sshd.start()
    assert "Sending subsystem: sftp" in by_hand(error, expect=0)
    assert far.sshd.log_text().count("Accepted publickey") == 1
    far.known_hosts.write_text("")
    assert "Host key verification failed" in by_hand(error, expect=255)


def test_an_unknown_name(far: Far) -> None:
    error = failed(far.source(host="no-such-host.invalid"))
    assert type(error) is OutOfReach
    assert f"no-such-host.invalid:{far.sshd.port}: name unknown: " in error.message
    assert error.hint == "getent ahosts no-such-host.invalid"


@pytest.fixture
def several(far: Far, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ssh]]:
    """A source at a host with several addresses: `accepts`, `refuses`, `drops` (its packets)."""
    addresses = {"accepts": "127.0.0.1", "refuses": "127.0.0.2", "drops": "127.0.0.3"}
    real = socket.getaddrinfo
    rewrite_names(far, f"[several.example]:{far.sshd.port}")

    def source(*kinds: str, **changed: Any) -> Ssh:
        def found(host: str, *rest: Any, **options: Any) -> list[Any]:
            known = [addresses[kind] for kind in kinds] if host == "several.example" else [host]
            return [one for address in known for one in real(address, *rest, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        return far.source(host="several.example", **changed)

    with ExitStack() as opened:
        hole = (addresses["drops"], far.sshd.port)
        opened.enter_context(socket.create_server(hole, backlog=0))
        for _ in range(4):  # more than it takes
            one = opened.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(hole)
        yield source


@pytest.mark.parametrize("first", ["drops", "refuses"])
def test_another_address_of_the_host_is_enough(several: Callable[..., Ssh], first: str) -> None:
    async def session() -> Peer | None:
        async with closing(several(first, "accepts", connect_timeout=3.0)) as source:
            assert await source.fetch()
            return source.peer

    assert run(session()) == Peer(("127.0.0.1",))


@pytest.mark.parametrize("kinds", [["drops"], ["drops", "drops"], ["refuses", "drops"]])
def test_no_address_of_the_host_is_any_good(
    several: Callable[..., Ssh], far: Far, kinds: list[str]
) -> None:
    began = time.monotonic()
    error = failed(several(*kinds, connect_timeout=0.5))
    assert time.monotonic() - began < 2
    assert type(error) is OutOfReach
    said = f"several.example:{far.sshd.port}: no answer while connecting within 0.5 s; {STAY}"
    assert error.message == said


def test_an_address_that_refuses_comes_last(several: Callable[..., Ssh], far: Far) -> None:
    error = failed(several("drops", "refuses", connect_timeout=0.5))
    assert error.message == f"several.example:{far.sshd.port}: Connection refused; {STAY}"


@pytest.mark.attack
@pytest.mark.parametrize("name", sorted(BANNERS))
def test_servers_that_speak_no_ssh(far: Far, name: str) -> None:
    async def session() -> tuple[SyncError, float]:
        async with rogue(BANNERS[name]) as (_, port):
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port, connect_timeout=1.0)) as source:
                began = time.monotonic()
                return await refusal(source), time.monotonic() - began

    error, seconds = run(session())
    assert type(error) is OutOfReach
    assert error.message.isprintable()
    assert len(error.message) < 250
    assert seconds < 2


@pytest.mark.attack
def test_a_server_without_a_greeting_is_told_from_one_that_hangs_later(far: Far) -> None:
    async def session(name: str) -> str:
        async with rogue(BANNERS[name]) as (_, port):
            source = far.source(port=port, connect_timeout=0.3)
            return (await refusal(source)).message

    began = time.monotonic()
    assert "no answer before its greeting within 0.3 s" in run(session("silent"))
    assert time.monotonic() - began < 5
    far.sshd.freeze()
    error = failed(far.source(connect_timeout=0.3))
    assert "no answer before its greeting within 0.3 s" in error.message


# --- servers that stop, die, and come back


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts of half a second where they are half a minute."""
    monkeypatch.setattr(ssh_session, "READ_TIMEOUT", 0.5)


def test_frozen_between_two_fetches(far: Far, impatient: None) -> None:
    """The kept connection is given up, a new one is tried; and all is well when it thaws."""

    async def session() -> None:
        async with closing(far.source(connect_timeout=0.5)) as source:
            assert await source.fetch()
            far.sshd.freeze()
            began = time.monotonic()
            error = await refusal(source)
            assert "no answer before its greeting within 0.5 s" in error.message
            assert time.monotonic() - began < 2
            far.sshd.thaw()
            source.forget()
            assert await source.fetch()

    run(session())


def test_frozen_in_the_middle_of_a_transfer(counted: Far, impatient: None) -> None:
    counted.grow()

    async def session() -> None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            counted.sshd.freeze()
            began = time.monotonic()
            with pytest.raises(OutOfReach, match=r"no answer for 0\.5 s"):
                await fetching
            assert time.monotonic() - began < 5
            counted.sshd.thaw()
            assert await source.fetch()

    run(session())


def test_killed_in_the_middle_of_a_transfer(counted: Far) -> None:
    counted.grow()

    async def session() -> None:
        async with closing(counted.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await until(lambda: counted.sshd.requests("read") > 4, "reading")
            counted.sshd.kill_sessions()
            with pytest.raises(OutOfReach, match="connection lost"):
                await fetching
            assert await source.fetch()

    run(session())


def test_a_restarted_server_is_connected_to_at_once(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.restart()
            far.files.write(BEES)
            assert await source.fetch()
            far.sshd.kill_sessions()
            assert await source.fetch() is None

    run(session())


def test_a_connection_that_dies_at_the_question_is_made_anew(far: Far) -> None:
    """Nobody has told this side yet that it is dead."""

    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.kill_sessions()
            assert await source.fetch() is None  # without a turn of the event loop in between
            # Whoever asked goes on as before, and does not count as cancelled.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()

    run(session())


def test_a_server_that_stays_away(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.stop()
            for _ in range(2):
                error = await refusal(source)
                assert "Connection refused" in error.message
            far.sshd.start()
            assert await source.fetch() is None

    run(session())


def test_one_connection_is_kept(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert source.peer is None
            for _ in range(4):
                await source.fetch()
                source.forget()
            assert source.peer == Peer(("127.0.0.1",))
            assert far.sshd.log_text().count("Connection from") == 1
        await until(lambda: not far.sshd.sessions(), "the end of the session")
        assert "Disconnected from user root" in far.sshd.log_text()

    run(session())


@pytest.mark.parametrize("asked", [0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6])
def test_a_cancelled_fetch_leaves_nothing(far: Far, asked: float) -> None:
    """At whatever point it is: `run` looks for what is left."""
    far.grow(4 * BIG)  # which takes longer than any of these

    async def session() -> None:
        async with closing(far.source()) as source:
            fetching = asyncio.create_task(source.fetch())
            await asyncio.sleep(asked)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
        await until(lambda: not far.sshd.sessions(), "the end of the session")

    run(session())


def test_closing_does_not_wait_for_a_frozen_server(far: Far) -> None:
    async def session() -> None:
        async with closing(far.source()) as source:
            assert await source.fetch()
            far.sshd.freeze()

    run(session())


# --- servers that lie


def lying(far: Far, server: type[asyncssh.SFTPServer], **changed: Any) -> SyncError:
    """What a fetch from such a server raises."""

    async def session() -> SyncError:
        async with sftp_rogue(server, far.files.directory, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            path = Path("/")
            async with closing(far.source(port=port, path=path, **changed)) as source:
                return await refusal(source)

    began = time.monotonic()
    error = run(session())
    assert time.monotonic() - began < 7
    assert error.message.isprintable()
    assert len(error.message) < 300
    return error


@pytest.mark.attack
def test_the_rogue_is_honest_but_for_what_is_wrong(far: Far) -> None:
    async def session() -> Snapshot | None:
        async with sftp_rogue(Honest, far.files.directory, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port, path=Path("/"))) as source:
                return await source.fetch()

    assert run(session())


@pytest.mark.parametrize("request_", ["lstat", "open", "fstat", "read", "close"])
def test_a_reply_that_never_comes(far: Far, impatient: None, request_: str) -> None:
    error = lying(far, mute_at(request_))
    assert type(error) is OutOfReach
    assert "no answer for 0.5 s" in error.message


@pytest.mark.parametrize("change", [lambda size: size + 10, lambda size: size - 10])
def test_a_size_that_is_not_true(far: Far, change: Callable[[int], int]) -> None:
    """As far as a client can know, the file changes all the time."""
    error = lying(far, sized(change))
    assert type(error) is OutOfReach
    assert "change faster than they can be read" in error.message


def test_a_size_that_is_not_true_and_allowed(far: Far) -> None:
    error = lying(far, sized(lambda size: 2**62))
    assert type(error) is Refused


def test_more_than_was_asked_for(far: Far) -> None:
    error = lying(far, Generous)
    assert type(error) is OutOfReach
    assert "sends more than it was asked for" in error.message or "nobody asked" in error.message


class Chatty(Honest):
    """Sends 2 MiB that nobody asked for once the files have been read."""

    def lstat(self, path: bytes) -> Any:
        if self.opened and path.endswith(b"postfix_lmtp"):
            for _ in range(64):
                self.channel.get_connection().send_debug("x" * 2**15)
        return super().lstat(path)


def test_what_a_large_file_left_over_is_no_leave_to_say_more(far: Far) -> None:
    """What is allowed beyond a file's size is for that file alone."""
    far.grow(2**25)
    assert "nobody asked" in lying(far, Chatty).message


def test_one_byte_at_a_time(far: Far, impatient: None) -> None:
    """Each byte comes in time, but the block does not."""
    assert "no answer for 0.5 s" in lying(far, Stingy).message


def test_one_byte_at_a_time_as_announced(
    far: Far, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """limits@openssh.com may say so; a block that moves the deadline is larger all the same."""
    monkeypatch.setattr(asyncssh.sftp, "MAX_SFTP_READ_LEN", 1)
    far.grow(200)
    assert "no answer for 0.5 s" in lying(far, Stingy).message


def test_words_for_a_terminal_are_quoted(far: Far) -> None:
    error = lying(far, Rude)
    assert type(error) is OutOfReach
    assert '"\\x1b[2J' in error.message


@pytest.mark.attack
@pytest.mark.parametrize(
    ("say", "kind", "message"),
    [
        (mute, OutOfReach, "no answer while starting SFTP within 1 s"),
        (ends, NotPermitted, "may log in, but there is no SFTP"),
    ],
)
def test_something_else_in_sftp_s_place(
    far: Far, say: Any, kind: type[SyncError], message: str
) -> None:
    async def session() -> SyncError:
        async with subsystem_rogue(say, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port, connect_timeout=1.0)) as source:
                return await refusal(source)

    began = time.monotonic()
    error = run(session())
    assert time.monotonic() - began < 5
    assert type(error) is kind
    assert message in error.message


@pytest.mark.attack
def test_a_packet_of_four_gigabytes(far: Far) -> None:
    """Newer versions of asyncssh refuse it as such; the older ones would wait for all of it."""

    async def session() -> SyncError:
        async with subsystem_rogue(floods, far.sshd.host_key()) as port:
            rewrite_names(far, f"[127.0.0.1]:{port}")
            async with closing(far.source(port=port)) as source:
                return await refusal(source)

    began = time.monotonic()
    error = run(session())
    assert isinstance(error, OutOfReach | NotPermitted)
    assert time.monotonic() - began < 5


# --- by way of a bastion


class Way:
    """A host that is reached through a bastion, which has an sshd of its own."""

    def __init__(self, directory: Path, options: str, **bastion: Any) -> None:
        """Prepare; `options` are those of the key on the bastion."""
        self.far = Far(directory)
        self.bastion = Sshd(directory / "bastion", **bastion)
        self.bastion.authorize(self.far.key, options)
        self.bastion.write_known_hosts(self.far.known_hosts)

    def source(self, **changed: Any) -> Ssh:
        """The source, through the bastion."""
        jump = Jump("127.0.0.1", self.bastion.port, "root")
        return self.far.source(**{"jump": jump, **changed})


@pytest.fixture
def way(directory: Path) -> Iterator[Way]:
    """A way that works."""
    made = Way(directory, "restrict,port-forwarding")
    with made.far.sshd, made.bastion:
        yield made


def test_through_a_bastion(way: Way) -> None:
    way.far.grow()

    async def session() -> None:
        async with closing(way.source()) as source:
            snapshot = await source.fetch()
            assert snapshot
            assert len(snapshot.lmtp.content) == BIG
            assert source.peer is None
            way.bastion.kill_sessions()
            source.forget()
            assert await source.fetch()

    run(session())
    assert way.bastion.log_text().count("Accepted publickey") == 2


def test_hint_goes_through_bastion_with_the_same_files(way: Way) -> None:
    way.far.sshd.stop()
    error = failed(way.source())
    assert "no way from there" in error.message
    assert "open failed: connect failed: Connection refused" in by_hand(error, expect=255)
    way.far.sshd.start()
    by_hand(error, expect=0)


def test_a_bastion_that_does_nothing_else(directory: Path) -> None:
    """As docs/ssh.md has it."""
    way = Way(directory, "restrict,port-forwarding")
    port = way.far.sshd.port
    way.bastion.add_options("AllowTcpForwarding local", f"PermitOpen 127.0.0.1:{port}")
    way.bastion.add_options("ForceCommand /bin/false", "PermitTTY no")
    with way.far.sshd, way.bastion:
        assert fetched(way.source())
        other = failed(way.source(port=port - 1))
    assert "does not forward to" in other.message


@pytest.mark.parametrize("whose", ["bastion", "host"])
def test_both_host_keys_are_checked(way: Way, whose: str) -> None:
    other = way.far.sshd if whose == "bastion" else way.bastion
    way.far.known_hosts.unlink()
    other.write_known_hosts(way.far.known_hosts)
    error = failed(way.source())
    bastion = f"bastion 127.0.0.1:{way.bastion.port}"
    assert type(error) is NotPermitted
    if whose == "bastion":
        assert error.message.startswith(f"{bastion}: its host key ssh-ed25519")
        assert error.hint.endswith(
            f"ssh-keyscan -p {way.bastion.port} 127.0.0.1 >> {way.far.known_hosts}"
        )
        assert "Accepted" not in way.bastion.log_text()
    else:
        port = way.far.sshd.port
        assert error.message.startswith(
            f"127.0.0.1:{port} (through {bastion}): its host key ssh-ed25519"
        )
        assert f"append what ssh-keyscan -p {port} 127.0.0.1 prints on the {bastion}" in error.hint


def test_a_bastion_that_does_not_let_in(way: Way) -> None:
    way.bastion.authorized_keys.write_text("")
    error = failed(way.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(
        f'bastion 127.0.0.1:{way.bastion.port}: refuses user "root" with the key ssh-ed25519'
    )


def test_a_bastion_that_does_not_forward(directory: Path) -> None:
    way = Way(directory, "restrict")
    with way.far.sshd, way.bastion:
        error = failed(way.source())
    assert type(error) is NotPermitted
    assert f"bastion 127.0.0.1:{way.bastion.port}: does not forward to 127.0.0.1:" in error.message
    assert "restrict,port-forwarding" in error.hint


def test_a_host_that_its_bastion_does_not_reach(way: Way) -> None:
    way.far.sshd.stop()
    error = failed(way.source())
    assert type(error) is OutOfReach
    assert error.message.startswith(f"127.0.0.1:{way.far.sshd.port} (through bastion 127.0.0.1:")
    assert "no way from there" in error.message


def test_a_bastion_that_is_down(way: Way) -> None:
    way.bastion.stop()
    error = failed(way.source())
    assert type(error) is OutOfReach
    assert error.message == f"bastion 127.0.0.1:{way.bastion.port}: Connection refused; {STAY}"


def test_a_bastion_that_freezes(way: Way, impatient: None) -> None:
    async def session() -> None:
        async with closing(way.source(connect_timeout=0.5)) as source:
            assert await source.fetch()
            way.bastion.freeze()
            error = await refusal(source)
            assert error.message.startswith("bastion ")
            assert "no answer before its greeting" in error.message
            way.bastion.thaw()
            source.forget()
            assert await source.fetch()

    run(session())


def test_a_host_that_freezes_behind_its_bastion(way: Way) -> None:
    way.far.sshd.freeze()
    began = time.monotonic()
    error = failed(way.source(connect_timeout=0.5))
    assert time.monotonic() - began < 5
    assert type(error) is OutOfReach
    assert "no answer before its greeting" in error.message
    assert error.message.startswith("127.0.0.1:")


# --- size, speed, quiet


def in_its_own_process(far: Far, script: str) -> subprocess.CompletedProcess[str]:
    """A program with `source` at hand, in a process whose memory and output are its own."""
    head = (
        "import asyncio, resource, sys, time\n"
        "from pathlib import Path, PurePosixPath\n"
        "from postfix_sync.sources.sftp import Ssh\n"
        "from postfix_sync.sources.ssh_login import Login\n"
        f"login = Login('127.0.0.1', {far.sshd.port}, 'root', Path({str(far.key)!r}),"
        f" Path({str(far.known_hosts)!r}), 10.0)\n"
        f"source = Ssh(login, PurePosixPath({str(far.files.directory)!r}), 2**30)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, check=False
    )


def test_memory_is_bounded_by_the_size_of_the_files(far: Far) -> None:
    script = (
        "async def main():\n"
        "    await source.fetch()\n"
        "    before = peak()\n"
        "    with open({path!r}, 'r+b') as file: file.truncate({size})\n"
        "    snapshot = await source.fetch()\n"
        "    assert len(snapshot.lmtp.content) == {size}\n"
        "    await source.close()\n"
        "    print(peak() - before)\n"
        "asyncio.run(main())\n"
    ).format(path=str(far.files.directory / "postfix_lmtp"), size=2 * BIG)
    done = in_its_own_process(far, script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.4 * 2 * BIG


def test_nothing_is_printed_and_nothing_heavy_is_loaded(far: Far) -> None:
    script = (
        "assert 'asyncssh' not in sys.modules\n"
        "async def main():\n"
        "    for key in (login.identity, Path('/etc/hostname')):\n"
        "        object.__setattr__(login, 'identity', key)\n"
        "        try: await source.fetch()\n"
        "        except Exception as error: print(type(error).__name__)\n"
        "        await source.close()\n"
        "asyncio.run(main())\n"
    )
    far.known_hosts.write_text(far.known_hosts.read_text() + "# nothing\n")
    done = in_its_own_process(far, script)
    assert (done.stderr, done.stdout) == ("", "NotPermitted\n")


def test_the_event_loop_goes_round_while_a_large_file_comes(far: Far) -> None:
    far.grow(2 * BIG)

    async def session() -> float:
        longest = 0.0

        async def beat() -> None:
            nonlocal longest
            while True:
                began = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - began)

        async with closing(far.source()) as source:
            beating = asyncio.create_task(beat())
            assert await source.fetch()
            beating.cancel()
        return longest

    assert min(run(session()) for _ in range(TRIES)) < 0.5


@pytest.fixture
def slow_link(far: Far) -> Iterator[Link]:
    """A host at the other end of a link of 20 MB/s, with 200 ms from question to answer."""
    with Link(far.sshd.port, delay=0.1, rate=20_000_000) as link:
        rewrite_names(far, f"[127.0.0.1]:{link.port}")
        yield link


def test_a_slow_link_with_a_long_delay(far: Far, slow_link: Link) -> None:
    far.grow(20_000_000)

    async def session() -> list[float]:
        async with closing(far.source(port=slow_link.port)) as source:
            assert await source.fetch()
            await source.fetch()
            seconds = []
            for _ in range(TRIES):
                began = time.monotonic()
                assert await source.fetch() is None
                seconds.append(time.monotonic() - began)
            return seconds

    assert 0.2 < min(run(session())) < 0.4, "one question and one answer, for three files at once"


def test_dropped_packets(far: Far, slow_link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word from anybody: nothing says that the connection is gone."""
    monkeypatch.setattr(ssh_session, "READ_TIMEOUT", 2.0)

    async def session() -> None:
        async with closing(far.source(port=slow_link.port, connect_timeout=3.0)) as source:
            assert await source.fetch()
            slow_link.drop = True
            began = time.monotonic()
            error = await refusal(source)
            assert type(error) is OutOfReach
            assert "no answer before its greeting within 3 s" in error.message
            assert time.monotonic() - began < 7
            slow_link.drop = False
            source.forget()
            assert await source.fetch()

    run(session())
