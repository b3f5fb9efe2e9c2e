"""No message is bounced, refused or lost because the maps change while mail flows.

At least fifty messages a second are sent to a list that is created, to one that exists and to one
that is removed, each over a new SMTP connection, for 20 s around the change. The LMTP server must
accept every message that Postfix accepted or, for the removed list, refuse it; and no sender may
get a 4xx. Mailman's own way (postmap in place) loses mail under the same load, which shows that the
load can detect a loss.
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
"""How often Postfix is reloaded in total."""

LIVE_WITHIN = 6.0
"""Seconds from Mailman's write to the first accepted message; Postfix alone takes 10."""

TURN = 1.0
"""Seconds for which Postfix's processes may differ about a list that is created or removed."""


@contextmanager
def parts(map_type: str) -> Iterator[tuple[Bench, Site]]:
    """Prepare a bench, and a site that syncs its files to its Postfix."""
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
    """Start the daemon, and wait for its first sync."""
    site.configure()
    daemon = RunningDaemon(site)
    try:
        daemon.wait_for_passes(1, PATIENCE)
    except BaseException:
        daemon.__exit__(*sys.exc_info())
        raise
    return daemon


def check(run: Run, *, created: str, kept: str, removed: str) -> None:
    """Check what must be true of every run; the last change removes the list `removed`."""
    assert run.lost() == []
    assert run.bounced() == []
    assert run.temporary() == []
    assert set(run.delivered.values()) == {1}, "delivered more than once"
    for recipient in (created, kept, removed):
        assert run.per_second(recipient) >= AT_LEAST

    assert all(sent.accepted and run.delivered[sent.load_id] for sent in run.to(kept))
    assert {sent.recipient for sent in run.accepted() if run.refused_by_lmtp(sent)} <= {removed}
    assert {sent.last.code for sent in run.sent if not sent.accepted} <= {550, 554}

    begin = min(sent.rcpt_time for sent in run.accepted(created))
    assert begin - run.changes[0] < LIVE_WITHIN
    late = [sent for sent in run.to(created) if not sent.accepted and sent.started > begin + TURN]
    assert late == [], "the new list was refused again"

    refused = [sent.rcpt_time for sent in run.to(removed) if not sent.accepted]
    end = min(time for time in refused if time > run.changes[-1])
    late = [sent for sent in run.accepted(removed) if sent.started > end + TURN]
    assert late == [], "the removed list was accepted again"


@pytest.mark.alone
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_replaces_a_list_without_loss(map_type: str, measured: Measured) -> None:
    """One write of Mailman adds a list and removes another; a third one is there all the time."""
    with parts(map_type) as (bench, site):
        bench.have(KEPT, GONE)
        with bench.sink, running(site) as daemon, bench.postfix:
            run = bench.load([NEW, KEPT, GONE], lambda: bench.have(NEW, KEPT))
            daemon.wait_for(f"lists: +1 list: {NEW}", PATIENCE)
            daemon.wait_for(f"lists: -1 list: {GONE}", PATIENCE)
            assert daemon.stop() == 0
        record(measured, f"{map_type}, daemon", run, NEW)
        check(run, created=NEW, kept=KEPT, removed=GONE)
        assert bench.postfix.reloads == RELOADS[map_type]


@pytest.mark.alone
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_creates_and_removes_lists_without_loss(map_type: str, measured: Measured) -> None:
    """Two lists are created under load; one of them gets mail for 5 s and is then removed."""
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
        record(measured, f"{map_type}, created and removed", run, NEW)
        assert len(run.accepted(GONE)) > AT_LEAST
        check(run, created=NEW, kept=KEPT, removed=GONE)
        assert bench.postfix.reloads == RELOADS[map_type]


@pytest.mark.alone
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_once_replaces_a_list_and_its_domain_without_loss(
    map_type: str, measured: Measured
) -> None:
    """The two lists are the only ones of their domains."""
    with parts(map_type) as (bench, site):
        bench.have(KEPT, GONE_DOMAIN)
        site.once()

        def change() -> None:
            bench.have(NEW_DOMAIN, KEPT)
            assert site.run("--once").returncode == 0

        with bench.sink, bench.postfix:
            run = bench.load([NEW_DOMAIN, KEPT, GONE_DOMAIN], change)
        record(measured, f"{map_type}, --once", run, NEW_DOMAIN)
        check(run, created=NEW_DOMAIN, kept=KEPT, removed=GONE_DOMAIN)


@pytest.mark.alone
def test_rollback_and_resume_lose_no_mail(measured: Measured) -> None:
    """Senders to the list that the older generation lacks get a 550, not a 4xx."""
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
        record(measured, "hash, rollback and resume", run, GONE)
        assert run.lost() == []
        assert run.bounced() == []
        assert run.temporary() == []
        assert set(run.delivered.values()) == {1}
        assert all(sent.accepted for sent in run.to(KEPT))
        refused = [sent for sent in run.to(GONE) if not sent.accepted]
        assert {sent.last.code for sent in refused} == {550}


def test_deferred_mail_of_a_removed_list_is_refused_by_the_lmtp_server() -> None:
    """The LMTP server is down when the list is removed; its route is kept for the deferred mail."""
    # lmdb: processes see a change of routes at once, so a route removed too early is noticed.
    with parts("lmdb") as (bench, site), bench.postfix:
        bench.have(KEPT, GONE)
        site.once()
        waiting = send(bench.postfix.port, GONE)
        assert waiting.accepted
        wait_for(bench.postfix.outcomes, PATIENCE, "a first try")
        bench.have(KEPT)
        site.once()
        assert send(bench.postfix.port, GONE).last.code == 550
        # qmgr(8) caches the last address that it resolved: replace it by another one.
        assert send(bench.postfix.port, KEPT).accepted
        wait_for(lambda: len(bench.postfix.outcomes()) > 1, PATIENCE, "a try for the other list")
        with bench.sink:
            bench.postfix.command("postqueue", "-f")
            bench.postfix.wait_for_empty_queue()
        tried, refused = (entry for entry in bench.postfix.outcomes() if entry.recipient == GONE)
        assert (tried.status, refused.status) == ("deferred", "bounced")
        assert refused.refused_by_server
        # No mail needs the routes any more, so the next syncs remove them.
        site.retire()
        assert GONE not in site.installed("postfix_lmtp")


@pytest.mark.alone
def test_postmap_in_place_loses_mail(measured: Measured) -> None:
    """The control: this load loses mail without postfix-sync, so it can detect a loss of ours.

    A run loses mail by chance (on a fast machine, one in three does not), so the test repeats the
    run until one does.
    """
    need_real_parts()
    for attempt in range(1, TRIES + 1):
        run = postmap_in_place()
        record(measured, f"hash, postmap in place ({attempt})", run, NEW)
        if run.lost():
            break
    assert run.bounced()
    assert {sent.recipient for sent, _ in run.lost()} >= {NEW}
    assert all(outcome and NO_ROUTE in outcome.text for _, outcome in run.lost())


def postmap_in_place() -> Run:
    """Change maps under load as Mailman itself and most cron scripts do.

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
    """Return the parameters of main.cf that Mailman's documentation recommends."""
    return {
        "transport_maps": f"hash:{data / 'postfix_lmtp'}",
        "relay_recipient_maps": f"hash:{data / 'postfix_lmtp'}",
        "relay_domains": f"hash:{data / 'postfix_domains'}",
    }


def record(measured: Measured, name: str, run: Run, new: str) -> None:
    """Record the figures of a run for the end of the test run."""
    figures = run.figures(new)
    measured(name, figures.as_dict(), f"{name}: {figures}")
