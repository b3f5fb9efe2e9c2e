"""No message is bounced, refused or lost because the maps change while mail flows.

Fifty messages a second and more go to a list that is being created, to one that exists and to one
that is being removed, each over a new SMTP connection, for 20 s around the change. Every message
that Postfix accepted must have been delivered by LMTP or, for the removed list, been refused there;
and nobody may see a 4xx. What Mailman does without postfix-sync (postmap in place) loses mail under
this very load: so the load finds what it is meant to find.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Measured
from tests.e2e.conftest import need_map_type, need_real_parts
from tests.parts.common import TRIES, public_directory, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.load import send
from tests.parts.postfix_instance import NO_ROUTE, mailman_parameters
from tests.parts.site import Site
from tests.scenarios.under_load import Bench, Run

NEW, KEPT, GONE = "new@lists.example.net", "kept@lists.example.net", "gone@lists.example.net"
NEW_DOMAIN, GONE_DOMAIN = "new@created.example.org", "gone@removed.example.org"

pytestmark = pytest.mark.transition

LMTP_HOST = "mailman-demo"
LMTP_ADDRESS = "127.0.0.1"

PATIENCE = 30.0

AT_LEAST = 50
"""Messages a second to each list."""

RELOADS = {"hash": 1, "lmdb": 0}
"""How often Postfix is reloaded, all in all."""

LIVE_WITHIN = 6.0
"""Seconds from Mailman's word to the first accepted message; Postfix alone takes 10 to notice."""

TURN = 1.0
"""Seconds in which Postfix's processes may differ about a list that comes or goes."""


@contextmanager
def parts(map_type: str) -> Iterator[tuple[Bench, Site]]:
    """A bench, and the postfix-sync between its files and its Postfix."""
    need_real_parts()
    with public_directory() as directory:
        bench = Bench(
            directory, mailman_parameters(directory / "maps", map_type), lmtp_host=LMTP_HOST
        )
        need_map_type(bench.postfix, map_type)
        site = Site(
            directory,
            bench.postfix.config_directory,
            map_type,
            source={"name": "lists", "address": LMTP_ADDRESS},
        )
        yield bench, site


def running(site: Site) -> RunningDaemon:
    """The daemon, after its first pass."""
    site.configure()
    daemon = RunningDaemon(site)
    try:
        daemon.wait_for_passes(1, PATIENCE)
    except BaseException:
        daemon.__exit__(*sys.exc_info())
        raise
    return daemon


def check(run: Run, *, came: str, kept: str, went: str) -> None:
    """What must be true of every run; the list that went did so with the last change."""
    assert run.lost() == []
    assert run.bounced() == []
    assert run.temporary() == []
    assert set(run.delivered.values()) == {1}, "delivered more than once"
    for recipient in (came, kept, went):
        assert run.per_second(recipient) >= AT_LEAST

    assert all(one.accepted and run.delivered[one.load_id] for one in run.to(kept))
    assert {one.recipient for one in run.accepted() if run.refused_by_lmtp(one)} <= {went}
    assert {one.last.code for one in run.sent if not one.accepted} <= {550, 554}

    begin = min(one.rcpt_time for one in run.accepted(came))
    assert begin - run.changes[0] < LIVE_WITHIN
    late = [one for one in run.to(came) if not one.accepted and one.started > begin + TURN]
    assert late == [], "the new list was refused again"

    refused = [one.rcpt_time for one in run.to(went) if not one.accepted]
    end = min(time for time in refused if time > run.changes[-1])
    late = [one for one in run.accepted(went) if one.started > end + TURN]
    assert late == [], "the removed list was accepted again"


@pytest.mark.alone
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_swaps_a_list(map_type: str, measured: Measured) -> None:
    """One list comes and one goes, in one write of Mailman's; a third is there all the time."""
    with parts(map_type) as (bench, site):
        bench.have(KEPT, GONE)
        with bench.sink, running(site) as daemon, bench.postfix:
            run = bench.load([NEW, KEPT, GONE], lambda: bench.have(NEW, KEPT))
            daemon.wait_for(f"lists: +1 list: {NEW}", PATIENCE)
            daemon.wait_for(f"lists: -1 list: {GONE}", PATIENCE)
            assert daemon.stop() == 0
        tell(measured, f"{map_type}, daemon", run, NEW)
        check(run, came=NEW, kept=KEPT, went=GONE)
        assert bench.postfix.reloads == RELOADS[map_type]


@pytest.mark.alone
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_creates_and_removes_a_list(map_type: str, measured: Measured) -> None:
    """Two lists are created under load; one of them gets mail for 5 s, and is removed again."""
    with parts(map_type) as (bench, site):
        bench.have(KEPT)
        with bench.sink, running(site) as daemon, bench.postfix:
            run = bench.load(
                [NEW, KEPT, GONE],
                lambda: bench.have(NEW, KEPT, GONE),
                lambda: bench.have(NEW, KEPT),
            )
            daemon.wait_for(f"lists: +2 lists: {GONE}, {NEW}", PATIENCE)
            daemon.wait_for(f"lists: -1 list: {GONE}", PATIENCE)
            assert daemon.stop() == 0
        tell(measured, f"{map_type}, created and removed", run, NEW)
        assert len(run.accepted(GONE)) > AT_LEAST
        check(run, came=NEW, kept=KEPT, went=GONE)
        assert bench.postfix.reloads == RELOADS[map_type]


