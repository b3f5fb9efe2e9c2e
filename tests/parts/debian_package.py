"""The Debian package, as `make deb` builds it, and an earlier version of it.

The earlier version differs only in its version number, in the control file and in the program's
--version, so that a test can detect which of the two runs.
"""

import shutil
from pathlib import Path

from .booted import CHECKOUT, NOT_SOURCES
from .common import run

BUILDING = 600.0
"""Seconds that a build may take."""


def build(directory: Path) -> Path:
    """Run `make deb` in a copy of the checkout, in a new directory; return the package."""
    shutil.copytree(CHECKOUT, directory, ignore=NOT_SOURCES, symlinks=True)
    make = ("make", "--no-print-directory", "--directory", str(directory), "deb")
    *_, last = run(*make, timeout=BUILDING).splitlines()
    assert last.startswith("built dist/"), last
    return directory / last.removeprefix("built ")


def earlier(package: Path, version: str) -> Path:
    """Make a copy of the package with a lower version, beside it; return its path."""
    tree = package.parent / version
    made = package.with_name(f"postfix-sync_{version}_all.deb")
    run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {version}\n" if line.startswith("Version:") else line for line in lines)
    )
    module = tree / "usr/lib/python3/dist-packages/postfix_sync/__init__.py"
    module.write_text(f'__version__ = "{version}"\n')
    run("dpkg-deb", "--root-owner-group", "--build", str(tree), str(made))
    shutil.rmtree(tree)
    return made
