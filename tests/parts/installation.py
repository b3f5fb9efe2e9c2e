"""postfix-sync on a booted host, installed as the documentation says for its release."""

import shutil
from pathlib import Path

from . import debian_package
from .booted import Booted
from .debian_root import BOOKWORM


def install(host: Booted, directory: Path) -> None:
    """Install it on a host that is off, so that no unit starts; `directory` is for the build."""
    if host.release == BOOKWORM:
        host.chroot("make", "-C", host.copy_checkout(), "install")
    else:
        package = debian_package.build(directory)
        shutil.copy(package, host.path("/root"))
        host.chroot("apt-get", "-q", "-y", "install", f"/root/{package.name}")
