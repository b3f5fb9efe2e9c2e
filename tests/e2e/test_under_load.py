"""No message is bounced, refused or lost because the maps change while mail flows.

Fifty messages a second and more go to a list that is being created, to one that exists and to one
that is being removed, each over a new SMTP connection, for 20 s around the change. Every message
that Postfix accepted must have been delivered by LMTP or, for the removed list, been refused there;
and nobody may see a 4xx. What Mailman does without postfix-sync (postmap in place) loses mail under
this very load: so the load finds what it is meant to find.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Measured, need_real_parts
from tests.parts.common import public_directory
from tests.parts.postfix_instance import NO_ROUTE, mailman_parameters
from tests.parts.site import Site
from tests.scenarios.daemon import DaemonProcess
from tests.scenarios.under_load import Bench, Run

NEW, KEPT, GONE = "new@lists.example.net", "kept@lists.example.net", "gone@lists.example.net"
NEW_DOMAIN, GONE_DOMAIN = "new@created.example.org", "gone@removed.example.org"

LMTP_HOST = "mailman-demo"
LMTP_ADDRESS = "127.0.0.1"

AT_LEAST = 50
"""Messages a second to each list."""

TURN = 1.0
"""Seconds in which Postfix's processes may differ about a list that comes or goes."""


def parts(directory: Path, map_type: str) -> tuple[Bench, Site]:
    """A bench, and the postfix-sync between its files and its Postfix."""
    need_real_parts(map_type)
    bench = Bench(
        directory, mailman_parameters(directory / "maps", map_type), lmtp_host=LMTP_HOST
    )
    site = Site(
        directory,
        bench.postfix.config_directory,
        map_type,
        source={"name": "lists", "address": LMTP_ADDRESS},
    )
    return bench, site


def check(run: Run, *, new: str, kept: str, gone: str) -> None:
    """What must be true of every run."""
    assert run.lost() == []
    assert run.bounced() == []
    assert run.temporary() == []
    assert set(run.delivered.values()) <= {1}, "delivered more than once"
    for recipient in {one.recipient for one in run.sent}:
        assert run.per_second(recipient) >= AT_LEAST

    assert all(one.accepted and run.delivered[one.load_id] for one in run.to(kept))
    refused = [one for one in run.accepted() if run.refused_by_lmtp(one)]
    assert {one.recipient for one in refused} <= {gone}
    assert {one.last.code for one in run.sent if not one.accepted} <= {550, 554}

    if new:
        first = min(one.rcpt_time for one in run.accepted(new))
        late = [one for one in run.to(new) if not one.accepted and one.started > first + TURN]
        assert late == [], "the new list was refused again"
    if gone:
        first = min(one.rcpt_time for one in run.to(gone) if not one.accepted)
        late = [one for one in run.accepted(gone) if one.started > first + TURN]
        assert late == [], "the removed list was accepted again"


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_swaps_a_list(map_type: str, measured: Measured) -> None:
    """One list comes and one goes, in one write of Mailman's; a third is there all the time."""
    with public_directory() as directory:
        bench, site = parts(directory, map_type)
        bench.have(KEPT, GONE)
        with bench.sink, DaemonProcess(site) as daemon, bench.postfix:
            run = bench.load(
                f"{map_type}, daemon", [NEW, KEPT, GONE], lambda: bench.have(NEW, KEPT)
            )
            daemon.wait_for_message(f"lists: +1 list: {NEW}", f"lists: -1 list: {GONE}")
        tell(run, measured, NEW)
        check(run, new=NEW, kept=KEPT, gone=GONE)
        assert bench.postfix.reloads == (0 if map_type == "lmdb" else 1)


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_once_swaps_a_list_and_its_domain(map_type: str, measured: Measured) -> None:
    """The same by `--once`, where the domain comes and goes with its only list."""
    with public_directory() as directory:
        bench, site = parts(directory, map_type)
        bench.have(KEPT, GONE_DOMAIN)
        site.once()

        def change() -> None:
            bench.have(NEW_DOMAIN, KEPT)
            site.once()

        with bench.sink, bench.postfix:
            run = bench.load(f"{map_type}, --once", [NEW_DOMAIN, KEPT, GONE_DOMAIN], change)
        tell(run, measured, NEW_DOMAIN)
        check(run, new=NEW_DOMAIN, kept=KEPT, gone=GONE_DOMAIN)


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_daemon_creates_and_removes_a_list(map_type: str, measured: Measured) -> None:
    """A list is created under load, gets mail, and is removed again; another one comes for good."""
    with public_directory() as directory:
        bench, site = parts(directory, map_type)
        bench.have(KEPT)
        with bench.sink, DaemonProcess(site) as daemon, bench.postfix:
            run = bench.load(
                f"{map_type}, created and removed",
                [NEW, KEPT, GONE],
                lambda: bench.have(KEPT, GONE),
                lambda: bench.have(KEPT, NEW),
            )
            daemon.wait_for_message(f"lists: +1 list: {NEW}", f"lists: -1 list: {GONE}")
        tell(run, measured, GONE)
        assert run.accepted(GONE)
        after = [one for one in run.to(GONE) if one.rcpt_time > run.accepted(NEW)[0].rcpt_time]
        assert after
        assert run.lost() == []
        check(run, new=NEW, kept=KEPT, gone="")
