"""What the end-to-end tests need."""

import os
import shutil

from tests.conftest import need
from tests.parts.postfix_instance import PostfixInstance


def need_real_parts() -> None:
    """Skips, in CI fails, where Postfix can't be run."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")


def need_map_type(postfix: PostfixInstance, map_type: str) -> None:
    """Skips, in CI fails, where this Postfix has no such maps."""
    need(map_type in postfix.command("postconf", "-m").split(), f"a Postfix with {map_type} maps")
