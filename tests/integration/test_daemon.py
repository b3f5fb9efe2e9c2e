"""The daemon, run as an operator starts it: it applies each change and keeps running.

Each test has a real Postfix configuration and the real postmap; Postfix itself is stopped, so the
daemon never waits for it. A sync with nothing to report logs nothing: the tests see on the service
manager's socket that it was made.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from postfix_sync.daemon.retry import FIRST_RETRY, next_try, retry_delay
from postfix_sync.errors import Missing, NotPermitted, OutOfReach, Refused, SyncError
from tests.parts.common import PATIENCE, TRIES, is_stopped, wait_for
from tests.parts.daemon import RunningDaemon, install, obey_modes
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import HEADER, MailmanFiles, lmtp_text, nine
from tests.parts.postfix_instance import PostfixInstance
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS, BEES, CATS = (f"{name}@lists.example.net" for name in ("ants", "bees", "cats"))
NEVER = "1h"
"""An interval longer than any test, so that only events can cause a sync."""

AWAY = "No such file or directory"
BACK = "lists: recovered"

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that keeps maps that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def with_ants(make_site: MakeSite, template: Path) -> MakeSite:
    """Return a function like make_site for sites with one list, in the source and in the maps."""

    def make(map_type: str = "lmdb", interval: str = NEVER, **others: object) -> Site:
        site = make_site(map_type, source={"interval": interval}, **others)
        return install(site, ANTS, template=template)

    return make


@pytest.fixture
def site(with_ants: MakeSite) -> Site:
    """A site with one list and an interval that is never reached."""
    return with_ants()


@contextmanager
def settled(site: Site, *arguments: str, **popen: object) -> Iterator[RunningDaemon]:
    """A daemon that has made its first sync, and the sync after it began to watch the source."""
    with RunningDaemon(site, *arguments, **popen) as daemon:  # type: ignore[arg-type]  # as Popen
        daemon.wait_until_it_watches()
        yield daemon


@contextmanager
def between_passes(site: Site) -> Iterator[None]:
    """Hold the lock, so that no sync reads the source or the maps."""
    with (site.state / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def test_change_of_the_source_is_applied_at_once(site: Site) -> None:
    with settled(site) as daemon:
        for tries in range(1, TRIES + 1):
            site.files.write(ANTS)
            daemon.look()
            began = time.monotonic()
            site.files.write(ANTS, BEES)
            daemon.wait_for("lists: +1 list: " + BEES, times=tries)
            seconds = time.monotonic() - began
            if seconds < 3:
                break
        assert seconds < 3
        assert site.installed("postfix_recipients").keys() == {*nine(ANTS), *nine(BEES)}
        site.files.write(BEES)
        daemon.wait_for("lists: -1 list: " + ANTS)
        assert site.installed("postfix_recipients").keys() == set(nine(BEES))


def test_change_without_an_event_is_applied_after_the_interval(site: Site) -> None:
    """A write through another hard link to a file, like one by another host, causes no event.

    The first daemon shows that only the interval finds the change.
    """
    routes = site.files.directory / "postfix_lmtp"
    elsewhere = site.directory / "elsewhere"
    os.link(routes, elsewhere)

    def write_unseen(*names: str) -> None:
        with elsewhere.open("r+") as file:
            file.write(lmtp_text(names, "lmtp:[127.0.0.1]:8024"))

    with settled(site) as daemon:
        seen = daemon.rest()
        write_unseen(ANTS, BEES)
        assert daemon.rest() == seen
    site.configure(sources=[{"name": "lists", "path": str(routes.parent), "interval": "300ms"}])
    with settled(site) as daemon:
        daemon.wait_for_passes(daemon.passes + 3)
        write_unseen(ANTS, BEES, CATS)
        daemon.wait_for("lists: +1 list: " + CATS)


def test_change_is_logged_once_and_unchanged_rewrite_is_not_logged(site: Site) -> None:
    with settled(site) as daemon:
        site.files.write(ANTS, BEES)
        daemon.wait_for(BEES)
        before, made = daemon.log, (site.maps / "postfix_lmtp").stat().st_mtime_ns
        text = lmtp_text([ANTS, BEES], "lmtp:[127.0.0.1]:8024")
        later = text.replace("10:00:00", "11:00:00")
        assert HEADER not in later
        seen = daemon.passes
        site.files.put("postfix_lmtp", later)
        daemon.wait_for_passes(seen + 1)
        daemon.look()
        assert daemon.log == before
        assert daemon.count(BEES) == 1
        assert (site.maps / "postfix_lmtp").stat().st_mtime_ns == made


def test_sigusr1_starts_a_sync(site: Site) -> None:
    """The map directory is not watched: only a sync rebuilds an index that a user removed."""
    with settled(site) as daemon:
        (site.maps / "postfix_domains.lmdb").unlink()
        daemon.send(signal.SIGUSR1)
        daemon.wait_for("postfix_domains: built again")
        assert site.installed("postfix_domains") == {"lists.example.net": "lists.example.net"}


def test_sighup_loads_a_valid_configuration(site: Site) -> None:
    """The daemon also watches the new directory of the source."""
    other = MailmanFiles(site.directory / "other")
    other.write(ANTS, BEES)
    with settled(site) as daemon:
        site.configure(sources=[{"name": "moved", "path": str(other.directory), "interval": NEVER}])
        daemon.send(signal.SIGHUP)
        daemon.wait_for(f"{site.config} was read again")
        daemon.wait_for("moved: +1 list: " + BEES)
        daemon.look()
        other.write(ANTS, BEES, CATS)
        daemon.wait_for("moved: +1 list: " + CATS)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("sources:\n  - path: /srv\nprobes: {}\n", 3, 'probes: unknown key; did you mean "probe"?'),
        ("sources: [\n", 2, "not valid YAML"),
        ("sources:\n- path: /m\n  name: !!timestamp now\n", 3, 'sources[0].name: "now" is read as'),
        ("a: &a [*a]\n", 1, "not valid YAML: an anchor"),
        ('a: "\\UFFFFFFFF"\n', 1, "not valid YAML: it can't be read"),
        (None, None, AWAY),
    ],
    ids=["unknown key", "no YAML", "no date", "an anchor in itself", "no character", "no file"],
)
def test_sighup_reports_invalid_configuration_and_keeps_the_previous_one(
    site: Site, text: str | None, line: int | None, says: str
) -> None:
    with settled(site) as daemon:
        if text is None:
            site.config.unlink()
        else:
            site.config.write_text(text)
        daemon.send(signal.SIGHUP)
        daemon.wait_for("the previous configuration stays in use")
        place = f"{site.config}:{line}: " if line else f"{site.config}: "
        assert daemon.count(f"error: {place}{says}") == 1
        site.files.write(ANTS, BEES)
        daemon.wait_for("lists: +1 list: " + BEES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_idle_daemon_quickly(site: Site, number: signal.Signals) -> None:
    for _ in range(TRIES):
        with settled(site) as daemon:
            began = time.monotonic()
            assert daemon.stop(number) == 0
            seconds = time.monotonic() - began
            assert daemon.messages[-1] == "stopped; Postfix keeps using the installed maps"
        if seconds < 1.5:
            break
    assert seconds < 1.5


def test_signal_ends_daemon_whose_source_is_missing_quickly(site: Site) -> None:
    """Such a daemon waits for its next retry, and for the directory."""
    site.files.directory.rename(site.directory / "away")
    for _ in range(TRIES):
        with RunningDaemon(site) as daemon:
            daemon.wait_for(AWAY)
            began = time.monotonic()
            assert daemon.stop() == 0
            seconds = time.monotonic() - began
        if seconds < 1.5:
            break
    assert seconds < 1.5


@contextmanager
def held_up_in_postmap(daemon: RunningDaemon, *lists: str) -> Iterator[None]:
    """Write these lists to the source, and stop the first postmap that builds a map of them.

    The lists must differ from ANTS alone, which is restored if no postmap was seen in time.
    """
    for _ in range(TRIES):
        daemon.site.files.write(*lists)
        if postmap := _stopped_postmap(daemon):
            break
        daemon.site.files.write(ANTS)
        daemon.look()
    assert postmap, "a postmap that builds"
    try:
        yield
    finally:
        os.kill(postmap, signal.SIGCONT)


def _stopped_postmap(daemon: RunningDaemon) -> int:
    """Stop a postmap that builds a map; return its process id, or 0 if none was seen."""
    give_up = time.monotonic() + 3
    while time.monotonic() < give_up:  # without a pause: postmap takes some milliseconds
        for pid, command in daemon.commands().items():
            if command and command[0].endswith("postmap") and "-q" not in command:
                with suppress(ProcessLookupError):  # postmap has ended
                    os.kill(pid, signal.SIGSTOP)
                if is_stopped(pid):
                    return pid
    return 0


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_finishes_apply_before_it_ends_on_a_signal(
    with_ants: MakeSite, map_type: str
) -> None:
    """A second signal does not interrupt it either; at the end all maps match the source."""
    site = with_ants(map_type)
    with settled(site) as daemon:
        with held_up_in_postmap(daemon, BEES):
            daemon.send(signal.SIGTERM)
            daemon.send(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(0.5)
        assert daemon.process.wait(PATIENCE) == 0
        assert site.installed("postfix_recipients").keys() == set(nine(BEES))
        assert site.installed("postfix_lmtp").keys() >= set(nine(BEES))
        assert not site.stray()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_change_is_logged_although_a_signal_arrived_during_apply(
    site: Site, number: signal.Signals
) -> None:
    """The log and the status have what was applied, even if the daemon ends right after it."""
    with settled(site) as daemon:
        before = site.status()["sources"]["lists"]
        with held_up_in_postmap(daemon, ANTS, BEES):
            logged = daemon.count("lists: +1 list: " + BEES)
            daemon.send(number)
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(0.3)
        if number == signal.SIGHUP:
            daemon.wait_for("read again")
            daemon.look()
            daemon.send(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 0
        assert site.installed("postfix_recipients").keys() == {*nine(ANTS), *nine(BEES)}
        assert daemon.count("lists: +1 list: " + BEES) == logged + 1, daemon.log
        assert site.status()["sources"]["lists"]["entries"] == before["entries"] + 9


def test_missing_source_is_reported_once_and_its_recovery_as_well(with_ants: MakeSite) -> None:
    site = with_ants(interval="200ms")
    away = site.directory / "away"
    with settled(site) as daemon:
        installed = daemon.lines
        with between_passes(site):
            site.files.directory.rename(away)
        daemon.wait_for(AWAY)
        daemon.wait_for_passes(daemon.passes + 5)
        added = daemon.messages[len(installed) :]
        assert [message.startswith(("error: ", "hint: ")) for message in added] == [True, True], (
            added
        )
        assert str(site.files.directory / "postfix_lmtp") in added[0]
        assert site.installed("postfix_recipients").keys() == set(nine(ANTS))
        away.rename(site.files.directory)
        daemon.wait_for(BACK)
        daemon.wait_for_passes(daemon.passes + 2)
        assert daemon.messages[len(installed) + 2 :] == [BACK]


def test_different_error_of_the_same_source_is_reported(with_ants: MakeSite) -> None:
    site = with_ants(interval="200ms")
    with settled(site) as daemon:
        site.files.directory.rename(site.directory / "away")
        daemon.wait_for(AWAY)
        site.files.write()
        daemon.wait_for("error: lists: ")
        assert daemon.count(BACK) == 0
        site.files.write(ANTS)
        daemon.wait_for(BACK)


def test_failed_sync_is_retried_with_back_off(site: Site) -> None:
    """The first retry is after one second, the next after two, minus up to half of it at random."""
    site.files.directory.rename(site.directory / "away")
    began = time.monotonic()
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(4)
        passes, seconds = daemon.passes, time.monotonic() - began
        assert seconds > sum(FIRST_RETRY * 2**n / 2 for n in range(passes - 1))
        assert daemon.count(AWAY) == 1


@pytest.mark.parametrize(
    ("error", "remote", "interval", "expected"),
    [
        (NotPermitted("login"), True, 10, 60),  # never earlier: the host may ban this address
        (NotPermitted("login"), True, 0.05, 60),
        (NotPermitted("login"), True, 3600, 60),
        (NotPermitted("mode"), False, 3600, 60),
        (NotPermitted("mode"), False, 5, 5),
        (OutOfReach("refused"), True, 10, 60),
        (OutOfReach("no such directory"), False, 3600, 60),
        (Missing("no list yet"), True, 3600, 60),
        (Missing("no list yet"), True, 10, 10),
        (Refused("malformed"), True, 3600, 3600),
        (None, True, 3600, 3600),
    ],
)
def test_failure_that_an_operator_can_fix_is_retried_within_a_minute(
    error: SyncError | None, remote: bool, interval: float, expected: float
) -> None:
    assert next_try(error, 99, interval=interval, remote=remote, jitter=1.0) == expected


def test_retry_delay_doubles_up_to_the_interval() -> None:
    assert [retry_delay(n, 60.0, 1.0) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [retry_delay(n, 60.0, 0.0) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert retry_delay(1, 0.2, 1.0) == 0.2
    assert retry_delay(1_000_000, 3600.0, 1.0) == 3600


def test_idle_daemon_uses_no_cpu_time(site: Site) -> None:
    with settled(site) as daemon:
        seen, used = daemon.rest(), daemon.seconds_of_work
        assert daemon.rest() == seen
        assert daemon.seconds_of_work - used < 0.2


def test_directory_that_cannot_be_watched_is_polled_at_the_interval(with_ants: MakeSite) -> None:
    """The files can be read, but without permission to list the directory, it cannot be watched."""
    site = with_ants(interval="500ms")
    site.files.directory.chmod(0o311)
    with RunningDaemon(site, preexec_fn=obey_modes) as daemon:
        daemon.wait_for_passes(1)
        site.files.write(ANTS, BEES)
        daemon.wait_for("lists: +1 list: " + BEES)
        assert daemon.count("can't be watched") == 1
        assert daemon.seconds_of_work < 2
        assert daemon.stop() == 0


def test_removed_state_directory_is_created_again(site: Site) -> None:
    with settled(site) as daemon:
        with between_passes(site):
            gone = site.state.rename(site.directory / "gone")
            shutil.rmtree(gone)
        daemon.look()
        assert site.status()["sources"]["lists"]["state"] == "ok"
        assert daemon.count("error") == 0


def test_removed_map_directory_is_created_again(site: Site) -> None:
    with settled(site) as daemon:
        with between_passes(site):
            site.maps.rename(site.directory / "gone")
        daemon.look()
        assert site.installed("postfix_recipients").keys() == set(nine(ANTS))
        assert not site.stray()
        assert daemon.count("error") == 0


def test_read_only_map_directory_is_reported_once_and_retried(site: Site) -> None:
    """A file system that is being remounted cannot be written for a while."""
    with settled(site, preexec_fn=obey_modes) as daemon:
        site.maps.chmod(0o555)
        site.files.write(ANTS, BEES)
        daemon.wait_for(f"error: {site.maps}: Permission denied")
        daemon.wait_for_passes(daemon.passes + 1)
        assert daemon.count("Permission denied") == 1
        assert site.installed("postfix_recipients").keys() == set(nine(ANTS))
        site.maps.chmod(0o755)
        daemon.wait_for("lists: +1 list: " + BEES)
        daemon.wait_for(BACK)
        assert not site.stray()


def test_missing_postfix_configuration_is_reported_once_and_retried(site: Site) -> None:
    """Postfix has no configuration while its package is being replaced."""
    main_cf = site.config_directory / "main.cf"
    with settled(site) as daemon:
        main_cf.rename(main_cf.with_suffix(".away"))
        site.files.write(ANTS, BEES)
        daemon.wait_for(f"error: {site.config_directory}: no Postfix configuration can be read")
        daemon.wait_for_passes(daemon.passes + 1)
        assert daemon.count("no Postfix configuration") == 1
        main_cf.with_suffix(".away").rename(main_cf)
        daemon.wait_for("lists: +1 list: " + BEES)
        daemon.wait_for(BACK)


def test_sync_waits_for_the_lock_of_another_sync(site: Site) -> None:
    with settled(site) as daemon:
        with held_up_in_postmap(daemon, ANTS, BEES):
            logged = daemon.count("lists: +1 list: " + BEES)
            other = site.start("--once")
            with pytest.raises(subprocess.TimeoutExpired):
                other.communicate(timeout=1)
        _, complaint = other.communicate(timeout=60)
        assert (other.returncode, "error" in complaint) == (0, False), complaint
        daemon.wait_for("lists: +1 list: " + BEES, times=logged + 1)


def test_parameter_missing_in_main_cf_is_reported_once(
    with_ants: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = with_ants(interval="200ms")
    idle_postfix.postconf(relay_domains=f"lmdb:{site.maps}/postfix_domains")
    with settled(site) as daemon:
        daemon.wait_for_passes(daemon.passes + 3)
        warning = f"warning: main.cf: transport_maps does not name lmdb:{site.maps}/postfix_lmtp"
        assert daemon.count(warning) == 1
        hint = f"hint: postconf -c {site.config_directory} -e 'transport_maps = lmdb:{site.maps}"
        assert daemon.count(hint) == 1
        assert daemon.count("relay_domains") == 0


def test_destination_that_goes_down_and_up_is_reported_once_each(with_ants: MakeSite) -> None:
    with LmtpSink(nine(ANTS)) as sink:
        probe = {"level": "rcpt", "interval": "100ms", "timeout": "20s"}
        site = with_ants(options={"probe": probe})
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        endpoint = f"127.0.0.1:{sink.port}"

        def probed(up: bool) -> bool:
            found = site.status()["destinations"].get(endpoint)
            return bool(found and found["up"] is up)

        with settled(site) as daemon:
            wait_for(lambda: probed(True), PATIENCE, "a probe of the sink")
            assert daemon.count(f"destination {endpoint}") == 0
            sink.stop()
            daemon.wait_for(f"warning: destination {endpoint}: down: ")
            before = site.status()["updated"]
            wait_for(lambda: probed(False), PATIENCE, "a status with the destination down")
            wait_for(lambda: site.status()["updated"] > before, PATIENCE, "more probes")
            sink.start()
            daemon.wait_for(f"destination {endpoint}: up (rcpt: 250")
            before = site.status()["updated"]
            wait_for(lambda: site.status()["updated"] > before, PATIENCE, "more probes")
            assert daemon.count(f"destination {endpoint}") == 2, daemon.log


def test_quiet_daemon_logs_errors_only(site: Site) -> None:
    with settled(site, "-q") as daemon:
        site.files.write(ANTS, BEES)
        wait_for(lambda: len(site.installed("postfix_recipients")) == 18, PATIENCE, "both lists")
        assert daemon.log == ""
        with between_passes(site):
            site.files.directory.rename(site.directory / "away")
        daemon.look()
        assert [message.partition(":")[0] for message in daemon.messages] == ["error", "hint"]


def test_each_line_of_the_text_log_has_its_time(site: Site) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with settled(site) as daemon:
        with between_passes(site):
            site.files.directory.rename(site.directory / "away")
        daemon.wait_for(AWAY)
        daemon.wait_for("hint: is the volume mounted")
    for line in daemon.lines:
        when, program, _ = line.split(" ", 2)
        assert before <= datetime.fromisoformat(when) <= datetime.now(UTC)
        assert (when[-1], program) == ("Z", "postfix-sync:")


def test_each_line_of_the_json_log_is_a_document(site: Site) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with settled(site, "--log-format", "json") as daemon:
        site.files.write(ANTS, BEES)
        daemon.wait_for(BEES)
        with between_passes(site):
            site.files.directory.rename(site.directory / "away")
        daemon.wait_for(AWAY)
        site.config.write_text("{}")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("stays in use")
        entries = [json.loads(line) for line in daemon.lines]
    for entry in entries:
        assert entry.keys() - {"hint"} == {"time", "level", "message"}
        assert before <= datetime.fromisoformat(entry["time"]) <= datetime.now(UTC)
        assert entry["time"].endswith("Z")
        assert all(isinstance(value, str) and value for value in entry.values())
    hints = {(entry["level"], entry["message"]): entry.get("hint") for entry in entries}
    assert hints["info", f"lists: +1 list: {BEES}"] is None
    assert {level for level, _ in hints} == {"info", "warning", "error"}
    missing = f"{site.files.directory / 'postfix_lmtp'}: {AWAY}; the last good lists stay in use"
    assert hints["error", missing] == "is the volume mounted, and is it the source's path?"
