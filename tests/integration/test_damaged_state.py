"""Damaged files of the state directory are reported, and no sync ends in a traceback.

After a sync, everything is in step again. Only a damaged file that holds a generation stays until
an operator runs `resume`.
"""

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postfix_sync.cli import output
from postfix_sync.cli.terminal import Terminal
from postfix_sync.config.reading import load
from postfix_sync.config.schema import Config
from postfix_sync.errors import SyncError
from postfix_sync.model.destination import Destination, Peer
from postfix_sync.model.map_names import RECIPIENTS
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.model.source import MailmanTables, Record
from postfix_sync.monitoring import health, metrics
from postfix_sync.postfix.instance import inspect
from postfix_sync.probe.flush import due, due_in
from postfix_sync.reconcile.once import once
from postfix_sync.reconcile.report import Report, Request
from postfix_sync.setup.main_cf_file import MainCf
from postfix_sync.setup.steps import Change, Step, to_json
from postfix_sync.status.file import StatusFile
from postfix_sync.status.transitions import (
    after_flush,
    after_probes,
    after_sync,
    doubted,
    due_early,
    rankings,
)
from postfix_sync.store.state_directory import generations_of, hold_file_of, records_of
from tests.parts.mailman_files import nine
from tests.parts.odd_json import ODD_FILES, dump, json_values, mutated
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import STATE, Site

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
HOP = "lmtp:[127.0.0.1]:8024"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture
def site(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Site:
    """Two lists, installed; one earlier generation."""
    site = make_site()
    idle_postfix.postconf(**mailman_parameters(site.maps, site.map_type))
    for lists in ((ANTS,), (ANTS, BEES)):
        site.files.write(*lists, hop=HOP)
        assert site.once() == ""
    return site


def in_step(site: Site) -> bool:
    both = {*nine(ANTS), *nine(BEES)}
    return site.installed(RECIPIENTS).keys() == both and site.state_files == STATE


# --- the command


@pytest.mark.parametrize("odd", ODD_FILES)
def test_damaged_copy_of_the_texts_is_written_again_in_silence(site: Site, odd: str) -> None:
    path = site.state / "texts.json"
    _, tables = path.read_bytes().split(b"\n", 1)
    path.write_bytes(ODD_FILES[odd])
    assert site.once() == ""
    assert in_step(site)
    assert path.read_bytes().split(b"\n", 1)[1] == tables


def test_copy_of_the_texts_that_differs_from_them_does_not_count(site: Site) -> None:
    """It is read only if its checksum is right, and only for texts of the noted version."""
    path = site.state / "texts.json"
    header, tables = path.read_bytes().split(b"\n", 1)
    path.write_bytes(header + b"\n" + tables.replace(b"ants", b"wasp"))
    assert site.once() == ""
    assert in_step(site)
    text = site.maps / RECIPIENTS
    edited = text.read_bytes().replace(b"ants", b"wasp")
    assert len(edited) == text.stat().st_size
    kept = text.stat()
    text.write_bytes(edited)
    os.utime(text, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    site.once()
    assert in_step(site)


@pytest.mark.parametrize("odd", ODD_FILES)
@pytest.mark.parametrize("name", ["installed.json", "status.json", "sources/lists.json"])
def test_damaged_file_is_reported_once_and_written_again(site: Site, name: str, odd: str) -> None:
    path = site.state / name
    path.write_bytes(ODD_FILES[odd])
    said = site.once()
    [warning] = said.splitlines()
    assert warning.startswith(f"postfix-sync: warning: {path}: is ")
    assert in_step(site)
    assert site.once() == ""
    assert site.status()["generation"] == 2


@pytest.mark.parametrize("odd", ODD_FILES)
def test_damaged_hold_stops_syncs_until_resume(site: Site, odd: str) -> None:
    path = site.state / "held.json"
    path.write_bytes(ODD_FILES[odd])
    site.files.write(ANTS, hop=HOP)
    said = site.once(expect=1)
    assert f"{path}: can't be read" in said
    assert "Traceback" not in said
    site.files.write(ANTS, BEES, hop=HOP)
    assert site.call("resume").returncode == 0
    assert in_step(site)


@pytest.mark.parametrize("odd", ODD_FILES)
def test_damaged_generation_prevents_no_sync(site: Site, odd: str) -> None:
    for number, content in ((1, ODD_FILES[odd]), (2, gzip.compress(ODD_FILES[odd] + b"\n{}"))):
        (site.state / f"generations/{number}.json.gz").write_bytes(content)
    done = site.call("rollback")
    assert done.returncode == 0
    assert done.stderr.count(": is damaged, so generation ") == 2
    assert site.once() == ""
    assert in_step(site)
    site.files.write(BEES, hop=HOP)
    assert site.once() == ""
    assert site.status()["generation"] == 3


def test_generation_files_without_a_valid_number_prevent_no_sync(site: Site) -> None:
    for name in ("9" * 200, "1٣", "1e3", "0"):
        (site.state / f"generations/{name}.json.gz").write_bytes(b"")
    site.files.write(BEES, hop=HOP)
    assert site.once() == ""
    assert site.status()["generation"] == 3
    assert site.call("rollback", "1").returncode == 0


@pytest.mark.parametrize("seconds", [-(10**9), 10**12])
def test_file_times_outside_the_calendar_prevent_no_sync(site: Site, seconds: int) -> None:
    held, kept = site.state / "held.json", site.state / "generations/1.json.gz"
    held.write_bytes(b"null")
    paths = [*site.maps.iterdir(), held, kept, site.state / "status.json"]
    for path in paths:
        os.utime(path, (seconds, seconds))
    if kept.stat().st_mtime != seconds:
        pytest.skip("no such times on this file system")
    site.once(expect=1)
    assert site.call("rollback").returncode == 0
    assert site.call("status").returncode == 0
    assert site.call("resume").returncode == 0
    assert in_step(site)


@pytest.mark.parametrize("name", ["reload", "postfix_lmtp", "postfix_lmtp.lmdb"])
def test_directories_in_place_of_staged_files_prevent_no_sync(site: Site, name: str) -> None:
    (site.maps / ".staging" / name / "deeper").mkdir(parents=True)
    assert site.once() == ""
    (site.maps / ".staging" / name / "deeper").mkdir(parents=True)
    site.files.write(BEES, hop=HOP)
    assert site.once() == ""
    assert site.installed(RECIPIENTS).keys() == set(nine(BEES))
    assert site.stray() == set()


def test_file_in_place_of_the_staging_directory_prevents_no_sync(site: Site) -> None:
    (site.maps / ".staging").write_bytes(b"")
    site.files.write(BEES, hop=HOP)
    assert site.once() == ""
    assert site.installed(RECIPIENTS).keys() == set(nine(BEES))
    assert site.stray() == set()


# --- any mutation


def documents(site: Site) -> dict[str, Any]:
    """Return the files as documents that have every key."""
    configuration = load(site.config)
    record = Record(
        MailmanTables.of(dict.fromkeys(nine(ANTS), HOP), {"lists.example.net": "x"}, {"a@b": ANTS}),
        Peer(("10.0.0.1",), {8024: Destination("127.0.0.1", 24)}),
        frozenset({BEES}),
    )
    asyncio.run(records_of(configuration).write("full", record))
    full = site.state / "sources/full.json"
    found = {
        "installed.json": json.loads((site.state / "installed.json").read_bytes()),
        "held.json": {"generation": 1, "since": 1.5, "before": 2},
        "status.json": full_status(configuration),
        "sources/lists.json": json.loads(full.read_bytes()),
    }
    full.unlink()
    return found


def full_status(configuration: Config) -> Any:
    moment = "2026-11-27T10:00:00Z"
    error = {"message": "m", "hint": "h"}
    status = StatusFile.of(configuration).read()
    document: Any = json.loads(json.dumps(status))
    document["destinations"] = {
        "127.0.0.1:8024": {
            "up": False,
            "since": moment,
            "phase": "rcpt",
            "reply": "",
            "seconds": 0.5,
            "error": "e",
            "failures": 1,
            "last_failure": moment,
            "last_flush": moment,
        }
    }
    members = ["127.0.0.1:8024"]
    cluster = {"destinations": members, "last": members, "nameless": [], "changed": moment}
    document["clusters"] = {"both": cluster}
    document["queue"] = {"127.0.0.1:8024": {"messages": 1, "oldest": moment}}
    document["sources"]["lists"]["error"] = error
    document["passes"]["error"] = error
    document["passes"]["failing_since"] = moment
    return document


def use_status(configuration: Config) -> None:
    """Call every function that reads a status."""
    found = StatusFile.of(configuration).read_or_new()
    now = time.time()
    output.status(found, now, Terminal())
    metrics.render(found)
    health.ailments(found, {"lists": 60.0}, 60.0, now, now)
    rankings(found)
    due(found, now)
    due_in(found, now)
    doubted(found)
    due_early(found)
    destination = Destination("127.0.0.1", 8024)
    probed = ProbeResult(destination, up=False, phase="resolve", reply="", seconds=1, error="x")
    for change in (
        partial(after_sync, config=configuration, report=Report(), now=now),
        partial(after_probes, results=[probed], now=now),
        partial(after_flush, endpoints=[destination.endpoint], began=now),
    ):
        json.dumps(change(found), allow_nan=False)


def use_all(site: Site, configuration: Config) -> None:
    """Call each reader of a file of the state directory, as syncs and commands call it."""
    generations = generations_of(configuration)
    generations.damage()
    generations.installed({"postfix_lmtp": (1, 1)})
    hold = hold_file_of(configuration).read()
    if hold:
        str(hold)
        with contextlib.suppress(SyncError):
            asyncio.run(generations.load_held(hold))
        asyncio.run(generations.restored(hold))
    with contextlib.suppress(SyncError):
        asyncio.run(records_of(configuration).read("lists"))
    use_status(configuration)


@pytest.mark.parametrize(
    "name", ["installed.json", "held.json", "status.json", "sources/lists.json"]
)
def test_readers_of_damaged_files_raise_sync_errors_only(site: Site, name: str) -> None:
    configuration = load(site.config)
    path = site.state / name
    for document in mutated(documents(site)[name]):
        path.write_bytes(dump(document))
        use_all(site, configuration)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary() | json_values.map(dump))
    def any_content(content: bytes) -> None:
        path.write_bytes(content)
        use_all(site, configuration)

    any_content()


def test_sync_with_mutated_files_ends_in_step(site: Site) -> None:
    """A record of other lists is valid; a guard may then refuse a change until it is forced."""
    found = documents(site)
    found.pop("held.json")
    every = [(name, dump(document)) for name, whole in found.items() for document in mutated(whole)]
    answers = load(site.config)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(every))
    def one_pass(mutation: tuple[str, bytes]) -> None:
        name, content = mutation
        (site.state / name).write_bytes(content)
        report = asyncio.run(once(answers, {}))
        assert in_step(site)
        report = asyncio.run(once(answers, {}, Request(force=True)))
        assert (report.errors, report.notices) == ((), ())

    one_pass()


