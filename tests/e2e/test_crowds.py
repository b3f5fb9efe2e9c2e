"""A change of many lists, or a long queue, holds up no other list's mail."""

import pytest

from tests.conftest import Measured
from tests.e2e.conftest import need_real_parts
from tests.parts.common import public_directory
from tests.scenarios.crowds import create_behind_removals, move_many

pytestmark = [pytest.mark.load, pytest.mark.slow, pytest.mark.alone]

NEARLY = 0.9
"""The part of its delivery rate that another source's list keeps at least."""

AS_FAST = 2.0
"""How many times as long a list may take behind others' removal: one look more at the files."""


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_ten_thousand_lists_move_at_once(map_type: str, measured: Measured) -> None:
    need_real_parts()
    with public_directory() as directory:
        found = move_many(directory, map_type)
    measured(f"move, {map_type}", found.as_dict(), f"10,000 lists move, {map_type}: {found}")
    faults = (found.refused, found.bounced, found.rejected, found.lost, found.late)
    assert faults == (0, 0, 0, 0, 0), found
    assert found.rate_meanwhile >= NEARLY * found.rate_before, found


def test_list_is_created_behind_a_removal_as_fast_as_alone(measured: Measured) -> None:
    """Mail for the removed list is still in the queue: 20,000 messages at last."""
    need_real_parts()
    with public_directory() as directory:
        found = create_behind_removals(directory, "lmdb")
    measured("creations", found.as_dict(), f"seconds until a created list is accepted: {found}")
    assert found.behind_removal <= AS_FAST * found.alone, found
    assert found.behind_crowd <= AS_FAST * found.alone, found
