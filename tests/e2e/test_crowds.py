"""Changes of many lists, frequent changes and long queues do not delay other lists' mail."""

import pytest

from tests.conftest import Measured
from tests.e2e.conftest import need_real_parts
from tests.parts.common import public_directory
from tests.scenarios.crowds import (
    ACTIVE,
    create_behind_removals,
    move_many,
    reload_with_many_active,
)
from tests.scenarios.flapping import flap

pytestmark = [pytest.mark.load, pytest.mark.slow, pytest.mark.alone]

NEARLY = 0.9
"""The part of its delivery rate that another source's list must keep."""

TEN_MINUTES = 600.0

AS_FAST, SLACK = 2.0, 1.0
"""The factor that a list may take longer during others' removal (one more read of the files), and
seconds for what a busy machine adds; a wait for 20,000 messages is much longer.
"""


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_move_of_ten_thousand_lists_does_not_delay_other_mail(
    map_type: str, measured: Measured
) -> None:
    need_real_parts()
    with public_directory() as directory:
        found = move_many(directory, map_type)
    measured(f"move, {map_type}", found.as_dict(), f"10,000 lists move, {map_type}: {found}")
    faults = (found.refused, found.bounced, found.rejected, found.lost, found.late)
    assert faults == (0, 0, 0, 0, 0), found
    assert found.rate_meanwhile >= NEARLY * found.rate_before, found


def test_reload_does_not_delay_many_active_messages_for_another_list(measured: Measured) -> None:
    need_real_parts()
    with public_directory() as directory:
        found = reload_with_many_active(directory, "lmdb")
    measured("reload", found.as_dict(), f"reload with mail for another list active: {found}")
    assert found.active >= ACTIVE, found
    assert (found.bounced, found.lost, found.twice) == (0, 0, 0), found
    assert found.rate_meanwhile >= NEARLY * found.rate_before, found


@pytest.mark.matrix
@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_flapping_member_of_a_cluster_does_not_change_the_maps(
    map_type: str, measured: Measured
) -> None:
    """Postfix tries the next member itself: no map is built, and Postfix is not reloaded."""
    need_real_parts()
    with public_directory() as directory:
        found = flap(directory, map_type, TEN_MINUTES)
    measured(f"flapping, {map_type}", found.as_dict(), f"a member flaps, {map_type}: {found}")
    assert (found.refused, found.bounced, found.lost, found.twice) == (0, 0, 0, 0), found
    assert found.reloads <= 1, found
    assert found.published == 0, found
    assert found.rate_meanwhile >= NEARLY * found.rate_before, found


def test_list_is_created_during_a_removal_as_fast_as_alone(measured: Measured) -> None:
    """Mail for the removed list is still in the queue: up to 20,000 messages."""
    need_real_parts()
    with public_directory() as directory:
        found = create_behind_removals(directory, "lmdb")
    measured("creations", found.as_dict(), f"seconds until a created list is accepted: {found}")
    longest = AS_FAST * found.alone + SLACK
    assert max(found.behind_removal, found.behind_crowd) <= longest, found
