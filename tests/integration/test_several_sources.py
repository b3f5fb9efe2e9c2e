"""Several Mailmans in one Postfix: a source's failure does not affect the others.

All sources are local directories, Postfix is stopped, and the tests run the command as an operator
does. Other tests have sources over SSH, and real mail.
"""

import asyncio
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postfix_sync.config.reading import load
from postfix_sync.model.map_names import DOMAINS, RECIPIENTS, ROUTES
from postfix_sync.postfix.instance import fold_of
from postfix_sync.reconcile.fetch import Fetched, fetch_once, open_source
from postfix_sync.reconcile.report import Report
from postfix_sync.reconcile.sync import sync
from postfix_sync.status.file import StatusFile
from postfix_sync.status.transitions import after_sync
from postfix_sync.store.records import Records
from postfix_sync.store.state_directory import records_of
from tests.parts.common import free_port, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.disk import dead_disk
from tests.parts.kill_at import Killer
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import MailmanFiles, domains_text, lmtp_text, nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS, BEES, CATS, DOGS = (f"{name}@lists.example.net" for name in ("ants", "bees", "cats", "dogs"))
EELS = "eels@other.example"

ONE, TWO = "lmtp:[127.0.0.1]:8024", "lmtp:[127.0.0.2]:8024"


class Several:
    """A site with the sources `one` and `two`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.one = MailmanFiles(site.directory / "one")
        self.two = MailmanFiles(site.directory / "two")
        self.configure()

    def configure(self, *, probe: Any = None, **of_both: Any) -> None:
        """Set keys: `of_both` are keys of both sources, `one` and `two` have keys of one only."""
        own = {name: of_both.pop(name, {}) for name in ("one", "two")}
        sources = [
            {"name": name, "path": str(self.site.directory / name), **of_both, **own[name]}
            for name in ("one", "two")
        ]
        sources = [source for source in sources if source["path"]]
        self.site.configure(sources=sources, **({"probe": probe} if probe else {}))

    def write(self, one: list[str], two: list[str], hops: tuple[str, str] = (ONE, TWO)) -> None:
        """Write the lists of both Mailmans."""
        self.one.write(*one, hop=hops[0])
        self.two.write(*two, hop=hops[1])

    @property
    def lists(self) -> dict[str, str]:
        """Return the accepted lists, with their next hops."""
        accepted = self.site.installed(RECIPIENTS)
        routes = self.site.installed(ROUTES)
        assert accepted.keys() <= routes.keys()
        names = {key for key in accepted if "-" not in key}
        assert {address for name in names for address in nine(name)} == accepted.keys()
        return {name: routes[name] for name in sorted(names)}

    def source(self, name: str) -> dict[str, Any]:
        """Return the entry of a source in status.json."""
        found: dict[str, Any] = self.site.status()["sources"][name]
        return found

    def states(self) -> list[str]:
        """Return the states of both sources."""
        return [self.source(name)["state"] for name in ("one", "two")]


@pytest.fixture
def several(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Several:
    """Two sources that were not fetched yet; main.cf has every parameter that is needed."""
    site = make_site()
    wired = mailman_parameters(site.maps, "lmdb")
    idle_postfix.postconf(**wired, lmtp_connect_timeout="5s")
    return Several(site)


def test_two_mailmans_are_served(several: Several) -> None:
    several.write([ANTS], [BEES, EELS])
    said = several.site.once("-v")
    assert several.lists == {ANTS: ONE, BEES: TWO, EELS: TWO}
    assert set(several.site.installed(DOMAINS)) == {"lists.example.net", "other.example"}
    assert "one: +1 list: ants@lists.example.net" in said
    assert "two: +2 lists: bees@lists.example.net, eels@other.example" in said
    assert several.states() == ["ok", "ok"]
    assert (several.source("two")["lists"], several.source("two")["entries"]) == (2, 18)
    assert several.site.once() == ""


def test_only_the_changed_source_gets_a_new_last_change(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    status = several.site.status()
    for name in ("one", "two"):
        status["sources"][name]["last_change"] = "2020-01-01T00:00:00Z"
    (several.site.state / "status.json").write_text(json.dumps(status))
    several.two.write(BEES, DOGS, hop=TWO)
    assert "two: +1 list: dogs" in several.site.once("-v")
    assert several.source("one")["last_change"] == "2020-01-01T00:00:00Z"
    assert several.source("two")["last_change"] > "2026"


def test_source_out_of_reach_keeps_its_lists_and_delays_no_other(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    several.one.directory.rename(several.site.directory / "away")
    several.two.write(BEES, CATS, hop=TWO)
    for _ in range(2):
        said = several.site.once("-v", expect=75)
        missing = "one/postfix_lmtp: No such file or directory"
        assert f"{missing}; the last good lists stay in use" in said
        assert several.lists == {ANTS: ONE, BEES: TWO, CATS: TWO}
        assert several.states() == ["stale", "ok"]
    several.two.write(BEES, hop=TWO)
    several.site.once(expect=75)
    assert several.lists == {ANTS: ONE, BEES: TWO}
    assert several.source("one")["error"]["hint"].startswith("is the volume mounted")


def test_status_shows_age_of_the_lists_of_a_source_out_of_reach(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    several.one.directory.rename(several.site.directory / "away")
    several.site.once(expect=75)
    status = several.site.status()
    status["sources"]["one"]["last_success"] = "2026-01-01T00:00:00Z"
    (several.site.state / "status.json").write_text(json.dumps(status))
    shown = several.site.call("status").stdout
    assert re.search(r"^one +stale +1 +9 +\d+ d ago ", shown, re.MULTILINE), shown
    assert several.site.once(expect=75)
    assert several.source("one")["last_success"] == "2026-01-01T00:00:00Z"


def test_lists_are_kept_if_records_are_lost_while_a_source_is_away(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    for record in (several.site.state / "sources").iterdir():
        record.unlink()
    several.one.directory.rename(several.site.directory / "away")
    several.two.write(CATS, hop=TWO)
    several.site.once(expect=75)
    assert several.lists == {ANTS: ONE, BEES: TWO, CATS: TWO}
    (several.site.directory / "away").rename(several.one.directory)
    several.site.once()
    assert several.lists == {ANTS: ONE, CATS: TWO}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"peer":1,"left_out":[],"domains":{},"aliases":{},"routes":{}}',
        b'{"peer":null,"left_out":[],"domains":{},"aliases":{},"routes":{"a@b.c":[]}}',
        b'{"peer":null,"left_out":[],"domains":{},"aliases":{"a@b.c":"c@d.e"},"routes":{}}',
    ],
    ids=range(7),
)
def test_damaged_record_is_reported_and_written_again(several: Several, content: bytes) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    record = several.site.state / "sources/one.json"
    records = Records(record.parent)
    good = records.read_now("one")
    record.write_bytes(content)
    several.one.directory.rename(several.site.directory / "away")
    assert f"{record}: is not a record of a source's lists" in several.site.once(expect=75)
    assert several.lists == {ANTS: ONE, BEES: TWO}
    (several.site.directory / "away").rename(several.one.directory)
    several.site.once()
    assert records.read_now("one") == good
    assert several.site.once("-v") == ""


def test_list_of_both_sources_stays_with_its_previous_source(several: Several) -> None:
    several.write([BEES], [ANTS])
    several.site.once()
    several.write([ANTS, BEES, CATS], [ANTS, DOGS])
    for _ in range(2):
        said = several.site.once("-v", expect=65)
        assert "error: one: 1 list: ants@lists.example.net is left out: two had an address" in said
        assert several.lists == {ANTS: TWO, BEES: ONE, CATS: ONE, DOGS: TWO}
        assert several.states() == ["refused", "ok"]
        assert several.source("one")["lists"] == 2
    several.two.write(DOGS, hop=TWO)
    several.site.once()
    assert several.lists == {ANTS: ONE, BEES: ONE, CATS: ONE, DOGS: TWO}


def test_new_list_of_both_sources_is_accepted_from_the_first(several: Several) -> None:
    several.write([ANTS], [ANTS, BEES])
    several.site.once(expect=65)
    assert several.lists == {ANTS: ONE, BEES: TWO}
    several.one.directory.rename(several.site.directory / "away")
    several.site.once(expect=65)
    assert several.lists == {ANTS: ONE, BEES: TWO}


def test_guard_refuses_one_source_only(several: Several) -> None:
    many = [f"l{number}@lists.example.net" for number in range(20)]
    several.write(many, [BEES])
    several.site.once()
    several.write([ANTS], [BEES, CATS])
    said = several.site.once(expect=65)
    assert "one: 20 of 20 lists are gone" in said
    assert set(several.lists) == {*many, BEES, CATS}
    assert several.states() == ["refused", "ok"]
    several.site.once("--force")
    assert set(several.lists) == {ANTS, BEES, CATS}


def test_bad_content_refuses_one_source_only(several: Several) -> None:
    several.configure(one={"domains": ["lists.example.net"]})
    several.write([ANTS], [BEES])
    several.site.once()
    several.write([ANTS, EELS], [BEES, CATS])
    said = several.site.once(expect=65)
    assert '"other.example" is not among the domains that this source may name' in said
    assert several.lists == {ANTS: ONE, BEES: TWO, CATS: TWO}
    assert several.states() == ["refused", "ok"]


def test_lists_of_a_source_removed_from_the_configuration_are_removed(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    several.site.configure(sources=[{"name": "two", "path": str(several.two.directory)}])
    said = several.site.once("-v")
    assert "one: -1 list: ants@lists.example.net" in said
    assert several.lists == {BEES: TWO}
    assert [path.name for path in (several.site.state / "sources").iterdir()] == ["two.json"]
    assert list(several.site.status()["sources"]) == ["two"]


def test_source_renamed_while_it_is_away_keeps_its_lists(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    several.one.directory.rename(several.site.directory / "away")
    several.configure(one={"name": "new"})
    several.site.once(expect=75)
    assert several.lists == {ANTS: ONE, BEES: TWO}
    (several.site.directory / "away").rename(several.one.directory)
    several.site.once()
    assert several.lists == {ANTS: ONE, BEES: TWO}
    assert {path.name for path in (several.site.state / "sources").iterdir()} == {
        "new.json",
        "two.json",
    }


def test_each_source_has_its_own_address(several: Several) -> None:
    several.configure(one={"address": "127.0.0.3"}, two={"address": "127.0.0.4"})
    several.write([ANTS], [BEES], ("lmtp:[mm1]:8024", "lmtp:[mm2]:8024"))
    several.site.once()
    assert b"127.0.0.3\tmm1\n127.0.0.4\tmm2\n" in several.site.hosts.read_bytes()
    several.two.directory.rename(several.site.directory / "away")
    several.one.write(CATS, hop="lmtp:[mm3]:8024")
    several.site.once(expect=75)
    assert b"127.0.0.4\tmm2\n127.0.0.3\tmm3\n" in several.site.hosts.read_bytes()


def test_same_host_name_for_two_mailmans_is_refused(several: Several) -> None:
    """docker-mailman names each of its containers mailman-core."""
    several.configure(one={"address": "127.0.0.3"}, two={"address": "127.0.0.4"})
    several.write([ANTS], [BEES], ("lmtp:[mailman-core]:8024",) * 2)
    said = several.site.once(expect=65)
    assert "two: names the host mailman-core, which has the address 127.0.0.3 for one" in said
    assert (
        "hint: give two a next hop that needs no name: destination: lmtp:[127.0.0.4]:8024" in said
    )
    assert several.lists == {ANTS: "lmtp:[mailman-core]:8024"}
    several.configure(one={"address": "127.0.0.3"}, two={"destination": "lmtp:[127.0.0.4]:8024"})
    several.site.once()
    assert several.lists == {ANTS: "lmtp:[mailman-core]:8024", BEES: "lmtp:[127.0.0.4]:8024"}


def test_dry_run_writes_no_record(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.call("--once", "--dry-run")
    assert not several.site.state.exists()


def test_accepted_list_is_kept_if_the_sync_was_killed(several: Several, killer: Killer) -> None:
    """The sync is killed before each of its renames, and the list's source is away afterwards."""
    several.write([ANTS], [BEES])
    several.site.once()
    several.one.write(ANTS, CATS, hop=ONE)
    kept = several.site.directory.with_name(several.site.directory.name + ".kept")
    for part in ("state", "maps"):
        _copy(several.site.directory / part, kept / part)
    done = killer.run(several.site, "--once")
    assert done.returncode == 0, done
    moments = [int(event.split()[0]) for event in done.events if event.split()[1] == "os.rename"]
    assert len(moments) >= 4  # record, routes, recipients, status
    outcomes = set()
    for moment in moments:
        for part in ("state", "maps"):
            _copy(kept / part, several.site.directory / part)
        done = killer.run(several.site, "--once", event=moment)
        assert done.returncode == -signal.SIGKILL
        accepted = CATS in several.site.lookup(RECIPIENTS, [CATS])
        several.one.directory.rename(several.site.directory / "away")
        several.site.once(expect=75)
        found = several.lists
        assert found.items() >= {ANTS: ONE, BEES: TWO}.items()
        assert CATS in found or not accepted
        outcomes.add((accepted, CATS in found))
        (several.site.directory / "away").rename(several.one.directory)
        several.site.once()
        assert several.lists == {ANTS: ONE, BEES: TWO, CATS: ONE}
    assert (False, False) in outcomes
    assert (True, True) in outcomes


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def fetched(site: Site, name: str) -> Fetched:
    """Return what a source answers now."""
    loaded = load(site.config)
    settings = next(source for source in loaded.sources if source.name == name)

    async def fetch() -> Fetched:
        fold = await fold_of(loaded.postfix.config_directory)
        source = open_source(settings, 2**20)
        return await fetch_once(source, name, records_of(loaded), fold, loaded.policy(settings))

    return asyncio.run(fetch())


