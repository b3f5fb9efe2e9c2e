"""Requirements of the end-to-end tests, and the check of a change under load."""

import os
import shutil

from tests.conftest import Measured, need
from tests.parts.common import public_directory
from tests.parts.postfix_instance import PostfixInstance
from tests.scenarios.list_states import Change
from tests.scenarios.transitions import Means, Stage


def need_real_parts() -> None:
    """Skip the test, or fail it in CI, if Postfix can't be run here."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")


def need_map_type(postfix: PostfixInstance, map_type: str) -> None:
    """Skip the test, or fail it in CI, if this Postfix does not support the map type."""
    need(map_type in postfix.command("postconf", "-m").split(), f"a Postfix with {map_type} maps")


def check_change(
    change: Change,
    map_type: str,
    means: Means,
    measured: Measured,
    others: int = 0,
    **main_cf: str,
) -> None:
    """Make the change under load; record its figures, and fail if there is a fault among them.

    `others` is the number of further lists; `main_cf` has additional parameters of main.cf.
    """
    need_real_parts()
    with public_directory() as directory:
        stage = Stage(directory, map_type, change, main_cf, others)
        need_map_type(stage.postfix, map_type)
        figures = stage.perform(means).figures()
        beside = [f"beside {others} lists"] if others else []
        name = ", ".join([change.name, *beside, *map(" = ".join, main_cf.items())])
        row = f"{name:<50} {map_type:<5}  {figures}"
        measured(f"{name}, {map_type}", figures.as_dict(), row)
        assert figures.faults == {}, row
