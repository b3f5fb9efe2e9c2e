"""The command and the daemon with sources over SSH: exit status, log, and time between retries.

The server is OpenSSH's sshd. The other files of this directory test the source itself.
"""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postfix_sync.model.map_names import RECIPIENTS
from tests.conftest import need
from tests.parts import sshd
from tests.parts.common import free_port, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.mailman_files import MailmanFiles
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site
from tests.parts.sshd import Sshd, fingerprint, make_key

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES, CATS = (f"{name}@lists.example.net" for name in ("ants", "bees", "cats"))

STAY = "the last good lists stay in use"


class Far:
    """A site whose source is on another host; the source has no files yet."""

    def __init__(self, site: Site, server: Sshd) -> None:
        self.site = site
        self.sshd = server
        self.files = MailmanFiles(site.directory / "far")
        self.files.directory.mkdir()
        self.near = MailmanFiles(site.directory / "near")
        self.key = make_key(site.directory / "id_ed25519")
        self.known_hosts = site.directory / "known_hosts"
        server.authorize(self.key, "restrict")
        server.write_known_hosts(self.known_hosts)
        self.configure()

    def configure(self, *, near: bool = False, ssh: Any = None, **source: Any) -> None:
        """Configure the source, and with `near` another one on this host."""
        login = {
            "host": self.sshd.host,
            "port": self.sshd.port,
            "user": "root",
            "identity": str(self.key),
            "known_hosts": str(self.known_hosts),
            **(ssh or {}),
        }
        far = {"name": "far", "path": str(self.files.directory), "ssh": login, **source}
        others = [{"name": "near", "path": str(self.near.directory)}] if near else []
        self.site.configure(sources=[far, *others])

    @property
    def lists(self) -> set[str]:
        """The lists in the index of recipients."""
        return set(self.site.lookup(RECIPIENTS, [ANTS, BEES, CATS]))

    @property
    def state(self) -> str:
        """The source's state in status.json."""
        found: str = self.site.status()["sources"]["far"]["state"]
        return found

    @property
    def logins(self) -> int:
        """The number of logins so far."""
        return self.sshd.log_text().count("Accepted publickey")

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return self.sshd.log_text().count("Connection from")


