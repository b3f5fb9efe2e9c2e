"""status.json, for monitoring, and `postfix-sync status`, for people.

Both must be correct at any time, after any failure and after a restart.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from postfix_sync import __version__
from postfix_sync.store.state_directory import ONCE_LOCK_NAME
from tests.parts.common import PATIENCE, free_port, wait_for
from tests.parts.daemon import RunningDaemon, install, obey_modes
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import nine
from tests.parts.site import STATE, Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that keeps maps that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def with_ants(make_site: MakeSite, template: Path) -> MakeSite:
    """Return a function like make_site for sites with one list, in the source and in the maps."""

    def make(interval: str = "1h", **others: object) -> Site:
        site = make_site("lmdb", source={"interval": interval}, **others)
        return install(site, ANTS, template=template)

    return make


@pytest.fixture
def site(with_ants: MakeSite) -> Site:
    """One list, installed; no probes."""
    return with_ants()


def moment(text: str) -> datetime:
    """Parse a time of the status, which must be ISO 8601 in UTC, and recent."""
    assert ISO.fullmatch(text), text
    found = datetime.fromisoformat(text)
    assert abs(datetime.now(UTC) - found) < timedelta(minutes=10)
    return found


def make_old(site: Site, seconds: int = 100) -> None:
    """Set all times of the status back, so that a new time differs from them."""
    path = site.state / "status.json"
    past = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = site.directory / "status.old"
    old.write_text(ISO.sub(past, path.read_text()))
    old.rename(path)  # a daemon may be reading


def source_of(site: Site) -> dict[str, Any]:
    """Return the status of the only source."""
    found: dict[str, Any] = site.status()["sources"]["lists"]
    return found


def test_status_has_the_documented_keys_and_types(with_ants: MakeSite) -> None:
    with LmtpSink([ANTS]) as sink:
        site = with_ants(options={"probe": {"level": "rcpt"}})
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        site.once()
        found = site.status()
        endpoint = f"127.0.0.1:{sink.port}"
    keys = {"version", "updated", "sources", "maps", "destinations", "clusters", "passes", "queue"}
    assert found.keys() == keys | {"generation", "held", "held_since", "waiting"}
    assert (found["generation"], found["held"], found["held_since"]) == (2, False, None)
    assert found["waiting"] == ""
    assert found["version"] == __version__
    moment(found["updated"])
    source = found["sources"].pop("lists")
    assert not found["sources"]
    assert source == {
        "state": "ok",
        "lists": 1,
        "entries": 9,
        "last_success": source["last_success"],
        "last_change": source["last_change"],
        "error": None,
        "failing_since": None,
    }
    moment(source["last_success"])
    moment(source["last_change"])
    assert {name: (map_["type"], map_["entries"]) for name, map_ in found["maps"].items()} == {
        "postfix_lmtp": ("lmdb", 9),
        "postfix_recipients": ("lmdb", 9),
        "postfix_domains": ("lmdb", 1),
        "postfix_vmap": ("lmdb", 0),
    }
    for map_ in found["maps"].values():
        assert map_.keys() == {"type", "entries", "updated"}
        moment(map_["updated"])
    probed = found["destinations"].pop(endpoint)
    assert not found["destinations"]
    assert 0 < probed.pop("seconds") < 60
    moment(probed.pop("since"))
    assert probed == {
        "up": True,
        "phase": "rcpt",
        "reply": "250 2.1.5 OK",
        "error": "",
        "failures": 0,
        "last_failure": None,
        "last_flush": None,
    }


def test_status_of_a_destination_that_is_down(with_ants: MakeSite) -> None:
    site = with_ants(options={"probe": {"level": "rcpt"}})
    port = free_port()
    site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{port}")
    site.once(expect=69)
    [(endpoint, found)] = site.status()["destinations"].items()
    assert endpoint == f"127.0.0.1:{port}"
    assert (found["up"], found["phase"], found["reply"]) == (False, "connect", "")
    assert found["error"] == "Connection refused"
    assert source_of(site)["state"] == "ok"


def test_status_of_a_version_without_failure_counts_is_read(with_ants: MakeSite) -> None:
    """A destination that was down in it is due for a flush."""
    site = with_ants()
    site.once()
    status = site.status()
    old = {"since": "2026-01-01T00:00:00Z", "phase": "rcpt", "reply": "", "seconds": 1, "error": ""}
    status["destinations"] = {"up:8024": {**old, "up": True}, "down:8024": {**old, "up": False}}
    (site.state / "status.json").write_text(json.dumps(status))
    found = json.loads(site.call("status", "--json").stdout)["destinations"]
    counted = {
        name: (destination["failures"], destination["last_failure"])
        for name, destination in found.items()
    }
    assert counted == {"up:8024": (0, None), "down:8024": (1, old["since"])}
    assert [destination["last_flush"] for destination in found.values()] == [None, None]


def test_since_is_kept_until_the_state_changes(with_ants: MakeSite) -> None:
    """It is kept over probes and restarts, whether a daemon or a --once probes."""
    with LmtpSink([ANTS]) as sink:
        probe = {"level": "rcpt", "interval": "100ms", "timeout": "20s"}
        site = with_ants(options={"probe": probe})
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        site.once()
        make_old(site)

        def found() -> dict[str, Any]:
            destination: dict[str, Any] = site.status()["destinations"][f"127.0.0.1:{sink.port}"]
            return destination

        long_ago = found()["since"]
        for _ in range(2):
            with RunningDaemon(site) as daemon:
                before = site.status()["updated"]
                wait_for(lambda: site.status()["updated"] > before, PATIENCE, "a probe")  # noqa: B023 - called at once
                assert (found()["up"], found()["since"]) == (True, long_ago)
                assert daemon.stop() == 0
        site.once()
        assert (found()["up"], found()["since"]) == (True, long_ago)
        sink.stop()
        site.once(expect=69)
        assert found()["up"] is False
        assert datetime.now(UTC) - moment(found()["since"]) < timedelta(seconds=20)


def test_each_state_of_a_source_keeps_its_last_success_and_last_change(site: Site) -> None:
    """Only a change sets last_change, only a success last_success; lists are those in use."""
    site.once()
    assert source_of(site)["last_change"] is None, "nothing was changed yet"
    site.files.write(ANTS, BEES)
    site.once()
    make_old(site)
    long_ago = source_of(site)["last_change"]

    site.once()
    now_ok = source_of(site)
    assert (now_ok["state"], now_ok["last_change"], now_ok["lists"]) == ("ok", long_ago, 2)
    assert moment(now_ok["last_success"]) > moment(long_ago)
    make_old(site)
    success = source_of(site)["last_success"]

    def expect(state: str, message: str, hint: str) -> None:
        found = source_of(site)
        assert (found["state"], found["lists"], found["entries"]) == (state, 2, 18)
        assert (found["last_success"], found["last_change"]) == (success, success)
        assert found["error"].keys() == {"message", "hint"}
        assert message in found["error"]["message"]
        assert hint in found["error"]["hint"]
        assert moment(site.status()["updated"]) > moment(success)

    away = site.directory / "away"
    site.files.directory.rename(away)
    site.once(expect=75)
    missing = "No such file or directory; the last good lists stay in use"
    expect("stale", missing, "is the volume mounted")
    away.rename(site.files.directory)

    site.files.write()
    site.once(expect=65)
    expect("refused", "lists: ", "--force")

    site.files.write(ANTS, BEES, "cats@lists.example.net")
    site.maps.chmod(0o555)
    with site.start("--once", preexec_fn=obey_modes) as process:
        process.communicate(timeout=60)
    assert process.returncode == 77
    expect("failed", f"{site.maps}: Permission denied", f"namei -l {site.maps}")

    site.maps.chmod(0o755)
    site.once()
    found = source_of(site)
    assert (found["state"], found["lists"], found["error"]) == ("ok", 3, None)
    assert found["last_success"] == found["last_change"] > success


@contextmanager
def read_all_the_time(path: Path) -> Iterator[list[str]]:
    """Read a file repeatedly; yield the list of contents that were not a whole document."""
    broken: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            text = path.read_text()
            try:
                json.loads(text)
            except ValueError:
                broken.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield broken
    finally:
        ended.set()
        reader.join()


def test_reader_never_sees_a_partial_document(with_ants: MakeSite) -> None:
    site = with_ants(interval="50ms")
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        with (site.state / "status.json").open() as first:
            with read_all_the_time(site.state / "status.json") as broken:
                daemon.wait_for_passes(daemon.passes + 10)
            assert os.fstat(first.fileno()).st_nlink == 0, "it was written to, not replaced"
        assert broken == []
        assert daemon.stop() == 0
    assert {path.name for path in site.state.iterdir()} == {*STATE} - {ONCE_LOCK_NAME}


def test_idle_daemon_updates_the_status(with_ants: MakeSite) -> None:
    """A sync without a change updates the status as well: monitoring checks its `updated`."""
    site = with_ants(interval="300ms")
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        make_old(site)
        change = source_of(site)["last_change"]
        daemon.wait_for_passes(daemon.passes + 2)
        assert datetime.now(UTC) - moment(site.status()["updated"]) < timedelta(seconds=20)
        success = moment(source_of(site)["last_success"])
        assert datetime.now(UTC) - success < timedelta(seconds=20)
        assert source_of(site)["last_change"] == change


ALMOST = b'{"sources":{},"maps":{},"destinations":{},'

GARBAGE = {
    "empty": b"",
    "cut off": b'{"version": "0.1.0", "upda',
    "no JSON": b"\xff\xfe\0 status",
    "a list": b"[]",
    "other keys": b'{"hosts": {}}',
    "other types": b'{"version":1,"updated":2,"sources":[],"maps":[],"destinations":[]}',
    "other types below": b'{"version":"","updated":"","sources":{"lists":5},"maps":{"m":1},'
    b'"destinations":{"127.0.0.1:8024":{}}}',
    "nested": b"[" * 100_000,
    "a time that is none": ALMOST + b'"version":"","updated":"yesterday"}',
    "a time of no calendar": ALMOST + b'"version":"","updated":"2026-02-30T00:00:00Z","held":true}',
    "a time below": ALMOST + b'"version":"","updated":"2026-11-24T00:00:00Z",'
    b'"clusters":{"c":{"destinations":[],"last":[],"nameless":[],"changed":""}}}',
    "half a character": ALMOST + b'"version":"\\ud800","updated":"2026-11-24T00:00:00Z"}',
    "no number": ALMOST + b'"version":"","updated":"2026-11-24T00:00:00Z","passes":{'
    b'"last_attempt":null,"last_success":null,"failing_since":null,"error":null,"seconds":NaN,'
    b'"made":0,"failed":0,"reloads":0,"entries":{}}}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_damaged_status_is_replaced(site: Site, name: str) -> None:
    """An editor or a later version may write it; a sync can restore all that is in it."""
    site.state.mkdir()
    (site.state / "status.json").write_bytes(GARBAGE[name])
    site.once()
    assert source_of(site)["state"] == "ok"
    assert source_of(site)["lists"] == 1


@pytest.mark.parametrize("name", GARBAGE)
def test_damaged_status_is_reported(site: Site, name: str) -> None:
    site.configure()
    site.state.mkdir()
    (site.state / "status.json").write_bytes(GARBAGE[name])
    done = site.call("status")
    assert (done.returncode, done.stdout) == (75, ""), done
    assert done.stderr.startswith(
        f"postfix-sync: error: {site.state / 'status.json'}: is not a status file: "
    )
    assert done.stderr.endswith(f"hint: run a sync: postfix-sync -c {site.config} --once\n")


def test_daemon_continues_after_the_status_is_damaged(site: Site) -> None:
    """The file is damaged while the daemon runs."""
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        (site.state / "status.json").write_bytes(GARBAGE["other types below"])
        site.files.write(ANTS, BEES)
        daemon.wait_for(BEES)
        daemon.look()
        assert source_of(site)["lists"] == 2


def test_status_output_as_text(with_ants: MakeSite) -> None:
    with LmtpSink([ANTS]) as sink:
        site = with_ants(options={"probe": {"level": "rcpt"}})
        refused = free_port()
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        site.once()
        text = (site.files.directory / "postfix_lmtp").read_text()
        site.files.write(BEES, hop=f"lmtp:[127.0.0.1]:{refused}")
        other = (site.files.directory / "postfix_lmtp").read_text()
        site.files.put("postfix_lmtp", text + other)
        site.once(expect=69)
        site.files.directory.rename(site.directory / "away")
        site.once(expect=75)
        done = site.run("status", environment={"COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, "")
    routes = site.files.directory / "postfix_lmtp"
    time_ = ISO.pattern
    age = r"\d+ (s|min) ago"
    expected = [
        rf"postfix-sync {re.escape(__version__)}, as of {time_}, {age}",
        "generation 3",
        "",
        "source  state  lists  addresses  last success  last change",
        rf"lists   stale      2         18  {age} +{age}",
        rf"  {routes}: No such file or directory; the last good lists stay in use",
        r"  hint: is the volume mounted, and is it the source's path\?",
        "",
        "map                 type  entries  updated",
        rf"postfix_lmtp        lmdb       18  {age}",
        rf"postfix_recipients  lmdb       18  {age}",
        rf"postfix_domains     lmdb        1  {age}",
        rf"postfix_vmap        lmdb        0  {age}",
        "",
        r"destination +state  for +phase +seconds",
    ]
    unwrapped = done.stdout.replace("stay in\n  use\n", "stay in use\n")
    lines = unwrapped.splitlines()
    for line, pattern in zip(lines, expected, strict=False):
        assert re.fullmatch(pattern, line), (pattern, done.stdout)
    rest = [" ".join(line.split()) for line in lines[len(expected) :]]
    ours = dict(zip(rest[::2], rest[1::2], strict=True))
    assert set(ours.values()) == {"250 2.1.5 OK", "Connection refused"}
    for line, reply in ours.items():
        if reply == "Connection refused":
            assert re.fullmatch(rf"127\.0\.0\.1:{refused} DOWN \d+ s connect [\d.e-]+", line)
        else:
            assert re.fullmatch(rf"127\.0\.0\.1:{sink.port} up \d+ s rcpt [\d.]+", line)


def test_status_as_json_is_the_content_of_the_file(site: Site) -> None:
    site.once()
    done = site.call("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == site.status()


def test_status_before_the_first_sync_is_an_error(site: Site) -> None:
    site.configure()
    for arguments in (["status"], ["status", "--json"]):
        done = site.call(*arguments)
        assert (done.returncode, done.stdout) == (75, "")
        assert done.stderr == (
            f"postfix-sync: error: {site.state / 'status.json'}: No such file or directory: no sync"
            " has been run yet\n"
            f"postfix-sync: hint: run one: postfix-sync -c {site.config} --once\n"
        )
    assert not site.state.exists()


def test_unreadable_status_is_reported(site: Site) -> None:
    site.once()
    (site.state / "status.json").chmod(0)
    process = site.start("status", preexec_fn=obey_modes)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 77
    assert complaint.startswith(f"postfix-sync: error: {site.state / 'status.json'}: Permission")


def test_status_is_readable_for_all_users(site: Site) -> None:
    site.once()
    assert (site.state / "status.json").stat().st_mode & 0o777 == 0o644
    assert site.state.stat().st_mode & 0o055 == 0o055
    assert os.access(site.state / "status.json", os.R_OK)


def test_maps_have_the_time_of_their_last_publication(site: Site) -> None:
    long_ago = time.time() - 100
    for path in site.maps.iterdir():
        os.utime(path, (long_ago, long_ago))
    site.once()
    before = site.status()["maps"]
    assert before["postfix_lmtp"]["updated"] < site.status()["updated"]
    site.files.write(ANTS, BEES)
    site.once()
    after = site.status()["maps"]
    assert after["postfix_lmtp"]["updated"] > before["postfix_lmtp"]["updated"]
    assert after["postfix_domains"] == before["postfix_domains"]
    assert site.installed("postfix_recipients").keys() == {*nine(ANTS), *nine(BEES)}
