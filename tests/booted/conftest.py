"""What tests on booted hosts share.

They need root, debootstrap and systemd-nspawn.
"""

import os

from tests.conftest import need
from tests.parts import booted


def need_booted_hosts() -> None:
    """Skips, in CI fails, where no host can be booted."""
    need(os.geteuid() == 0, "root")
    need(booted.available(), "debootstrap and systemd-nspawn")
