"""No message is bounced, refused, lost or misdirected because one list changes its state.

The load is sent only to that list, over new connections and in sessions that stay open. The server
that had the list answers 550 from the end of the sync on. This module tests one change of each
kind; `make matrix` tests every change, for all map types, with kills.
"""

import re
from pathlib import Path

import pytest

from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST
from postfix_sync.postfix.index_change import SMALL
from tests.conftest import Measured
from tests.e2e.conftest import check_change, need_map_type, need_real_parts
from tests.parts.common import PATIENCE, public_directory, wait_for
from tests.parts.load import send, send_in_one_session
from tests.scenarios.list_states import (
    ABSENT,
    ANOTHER,
    ANTS,
    AT_A,
    AT_B,
    BY_ADDRESS,
    KINDS,
    READDRESSED,
    Change,
)
from tests.scenarios.transitions import (
    SECONDS,
    Stage,
    after_a_removal,
    after_an_edit,
    by_command,
    by_daemon,
)

pytestmark = [pytest.mark.transition, pytest.mark.slow]

BY_DAEMON = frozenset(
    {
        "absent -> at A",
        "at A -> absent",
        "at A -> at another name of A",
        "at A -> aliased",
        "absent -> in a domain of its own",
    }
)
"""The changes that a daemon makes here, with lmdb; none changes the configuration."""


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.id)
def test_change_of_each_kind_loses_no_mail(
    change: Change, map_type: str, measured: Measured
) -> None:
    daemon = map_type == "lmdb" and change.name in BY_DAEMON
    check_change(change, map_type, by_daemon if daemon else by_command, measured)


MANY = 1200
"""Lists beside which the index is changed, not rebuilt, for two lists that change."""


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
@pytest.mark.parametrize(
    "change",
    [Change(ABSENT, AT_A), Change(AT_A, ABSENT)],
    ids=lambda change: change.id,
)
def test_change_of_some_entries_of_an_index_loses_no_mail(
    change: Change, map_type: str, measured: Measured
) -> None:
    entries = ADDRESSES_PER_LIST * MANY
    assert 2 * ADDRESSES_PER_LIST * SMALL[map_type] <= entries
    daemon = change.name in BY_DAEMON
    check_change(change, map_type, by_daemon if daemon else by_command, measured, MANY)


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_list_whose_address_was_refused_by_the_default_route_is_accepted(
    map_type: str, measured: Measured
) -> None:
    """smtpd(8) caches that the transport of the address was error(8)."""
    check_change(
        Change(ABSENT, AT_A), map_type, by_command, measured, relay_transport="error:no such list"
    )


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_index_older_than_its_text_is_replaced_in_all_processes(
    map_type: str, measured: Measured
) -> None:
    """Processes have read entries that differ from the text; the sync changes none of the text."""
    check_change(Change(AT_B, AT_A), map_type, after_an_edit, measured)


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_missing_index_is_used_by_all_processes_once_built(
    map_type: str, measured: Measured
) -> None:
    """Processes that started without the index would continue to defer all mail."""
    need_real_parts()
    soon = dict.fromkeys(("minimal_backoff_time", "maximal_backoff_time", "queue_run_delay"), "2s")
    with public_directory() as directory:
        stage = Stage(directory, map_type, Change(AT_A, AT_A), soon)
        run = stage.perform(after_a_removal)
    figures = run.figures()
    late = [sent for sent in run.refused() if sent in run.new and sent.started > run.ended]
    row = f"index removed, {map_type}: {figures}; refused after the sync: {len(late)}"
    measured(f"index removed, {map_type}", {**figures.as_dict(), "late": len(late)}, row)
    assert figures.faults.keys() <= {"refused"}, row
    assert not late, row


LONG = 3.0
"""Seconds that a delivery takes which continues after a reload of Postfix."""


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_connection_cached_before_a_reload_is_not_reused(map_type: str) -> None:
    """lmtp(8) passes it after its first delivery to the scache(8) that the reload started.

    The second of two simultaneous deliveries would use it.
    """
    need_real_parts()
    with public_directory() as directory:
        many = {
            "lmtp_connection_cache_destinations": "static:all",
            "lmtp_destination_concurrency_limit": "10",
        }
        stage = Stage(directory, map_type, Change(AT_A, READDRESSED), many)
        need_map_type(stage.postfix, map_type)
        stage.install_first()
        old, new, port = stage.sinks["A"], stage.sinks["B"], stage.postfix.port
        with old, new, stage.postfix:
            stage.serve(AT_A, READDRESSED)
            old.slow(LONG)
            sent = [send(port, ANTS)]
            wait_for(lambda: old.at_work() != [], PATIENCE, "a long delivery")
            done = stage.site.run(*stage.bring_about(READDRESSED))
            assert done.returncode == 0, done
            sent.append(send(port, ANTS))
            wait_for(lambda: len(stage.postfix.outcomes()) == len(sent), PATIENCE, "both")
            [pid] = re.findall(rf"lmtp\[(\d+)\]: .*\[{old.host}\]", stage.postfix.log)
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE, "the end of lmtp(8)")
            stage.serve(READDRESSED)
            new.slow(SECONDS)
            sent += send_in_one_session(port, ANTS, 10)
            wait_for(lambda: len(stage.postfix.outcomes()) >= len(sent), PATIENCE, "all deliveries")
            assert {outcome.status for outcome in stage.postfix.outcomes()} == {"sent"}
            assert len(old.deliveries()) == 1


MOVES = (Change(AT_A, AT_B), Change(BY_ADDRESS, ANOTHER[BY_ADDRESS]), Change(AT_B, BY_ADDRESS))


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
@pytest.mark.parametrize("change", MOVES, ids=lambda change: change.id)
def test_mail_deferred_for_the_old_destination_is_delivered_to_the_new_one(
    change: Change, map_type: str
) -> None:
    """The old server is down when the list moves; the test does not flush the queue."""
    need_real_parts()
    with public_directory() as directory:
        stage = Stage(directory, map_type, change)
        need_map_type(stage.postfix, map_type)
        stage.install_first()
        [new] = [stage.sinks[name] for name in change.second.servers]
        with new, stage.postfix:
            stage.serve(change.second)
            sent = send_in_one_session(stage.postfix.port, ANTS, 10)
            assert all(message.accepted for message in sent)
            wait_for(
                lambda: len(stage.postfix.outcomes()) >= len(sent),
                PATIENCE,
                "a try of each message",
            )
            assert {outcome.status for outcome in stage.postfix.outcomes()} == {"deferred"}
            done = stage.site.run(*stage.bring_about(change.second))
            assert done.returncode == 0, done
            expected = {message.load_id for message in sent}
            wait_for(lambda: new.load_ids() >= expected, PATIENCE, "delivery of deferred mail")
            assert stage.postfix.bounces() == []
