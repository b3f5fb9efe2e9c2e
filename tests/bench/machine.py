"""The machine on which the figures were measured, and a directory of it that is on a disk."""

import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from postfix_sync import __version__
from tests.bench.measure import Row

IN_MEMORY = ("tmpfs", "ramfs")

CHECKOUT = Path(__file__).parents[2]

CANDIDATES = (Path("/var/tmp"), Path("/var/lib"), CHECKOUT)
"""Directories that may be on a disk; other users than root must be able to reach them."""

SYNCS = 20


def disk_directory(given: Path | None) -> Path:
    """Return the directory to measure in: the given one, or the first that is on a disk."""
    for directory in (given,) if given else CANDIDATES:
        if directory.is_dir() and file_system(directory)[0] not in IN_MEMORY:
            return directory
    places = ", ".join(map(str, (given,) if given else CANDIDATES))
    raise SystemExit(f"{places}: not on a disk; name another directory with --directory")


def file_system(directory: Path) -> tuple[str, str]:
    """Return the type and the options of the file system of a directory (proc(5), mountinfo)."""
    number = directory.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if fields[2] == device:
            return after.split()[0], fields[5]
    return "unknown", ""


def describe(directory: Path) -> Row:
    """Return what the figures depend on."""
    kind, options = file_system(directory)
    return {
        "CPU": _first(r"^model name\s*: (.*)$", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "RAM": f"{int(_first(r'^MemTotal: +([0-9]+)', Path('/proc/meminfo'))) / 2**20:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": f"{kind} ({options}), {directory}",
        "4 KiB written and synced": f"{_sync_seconds(directory) * 1000:.1f} ms",
        "load at the start": f"{os.getloadavg()[0]:.1f} processes",
        "Debian": Path("/etc/debian_version").read_text().strip(),
        "Postfix": _output("/usr/sbin/postconf", "-d", "-h", "mail_version"),
        "Python": platform.python_version(),
        "postfix-sync": f"{__version__} {_commit()}".strip(),
    }


def _first(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    return found[1] if found else ""


def _sync_seconds(directory: Path) -> float:
    """Return the median seconds that a small write with fsync(2) takes."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _commit() -> str:
    """Return the commit of the checkout, and whether it has changes that are not committed."""
    return _output("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty")


def _output(*command: str) -> str:
    """Return the output of a command, without its end of line; empty if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
