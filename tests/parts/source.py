"""The project as in a clone, and the wheels to build it without a network."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts.common import run
from tests.parts.mailman import CACHE, PYTHON

PROJECT = Path(__file__).parents[2]

_NOT_IN_A_CLONE = (".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
_TOOLS = ("build", "hatchling", "pip", "pipx", "setuptools")


def copy(to: Path) -> Path:
    """Copy the working tree, without files that do not belong to the project; return the copy."""
    ignore = shutil.ignore_patterns(*_NOT_IN_A_CLONE, "*.egg-info")
    shutil.copytree(PROJECT, to, symlinks=True, ignore=ignore)
    return to


def wheels() -> Path:
    """Return a directory with all wheels to build and install the project, downloaded once."""
    requirements = (run(PYTHON, "--version"), *_TOOLS, (PROJECT / "pyproject.toml").read_text())
    directory = CACHE / f"wheels-{hashlib.sha256(repr(requirements).encode()).hexdigest()[:12]}"
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (CACHE / "wheels.lock").open("w") as lock, tempfile.TemporaryDirectory() as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            run(PYTHON, "-m", "venv", f"{scratch}/venv")
            fetch = (f"{scratch}/venv/bin/pip", "download", "--quiet", "--dest")
            begun = Path(tempfile.mkdtemp(dir=CACHE))
            run(*fetch, str(begun), str(PROJECT), *_TOOLS, umask=0o022, timeout=600)
            begun.chmod(0o755)
            begun.rename(directory)
    return directory


def offline() -> dict[str, str]:
    """Return an environment in which pip uses only wheels(), without a network."""
    return {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels())}


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a directory that `make` fills once for all workers of pytest-xdist."""
    base = factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with directory.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            begun = Path(tempfile.mkdtemp(dir=directory.parent))
            make(begun)
            begun.rename(directory)
    return directory