@pytest.fixture
def far(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Iterator[Far]:
    """The site; its source has one list."""
    need(sshd.available(), "OpenSSH's sshd")
    site = make_site()
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"), lmtp_connect_timeout="5s")
    with Sshd(site.directory / "sshd") as server:
        made = Far(site, server)
        made.files.write(ANTS)
        yield made


def test_once_fetches_over_one_connection(far: Far) -> None:
    assert "far: +1 list: ants" in far.site.once("-v")
    assert far.lists == {ANTS}
    assert far.logins == 1
    assert far.site.once() == ""
    assert far.logins == 2
    wait_for(lambda: not far.sshd.sessions(), 20, "the end of both connections")


def test_dry_run_fetches_over_ssh(far: Far) -> None:
    done = far.site.call("--once", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"+ {ANTS} lmtp:[127.0.0.1]:8024" in done.stdout


def test_address_ssh_enters_the_address_of_the_peer(far: Far) -> None:
    far.configure(address="ssh")
    far.files.write(ANTS, hop="lmtp:[mm]:8024")
    far.site.once()
    assert b"127.0.0.1\tmm\n" in far.site.hosts.read_bytes()
    far.sshd.stop()
    far.site.hosts.write_bytes(b"127.0.0.1 localhost\n")
    far.site.once(expect=75)
    assert b"127.0.0.1\tmm\n" in far.site.hosts.read_bytes(), (
        "the address is kept from the last sync"
    )


def refuse_login(far: Far) -> str:
    far.sshd.authorized_keys.write_text("")
    return f'refuses user "root" with the key ssh-ed25519 {fingerprint(far.key)}'


def change_host_key(far: Far) -> str:
    far.sshd.stop()
    old = fingerprint(far.sshd.host_key())
    far.sshd.replace_host_key()
    far.sshd.start()
    new = fingerprint(far.sshd.host_key())
    return f"it offers ssh-ed25519 {new}, {far.known_hosts} has ssh-ed25519 {old}"


def forget_host_key(far: Far) -> str:
    far.known_hosts.write_text("")
    return fingerprint(far.sshd.host_key())


def open_key(far: Far) -> str:
    far.key.chmod(0o644)
    return "users other than its owner have access to this private key"


def lock_key(far: Far) -> str:
    far.key.unlink()
    make_key(far.key, passphrase="secret")
    return "needs a passphrase"


def lose_key(far: Far) -> str:
    far.key.unlink()
    return f"{far.key}: No such file or directory"


def hide_files(far: Far) -> str:
    (far.files.directory / "postfix_lmtp").chmod(0)
    return "is not permitted to read it"


def end_sshd(far: Far) -> str:
    far.sshd.stop()
    return "Connection refused"


def misname_host(far: Far) -> str:
    far.configure(ssh={"host": "nosuch.invalid"})
    return "name unknown: Name or service not known"


def freeze_sshd(far: Far) -> str:
    far.configure(ssh={"connect_timeout": "500ms"})
    far.sshd.freeze()
    return "within 0.5 s"


def move_directory(far: Far) -> str:
    far.files.directory.rename(far.site.directory / "elsewhere")
    return "No such file or directory"


def link_file(far: Far) -> str:
    path = far.files.directory / "postfix_lmtp"
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    return "is a symbolic link"


def cut_file(far: Far) -> str:
    far.files.put("postfix_lmtp", f"{ANTS} lmtp:[127.0.0.1]:8024\n")
    return "truncated"


TROUBLE: dict[Callable[[Far], str], tuple[int, str]] = {
    refuse_login: (77, "failed"),
    change_host_key: (77, "failed"),
    forget_host_key: (77, "failed"),
    open_key: (77, "failed"),
    lock_key: (77, "failed"),
    lose_key: (77, "failed"),
    hide_files: (77, "failed"),
    end_sshd: (75, "stale"),
    misname_host: (75, "stale"),
    freeze_sshd: (75, "stale"),
    move_directory: (75, "stale"),
    link_file: (65, "refused"),
    cut_file: (65, "refused"),
}


@pytest.mark.parametrize("trouble", TROUBLE, ids=[trouble.__name__ for trouble in TROUBLE])
def test_failure_has_its_exit_status_and_keeps_the_lists(
    far: Far, trouble: Callable[[Far], str]
) -> None:
    status, state = TROUBLE[trouble]
    far.site.once()
    said = trouble(far)
    connections = far.connections
    printed = far.site.once(expect=status)
    assert said in printed
    assert printed.startswith("postfix-sync: error: ")
    assert "\npostfix-sync: hint: " in printed
    assert printed.count("error: ") == 1
    assert far.connections <= connections + 1, "only one connection"
    assert far.lists == {ANTS}
    assert far.state == state


def test_daemon_keeps_one_connection(far: Far) -> None:
    far.configure(interval="200ms")
    with RunningDaemon(far.site, "-v") as daemon:
        daemon.wait_for("far: +1 list: ants")
        daemon.wait_for("far: polled: unchanged", times=3)
        far.files.write(ANTS, BEES)
        daemon.wait_for("far: +1 list: bees")
        assert far.logins == 1
        assert daemon.stop() == 0
    wait_for(lambda: not far.sshd.sessions(), 20, "the end of the session")


def test_hanging_peer_delays_neither_other_sources_nor_the_watchdog(far: Far) -> None:
    """SIGTERM ends the daemon in time, too."""
    far.configure(near=True, interval="300ms")
    far.near.write(BEES)
    with RunningDaemon(far.site, environment={"WATCHDOG_USEC": "1000000"}) as daemon:
        daemon.wait_for("far: +1 list: ants")
        daemon.wait_for("near: +1 list: bees")
        far.sshd.freeze()
        pings = daemon.notify.received.count("WATCHDOG=1")
        received = daemon.notify
        # Longer than the interval: by then the daemon has polled the source.
        wait_for(
            lambda: received.received.count("WATCHDOG=1") >= pings + 3, 20, "pings of the watchdog"
        )
        far.near.write(BEES, CATS)
        daemon.wait_for("near: +1 list: cats")
        assert far.lists == {ANTS, BEES, CATS}
        assert daemon.stop(timeout=10) == 0


def test_peer_that_is_up_again_is_reported_as_recovered(far: Far) -> None:
    far.configure(interval="200ms", ssh={"connect_timeout": "500ms"})
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for("far: +1 list: ants")
        far.sshd.stop()
        daemon.wait_for("Connection refused")
        far.files.write(ANTS, BEES)
        far.sshd.start()
        daemon.wait_for("far: +1 list: bees")
        daemon.wait_for("far: recovered")
        assert daemon.count("Connection refused") == 1
        assert daemon.stop() == 0


def test_unreachable_host_is_retried_with_back_off(far: Far) -> None:
    far.configure(interval="50ms", ssh={"port": free_port()})
    with RunningDaemon(far.site, "-v") as daemon:
        daemon.wait_for("Connection refused")
        # Retries come after 0.5 to 1 s, 1 to 2 s, and 2 to 4 s, not at the interval of 50 ms.
        began = time.monotonic()
        daemon.wait_for("far: polled: ", times=4)
        assert time.monotonic() - began > 3.3
        assert daemon.count("error: ") == 1
        assert daemon.stop() == 0


def test_error_that_needs_an_operator_is_logged_once_and_retried_slowly(far: Far) -> None:
    far.configure(interval="50ms", near=True)
    far.near.write(BEES)
    said = refuse_login(far)
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for(said)
        daemon.wait_for("near: +1 list: bees")
        for _ in range(3):  # other syncs do not cause a retry
            seen = daemon.passes
            far.near.write(*[BEES, CATS][: 1 + seen % 2])
            daemon.wait_for_passes(seen + 1)
        assert far.connections == 1
        far.sshd.authorize(far.key)
        daemon.send(signal.SIGUSR1)
        daemon.wait_for("far: +1 list: ants")
        assert daemon.count(said) == 1
        assert daemon.stop() == 0


def test_once_that_succeeds_ends_back_off_of_daemon(far: Far) -> None:
    """Also if it finds no change since the last recorded fetch."""
    far.site.once()
    said = refuse_login(far)
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for(said)
        far.sshd.authorize(far.key)
        far.site.once()
        daemon.wait_for("far: recovered")
        far.files.write(ANTS, BEES)
        daemon.wait_for("far: +1 list: bees")
        assert far.state == "ok"
        assert daemon.stop() == 0


def test_first_answer_to_another_process_ends_back_off_of_daemon(far: Far) -> None:
    said = refuse_login(far)
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for(said)
        far.sshd.authorize(far.key)
        far.site.once()
        daemon.wait_for("far: recovered")
        assert daemon.stop() == 0


def test_stale_error_of_daemon_does_not_replace_newer_success_in_status(far: Far) -> None:
    far.configure(near=True)
    far.near.write(BEES)
    said = refuse_login(far)
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for(said)
        wait_for(lambda: far.state == "failed", 20, "status.json to have the error")
        failed = int(time.time())
        wait_for(
            lambda: time.time() >= failed + 1, 2, "the next second: status.json has whole ones"
        )
        far.sshd.authorize(far.key)
        far.site.once()
        far.sshd.freeze()  # the daemon's last result is its error
        try:
            far.near.write(BEES, CATS)
            daemon.wait_for("near: +1 list: cats")
            daemon.look()
            assert far.state == "ok"
        finally:
            far.sshd.thaw()
        assert daemon.stop() == 0


def keep_known_hosts(far: Far) -> Callable[[], object]:
    far.known_hosts.rename(far.known_hosts.with_suffix(".aside"))
    return lambda: far.known_hosts.with_suffix(".aside").rename(far.known_hosts)


def keep_key(far: Far) -> Callable[[], object]:
    far.key.rename(far.key.with_suffix(".aside"))
    return lambda: far.key.with_suffix(".aside").rename(far.key)


def show_key(far: Far) -> Callable[[], object]:
    far.key.chmod(0o644)
    return lambda: far.key.chmod(0o600)


def offer_another_key(far: Far) -> Callable[[], object]:
    known = far.key.read_bytes()
    far.key.unlink()
    make_key(far.key)
    return lambda: far.key.write_bytes(known)


@pytest.mark.parametrize(
    "break_file",
    [keep_known_hosts, keep_key, show_key, offer_another_key],
    ids=lambda break_file: break_file.__name__,
)
def test_login_is_retried_when_a_file_that_it_needs_has_changed(
    far: Far, break_file: Callable[[Far], Callable[[], object]]
) -> None:
    repair = break_file(far)
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for("postfix-sync: error: ")
        repair()
        daemon.wait_for("far: +1 list: ants")
        assert daemon.stop() == 0


def test_changed_host_key_is_logged_with_both_fingerprints_and_refused(far: Far) -> None:
    far.configure(interval="100ms")
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for("far: +1 list: ants")
        said = change_host_key(far)
        far.files.write(ANTS, BEES)
        daemon.wait_for(said)
        assert far.lists == {ANTS}
        assert far.logins == 1
        far.known_hosts.unlink()
        far.sshd.write_known_hosts(far.known_hosts)
        daemon.send(signal.SIGUSR1)
        daemon.wait_for("far: +1 list: bees")
        assert daemon.stop() == 0


def test_files_that_appear_later_are_fetched_at_the_interval(far: Far) -> None:
    """The directory is missing on a new Mailman until a list is created."""
    far.files.directory.rename(far.site.directory / "later")
    far.configure(interval="200ms")
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for("No such file or directory")
        daemon.wait_for_passes(daemon.passes + 2)  # polls at the interval
        (far.site.directory / "later").rename(far.files.directory)
        daemon.wait_for("far: +1 list: ants")
        assert daemon.count("No such file or directory") == 1
        assert far.logins == 1
        assert daemon.stop() == 0


def test_daemon_started_while_the_host_is_away_uses_the_last_good_lists(far: Far) -> None:
    far.site.once()
    far.sshd.stop()
    for path in (far.site.maps, far.site.state / "status.json"):
        (_remove if path.is_dir() else Path.unlink)(path)
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for("Connection refused")
        wait_for((far.site.maps / RECIPIENTS).exists, 20, "the last good lists")
        assert daemon.stop() == 0
    assert far.lists == {ANTS}


def _remove(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def test_reload_during_a_connection_logs_in_again(far: Far) -> None:
    far.configure(interval="200ms")
    with RunningDaemon(far.site) as daemon:
        daemon.wait_for("far: +1 list: ants")
        far.configure(interval="300ms")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("was read again")
        far.files.write(ANTS, BEES)
        daemon.wait_for("far: +1 list: bees")
        assert far.logins == 2
        assert daemon.stop() == 0
    wait_for(lambda: not far.sshd.sessions(), 20, "the end of both connections")