def sync_with(site: Site, **answers: Fetched) -> Report:
    """Run a sync with these answers."""
    return asyncio.run(sync(load(site.config), answers, {}))


def test_answer_older_than_the_last_sync_is_ignored(several: Several) -> None:
    """A daemon fetches; a `--once` fetches later, and ends earlier."""
    several.write([ANTS], [BEES])
    several.site.once()
    old = fetched(several.site, "one")
    several.one.write(ANTS, CATS, hop=ONE)
    several.site.once()
    report = sync_with(several.site, one=old)
    assert several.lists == {ANTS: ONE, BEES: TWO, CATS: ONE}
    assert report.sources["one"].outdated
    assert report.sources["one"].errors == ()
    assert not report.sources["two"].outdated
    again = sync_with(several.site, one=fetched(several.site, "one"))
    assert not again.sources["one"].outdated


def test_unchanged_answer_is_ignored_without_a_record(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    seen = records_of(load(several.site.config)).stamp("one")
    assert not sync_with(several.site, one=Fetched(seen, 0)).sources["one"].outdated
    (several.site.state / "sources/one.json").unlink()
    report = sync_with(several.site, one=Fetched(None, 0))
    assert report.sources["one"].outdated
    assert several.lists == {ANTS: ONE, BEES: TWO}


# Replicas with one database


def test_route_of_a_list_has_all_replicas_in_turn(several: Several) -> None:
    several.configure(cluster="mm")
    several.write([ANTS, BEES, CATS], [ANTS, BEES])
    said = several.site.once("-v")
    assert "mm: +3 lists: ants@" in said
    found = several.lists
    assert {found[ANTS], found[BEES]} <= {
        "lmtp:[127.0.0.1]:8024, [127.0.0.2]:8024",
        "lmtp:[127.0.0.2]:8024, [127.0.0.1]:8024",
    }
    assert found[CATS] == ONE
    assert several.states() == ["ok", "ok"]
    assert several.site.once() == ""


def test_lists_of_a_missing_replica_are_still_routed_to_it(several: Several) -> None:
    """Its Mailman may run although its files cannot be read."""
    several.configure(cluster="mm")
    several.write([ANTS], [ANTS])
    several.site.once()
    before = several.lists
    several.two.directory.rename(several.site.directory / "away")
    several.site.once(expect=75)
    assert several.lists == before


def test_replica_that_is_down_is_last_until_it_is_up_again(several: Several) -> None:
    with LmtpSink([ANTS, BEES]) as up, LmtpSink([ANTS, BEES], host="127.0.0.2") as down:
        hops = f"lmtp:[127.0.0.1]:{up.port}", f"lmtp:[127.0.0.2]:{down.port}"
        several.configure(cluster="mm", probe={"level": "rcpt"})
        several.write([ANTS, BEES], [ANTS, BEES], hops)
        several.site.once()
        both = several.lists
        down.stop()
        for _ in range(2):
            several.site.once(expect=69)
            assert several.lists == both
        _age(several.site)
        several.site.once(expect=69)
        assert several.site.status()["clusters"]["mm"]["last"] == [f"127.0.0.2:{down.port}"]
        several.site.once(expect=69)
        last = f"lmtp:[127.0.0.1]:{up.port}, [127.0.0.2]:{down.port}"
        assert several.lists == {ANTS: last, BEES: last}
        down.start()
        several.site.once()
        several.site.once()
        assert several.lists == {ANTS: last, BEES: last}, "it may only flap"
        _age(several.site)
        several.site.once()
        several.site.once()
        assert several.lists == both
        assert "cluster mm: 127.0.0.1:" in several.site.call("status").stdout


def _age(site: Site) -> None:
    """Change the status as if each destination had been up, or down, for hours."""
    path = site.state / "status.json"
    status = json.loads(path.read_text())
    for destination in status["destinations"].values():
        destination["since"] = "2026-01-01T00:00:00Z"
    path.write_text(json.dumps(status))


def test_replica_whose_name_does_not_resolve_is_never_last(several: Several) -> None:
    """Postfix bounces mail if the last next hop does not resolve and the others are down."""
    several.configure(cluster="mm", probe={"level": "rcpt"})
    port = free_port()
    several.write([ANTS], [ANTS], ("lmtp:[nosuch.invalid]:8024", f"lmtp:[127.0.0.1]:{port}"))
    first = f"lmtp:[nosuch.invalid]:8024, [127.0.0.1]:{port}"
    several.site.once(expect=69)
    several.site.once(expect=69)
    assert several.lists == {ANTS: first}, "though the other one is down as well"
    with LmtpSink([ANTS], port=port):
        several.site.once(expect=69)
        several.site.once(expect=69)
    assert several.lists == {ANTS: first}


def test_order_of_a_cluster_changes_during_a_hold(several: Several) -> None:
    """The order is not part of the hold, and an unresolvable name must not become the last one."""
    several.configure(cluster="mm", probe={"level": "rcpt"})
    port = free_port()
    with LmtpSink([ANTS, BEES], port=port) as sink, LmtpSink([ANTS, BEES], host="127.0.0.2") as two:
        hops = f"lmtp:[127.0.0.1]:{sink.port}", f"lmtp:[127.0.0.2]:{two.port}"
        several.write([ANTS], [ANTS], hops)
        several.site.once()
        several.write([ANTS, BEES], [ANTS, BEES], hops)
        several.site.once()
        assert several.site.call("rollback", "1").returncode == 0
        first, *_ = several.lists[ANTS].removeprefix("lmtp:").split(", ")
        (sink if first == f"[127.0.0.1]:{sink.port}" else two).stop()
        several.site.once(expect=69)
        several.site.once(expect=69)
        _age(several.site)
        several.site.once(expect=69)
        assert "pending: +1 list: bees@" in several.site.once(expect=69)
        [(name, route)] = several.lists.items()
        assert (name, route.rpartition(", ")[2]) == (ANTS, first)
        status = several.site.status()
        assert (status["generation"], status["held"]) == (1, True)


def test_status_of_a_source_without_an_answer_is_unchanged(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    several.one.directory.rename(several.site.directory / "away")
    several.site.once(expect=75)
    before = several.source("one")
    report = sync_with(several.site, two=fetched(several.site, "two"))
    assert report.errors == ()
    assert report.sources["one"].answered_at is None
    configuration = load(several.site.config)
    old = StatusFile.of(configuration).read()
    found = after_sync(old, configuration, report, now=2e9)["sources"]
    assert found["one"] == before
    assert found["two"]["state"] == "ok"
    assert (found["two"]["last_success"] or "") < "2033", (
        "when it answered, not when that was noted"
    )


def test_maps_are_unchanged_if_the_lists_to_keep_are_unknown(several: Several) -> None:
    """A map's text and a source's record are lost: neither has the lists to keep."""
    several.write([ANTS], [BEES])
    several.site.once()
    (several.site.maps / ROUTES).write_bytes(b"")
    (several.site.state / "sources/two.json").unlink()
    several.two.directory.rename(several.site.directory / "away")
    said = several.site.once(expect=1)
    assert (
        f"{several.site.maps / ROUTES}: can't be read, and there are no last good lists of two"
        in said
    )
    (several.site.directory / "away").rename(several.two.directory)
    several.site.once()
    assert several.lists == {ANTS: ONE, BEES: TWO}


def test_daemon_changes_the_order_automatically(several: Several) -> None:
    with LmtpSink([ANTS], host="127.0.0.1") as one, LmtpSink([ANTS], host="127.0.0.2") as two:
        hops = f"lmtp:[127.0.0.1]:{one.port}", f"lmtp:[127.0.0.2]:{two.port}"
        several.configure(cluster="mm", probe={"level": "rcpt", "interval": "100ms"})
        several.write([ANTS], [ANTS], hops)
        with RunningDaemon(several.site) as daemon:
            daemon.wait_for("+1 list")
            wait_for(lambda: len(several.site.status()["destinations"]) == 2, 20, "probes")
            order = [one, two] if several.lists[ANTS].startswith("lmtp:[127.0.0.1]") else [two, one]
            hop, other = (f"[{sink.host}]:{sink.port}" for sink in order)
            order[0].stop()
            wait_for(
                lambda: (
                    not several.site.status()["destinations"][f"{order[0].host}:{order[0].port}"][
                        "up"
                    ]
                ),
                20,
                "an outage",
            )
            assert daemon.stop() == 0
        _age(several.site)
        with RunningDaemon(several.site) as daemon:
            daemon.wait_for(f"mm: ~1 list: {ANTS} -> lmtp:{other}, {hop}")
            assert daemon.stop() == 0


def test_lmtp_connect_timeout_without_limit_is_reported_for_a_cluster(
    several: Several, idle_postfix: PostfixInstance
) -> None:
    several.configure(cluster="mm")
    several.write([ANTS], [ANTS])
    assert several.site.once() == ""
    idle_postfix.postconf(lmtp_connect_timeout="0s")
    said = several.site.once()
    assert "lmtp_connect_timeout = 0s: while a member of a cluster drops packets" in said
    assert f"postconf -c {idle_postfix.config_directory} -e 'lmtp_connect_timeout = 5s'" in said


# The daemon


def test_daemon_applies_changes_of_each_source(several: Several) -> None:
    several.write([ANTS], [BEES])
    with RunningDaemon(several.site) as daemon:
        daemon.wait_for("one: +1 list: ants")
        daemon.wait_for("two: +1 list: bees")
        several.one.directory.rename(several.site.directory / "away")
        daemon.wait_for("one/postfix_lmtp: No such file or directory")
        several.two.write(BEES, CATS, hop=TWO)
        daemon.wait_for("two: +1 list: cats")
        assert several.lists == {ANTS: ONE, BEES: TWO, CATS: TWO}
        (several.site.directory / "away").rename(several.one.directory)
        daemon.wait_for("one: recovered")
        several.one.write(ANTS, DOGS, hop=ONE)
        daemon.wait_for("one: +1 list: dogs")
        assert daemon.count("No such file or directory") == 1
        assert daemon.stop() == 0


@pytest.mark.usefixtures("fuse")
def test_source_whose_disk_fails_while_watched_delays_no_other(several: Several) -> None:
    """The daemon checks the directory once a second; on a dead disk, the check never ends."""
    several.write([ANTS], [BEES])
    with RunningDaemon(several.site) as daemon:
        daemon.wait_until_it_watches()
        daemon.rest()
        with dead_disk(several.one.directory):
            daemon.rest()  # the check of the directory has begun
            several.two.write(BEES, CATS, hop=TWO)
            daemon.wait_for("two: +1 list: cats")
            assert several.lists == {ANTS: ONE, BEES: TWO, CATS: TWO}
            assert daemon.stop() == 0


@pytest.mark.usefixtures("fuse")
def test_source_on_a_dead_disk_at_the_start_delays_no_other(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    with dead_disk(several.one.directory), RunningDaemon(several.site) as daemon:
        daemon.wait_for_passes(1)
        several.two.write(BEES, CATS, hop=TWO)
        daemon.wait_for("two: +1 list: cats")
        assert several.lists == {ANTS: ONE, BEES: TWO, CATS: TWO}
        assert daemon.stop() == 0


def test_daemon_reports_a_conflict_once(several: Several) -> None:
    several.configure(interval="200ms")
    several.write([ANTS], [BEES])
    several.site.once()
    several.write([ANTS], [ANTS, BEES])
    with RunningDaemon(several.site) as daemon:
        daemon.wait_for("two: 1 list: ants@lists.example.net is left out")
        daemon.wait_for_passes(daemon.passes + 3)
        assert daemon.count("is left out") == 1
        several.one.put(ROUTES, lmtp_text([CATS], ONE))
        several.one.put(DOMAINS, domains_text({"lists.example.net": "lists.example.net"}))
        daemon.wait_for("two: recovered")
        assert several.lists == {ANTS: TWO, BEES: TWO, CATS: ONE}
        assert daemon.stop() == 0


def test_daemon_starts_with_the_last_good_lists(several: Several) -> None:
    several.write([ANTS], [BEES])
    several.site.once()
    several.one.directory.rename(several.site.directory / "away")
    several.two.directory.rename(several.site.directory / "away2")
    began = time.monotonic()
    with RunningDaemon(several.site) as daemon:
        daemon.wait_for_passes(1)
        assert time.monotonic() - began < 20
        assert several.lists == {ANTS: ONE, BEES: TWO}
        assert daemon.stop() == 0
