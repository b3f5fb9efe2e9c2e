"""Every change of a list's state, for all map types, completed and killed between its steps.

This takes too long for every run: `make matrix` runs it and prints a table of all changes.
"""

import pytest

from tests.conftest import Measured
from tests.e2e.conftest import check_change
from tests.parts.kill_at import Killer
from tests.scenarios.list_states import Change, changes
from tests.scenarios.transitions import by_command, killed_with

pytestmark = [pytest.mark.matrix, pytest.mark.transition, pytest.mark.slow]

EVERY = pytest.mark.parametrize("change", changes(), ids=lambda change: change.id)
TYPES = pytest.mark.parametrize("map_type", ["lmdb", "hash", "btree", "cdb"])


@TYPES
@EVERY
def test_change_loses_no_mail(change: Change, map_type: str, measured: Measured) -> None:
    check_change(change, map_type, by_command, measured)


@TYPES
@EVERY
def test_change_killed_between_its_steps_loses_no_mail(
    change: Change, map_type: str, measured: Measured, killer: Killer
) -> None:
    check_change(change, map_type, killed_with(killer), measured)