def kept(tables: bytes, hosts: Any, digest: Any = None) -> bytes:
    header = {"sha256": digest or hashlib.sha256(tables).hexdigest(), "hosts": hosts}
    return gzip.compress(dump(header) + b"\n" + tables)


def odd_generations() -> Iterator[bytes]:
    """Files whose checksum is right, but whose content is not valid."""
    content = {
        "routes": {HOP: nine(ANTS)},
        "domains": {"lists.example.net": "x"},
        "aliases": {"a@b": ANTS},
    }
    for document in mutated(content):
        yield kept(dump(document), {"mailman": "127.0.0.1"})
    for odd in ODD_FILES.values():
        yield kept(odd, {})
    for document in mutated({"sha256": "0", "hosts": {"mailman": "127.0.0.1"}}):
        yield gzip.compress(dump(document) + b"\n" + dump(content))


def test_damaged_generations_raise_sync_errors_only(site: Site) -> None:
    generations = generations_of(load(site.config))
    path = generations.path(1)
    refused = 0
    for content in odd_generations():
        path.write_bytes(content)
        generations._digest(1)
        with contextlib.suppress(SyncError):
            asyncio.run(generations.load(1))
            continue
        refused += 1
    assert refused > 100


STEP = Step("before\n", "after\n", (Change("relay_domains", None, "x", "d", "why"),), True)


def odd_records() -> Iterable[bytes]:
    yield from ODD_FILES.values()
    yield from map(dump, mutated(json.loads(to_json([STEP, STEP]))))


def test_damaged_record_of_setup_is_reported(site: Site, idle_postfix: PostfixInstance) -> None:
    """The content of an accepted record can be written to main.cf, and passed to postconf(1)."""
    instance = asyncio.run(inspect(idle_postfix.config_directory))
    main_cf = MainCf(instance, site.state / "setup", "doctor")
    main_cf.remember([STEP])
    path = main_cf.directory / "record.json"
    refused = 0
    for content in odd_records():
        path.write_bytes(content)
        with contextlib.suppress(SyncError):
            for step in main_cf.steps():
                (step.before + step.after).encode("latin-1")
                values = [
                    value for change in step.changes for value in (change.before, change.after)
                ]
                assert not any("\0" in (value or "") for value in values)
                for change in step.changes:
                    change.reversed("y")
            continue
        refused += 1
    assert refused > 100
    path.write_bytes(b"null")
    done = site.call("setup", "--undo", "--yes")
    assert done.returncode == 1
    assert f"{path}: is no record" in done.stderr