@pytest.mark.alone
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_once_swaps_a_list_and_its_domain(map_type: str, measured: Measured) -> None:
    """As the first, by `--once`; and here the domains come and go with their only lists."""
    with parts(map_type) as (bench, site):
        bench.have(KEPT, GONE_DOMAIN)
        site.once()

        def change() -> None:
            bench.have(NEW_DOMAIN, KEPT)
            assert site.run("--once").returncode == 0

        with bench.sink, bench.postfix:
            run = bench.load([NEW_DOMAIN, KEPT, GONE_DOMAIN], change)
        tell(measured, f"{map_type}, --once", run, NEW_DOMAIN)
        check(run, came=NEW_DOMAIN, kept=KEPT, went=GONE_DOMAIN)


@pytest.mark.alone
def test_rollback_and_resume(measured: Measured) -> None:
    """An earlier state is put back and let go again: who is refused meanwhile, is told so."""
    with parts("hash") as (bench, site):
        for lists in ([KEPT], [KEPT, GONE]):
            bench.have(*lists)
            site.once()

        def command(*arguments: str) -> None:
            done = site.run(*arguments)
            assert (done.returncode, done.stderr) == (0, ""), done

        with bench.sink, bench.postfix:
            run = bench.load(
                [KEPT, GONE], lambda: command("rollback", "1"), lambda: command("resume")
            )
            assert send(bench.postfix.port, GONE).accepted
        tell(measured, "hash, rollback and resume", run, GONE)
        assert run.lost() == []
        assert run.bounced() == []
        assert run.temporary() == []
        assert set(run.delivered.values()) == {1}
        assert all(one.accepted for one in run.to(KEPT))
        refused = [one for one in run.to(GONE) if not one.accepted]
        assert {one.last.code for one in refused} == {550}


def test_removed_while_its_mail_waits() -> None:
    """The LMTP server is down, mail waits, the list goes: still it is the server that refuses."""
    # lmdb: a change of routes is seen at once, so a route that went too early is missed at once.
    with parts("lmdb") as (bench, site), bench.postfix:
        bench.have(KEPT, GONE)
        site.once()
        waiting = send(bench.postfix.port, GONE)
        assert waiting.accepted
        wait_for(bench.postfix.outcomes, PATIENCE, "a first try")
        bench.have(KEPT)
        site.once()
        assert send(bench.postfix.port, GONE).last.code == 550
        # qmgr(8) remembers the last address that it resolved: let that be another one.
        assert send(bench.postfix.port, KEPT).accepted
        wait_for(lambda: len(bench.postfix.outcomes()) > 1, PATIENCE, "a try for the other list")
        with bench.sink:
            bench.postfix.command("postqueue", "-f")
            bench.postfix.wait_for_empty_queue()
        tried, refused = (one for one in bench.postfix.outcomes() if one.recipient == GONE)
        assert (tried.status, refused.status) == ("deferred", "bounced")
        assert refused.refused_by_server
        # Nobody needs the routes any more: so the next pass takes them out.
        site.retire()
        assert GONE not in site.installed("postfix_lmtp")


@pytest.mark.alone
def test_postmap_in_place_loses_mail(measured: Measured) -> None:
    """The control: without postfix-sync, this load loses mail, so it would show a loss of ours.

    Whether a run loses any is a matter of chance (none in one run of three on a fast machine), so
    it is repeated until one does.
    """
    need_real_parts()
    for attempt in range(1, TRIES + 1):
        run = postmap_in_place()
        tell(measured, f"hash, postmap in place ({attempt})", run, NEW)
        if run.lost():
            break
    assert run.bounced()
    assert {sent.recipient for sent, _ in run.lost()} >= {NEW}
    assert all(outcome and NO_ROUTE in outcome.text for _, outcome in run.lost())


def postmap_in_place() -> Run:
    """Change maps as Mailman itself and most cron scripts do, under load.

    Mailman writes the three texts and runs postmap on each, where Postfix reads them; recipients
    and routes are one hash table.
    """
    with public_directory() as directory:
        bench = Bench(directory, mailmans_own_parameters(directory / "data"))

        def rebuild() -> None:
            for name in ("postfix_lmtp", "postfix_domains"):
                bench.postfix.command("postmap", f"hash:{bench.files.directory / name}")

        def change() -> None:
            bench.have(NEW, KEPT)
            rebuild()

        bench.have(KEPT, GONE)
        rebuild()
        with bench.sink, bench.postfix:
            return bench.load([NEW, KEPT, GONE], change)


def mailmans_own_parameters(data: Path) -> dict[str, str]:
    """main.cf as Mailman's documentation has it."""
    return {
        "transport_maps": f"hash:{data / 'postfix_lmtp'}",
        "relay_recipient_maps": f"hash:{data / 'postfix_lmtp'}",
        "relay_domains": f"hash:{data / 'postfix_domains'}",
    }


def tell(measured: Measured, name: str, run: Run, new: str) -> None:
    """Keep the figures of a run for the report."""
    figures = run.figures(new)
    measured(name, figures.as_dict(), f"{name}: {figures}")
