"""Functions that every real part needs: directories, ports, waiting, and the end of processes."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# A mail queue on a tmpfs is several times as fast as one on a disk that honours fsync.
FAST = Path("/dev/shm")
ROOMY = Path("/var/tmp")
ENOUGH = 256 * 1024 * 1024

INTERVAL = 0.02

PATIENCE = 20.0
"""Seconds for events that are fast on any machine."""

_NUMBERS = itertools.count()

TRIES = 5
"""The number of tries of what can fail if this machine pauses at the wrong moment."""


def wait_for(condition: Callable[[], T], timeout: float, what: str) -> T:
    """Call `condition` until its result is true; return that, or raise TimeoutError with `what`."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s (last seen: {found!r})")
        time.sleep(INTERVAL)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which no process listens now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def loopback_address() -> str:
    """Return a loopback address that no other part of this or another test process uses."""
    pid = os.getpid()
    return f"127.{pid % 251 + 2}.{pid // 251 % 251}.{next(_NUMBERS) % 250 + 2}"


@contextmanager
def public_directory(base: Path | None = None) -> Iterator[Path]:
    """Make a directory that other users can reach (only root can reach pytest's tmp_path).

    Its path is short, because Postfix's sockets are in it.  It is removed at the end, so all
    processes that use it must be stopped first.
    """
    directory = Path(tempfile.mkdtemp(prefix="pfs-", dir=base or _base()))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _base() -> Path:
    try:
        room = os.statvfs(FAST)
    except OSError:
        return ROOMY
    usable = os.access(FAST, os.W_OK) and room.f_bavail * room.f_frsize >= ENOUGH
    return FAST if usable else ROOMY


def processes_with(variable: str, value: str) -> list[int]:
    """Return the processes that were started with VARIABLE=VALUE in their environment."""
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # the process has ended
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process that was sent SIGSTOP has stopped; False if it has ended instead."""

    def state() -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "X"

    return wait_for(lambda: found if (found := state()) in "TZX" else "", PATIENCE, "a stop") == "T"


def end_processes(variable: str, value: str, timeout: float) -> None:
    """Wait until the processes with VARIABLE=VALUE have ended; kill them after the timeout."""
    try:
        wait_for(lambda: not processes_with(variable, value), timeout, "an orderly end")
    except TimeoutError:
        for pid in processes_with(variable, value):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_for(lambda: not processes_with(variable, value), 10, f"end of {variable}={value}")


def run(
    *command: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    umask: int = -1,
    timeout: float = 60,
) -> str:
    """Run a command, which must succeed; return its output of both streams."""
    done = subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        umask=umask,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout
