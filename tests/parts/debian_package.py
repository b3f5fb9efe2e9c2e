"""The Debian package, as `make deb` builds it, and an earlier version of it.

An earlier version differs in its number alone, in the control file and in what the program says of
itself: so a test sees which of the two runs.
"""

import shutil
from pathlib import Path

from .booted import CHECKOUT, NOT_SOURCES
from .common import run

BUILDING = 600.0
"""Seconds that a build may take."""


def build(directory: Path) -> Path:
    """What `make deb` builds of the checkout, below a directory that is not there yet."""
    shutil.copytree(CHECKOUT, directory, ignore=NOT_SOURCES, symlinks=True)
    make = ("make", "--no-print-directory", "--directory", str(directory), "deb")
    *_, last = run(*make, timeout=BUILDING).splitlines()
    assert last.startswith("built dist/"), last
    return directory / last.removeprefix("built ")


def earlier(package: Path, version: str) -> Path:
    """The same package with a lower version, beside it."""
    tree = package.parent / version
    made = package.with_name(f"postfix-sync_{version}_all.deb")
    run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {version}\n" if one.startswith("Version:") else one for one in lines)
    )
    module = tree / "usr/lib/python3/dist-packages/postfix_sync/__init__.py"
    module.write_text(f'__version__ = "{version}"\n')
    run("dpkg-deb", "--root-owner-group", "--build", str(tree), str(made))
    shutil.rmtree(tree)
    return made
