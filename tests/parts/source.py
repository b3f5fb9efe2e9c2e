"""The project as it is in a clone, and what is needed to build it without a network."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from tests.parts.common import run
from tests.parts.mailman import CACHE, PYTHON

PROJECT = Path(__file__).parents[2]

_NOT_IN_A_CLONE = (".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
_TOOLS = ("build", "hatchling", "pipx")


def copy(to: Path) -> Path:
    """A copy of the working tree, without what lies in it and isn't the project's."""
    shutil.copytree(PROJECT, to, ignore=shutil.ignore_patterns(*_NOT_IN_A_CLONE, "*.egg-info"))
    return to


def wheels() -> Path:
    """All that is needed to build the project and to install it; fetched once, and kept."""
    asked = run(PYTHON, "--version").encode() + (PROJECT / "pyproject.toml").read_bytes()
    directory = CACHE / f"wheels-{hashlib.sha256(asked).hexdigest()[:12]}"
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
    """The environment in which pip has wheels(), and asks nobody."""
    return {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels())}
