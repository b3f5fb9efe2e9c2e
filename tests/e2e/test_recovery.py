"""Mailman goes down under load and comes up again: all mail arrives without a manual flush.

By default, Postfix retries deferred mail after five minutes; the test waits two at most. `make
bench-full` compares the times with those of a Postfix without postfix-sync.
"""

import pytest

from tests.conftest import Measured
from tests.e2e.conftest import need_map_type, need_real_parts
from tests.parts.common import public_directory
from tests.scenarios.recovery import ELSEWHERE, Outage

DOWN = 15.0
PATIENCE = 120.0


@pytest.mark.load
def test_deferred_mail_is_delivered_when_mailman_is_up_again(measured: Measured) -> None:
    need_real_parts()
    with public_directory() as directory:
        outage = Outage(directory, flush=True, probe_interval="2s")
        need_map_type(outage.world.postfix, "lmdb")
        with outage:
            before = outage.elsewhere()
            figures = outage.run(down=DOWN, after=3, patience=PATIENCE)
            measured("recovery", figures.as_dict(), f"Mailman down for {DOWN:g} s: {figures}")
            assert figures.waited > 0
            assert figures.accepted == figures.sent == figures.delivered
            assert (figures.bounced, figures.twice) == (0, 0)
            assert outage.world.daemon.count("up again; retrying") == 1
            assert outage.elsewhere() == before
            assert len(outage.tries(ELSEWHERE)) == 1
