"""Kill this Python process with SIGKILL just before its Nth change of files.

Python imports this module at its start if this directory is on PYTHONPATH. An event is an audit
event that changes a path under the directory KILL_AT_ROOT, or that starts a command or sends a
signal. With KILL_AT_EVENT=N, the process is killed before the Nth event. The file KILL_AT_LOG gets
a line for each event; the last line is the one that did not happen. KILL_AT_TEXT kills the process
before the first event whose line contains that text, for events whose number is not known.

Between two events the process makes no change that a file system would store separately, so the
events are all the points at which a kill can have a different result.
"""

import os
import signal
import sys

ROOT = os.environ.get("KILL_AT_ROOT", "")
EVENT = int(os.environ.get("KILL_AT_EVENT", "0"))
TEXT = os.environ.get("KILL_AT_TEXT", "")
LOG = os.environ.get("KILL_AT_LOG", "")

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# The indexes in the event's arguments of the changed path and of its directory's descriptor.
PATHS: dict[str, tuple[int, int | None]] = {
    "open": (0, None),
    "os.rename": (1, 3),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.mkdir": (0, 2),
    "os.symlink": (1, 2),
    "os.link": (1, 3),
    "os.chmod": (0, 2),
    "os.truncate": (0, None),
    "os.utime": (0, 3),
}
ALWAYS = {"subprocess.Popen": 1, "os.kill": 0}

# Commands that only read: they do not change the disk.
READERS = ({"postconf"}, {"postqueue"}, {"postfix", "status"}, {"postmap", "-q"})


def _place(event: str, arguments: tuple[object, ...]) -> str:
    """Return the path that an event is about to change, or an empty text if it changes none."""
    where, relative_to = PATHS[event]
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return ""
    path = arguments[where]
    if isinstance(path, int):
        # A descriptor, as of fchmod(2): its file was opened before, which was an event of its own.
        return "" if event == "open" else os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    directory = arguments[relative_to] if relative_to is not None else -1
    base = os.readlink(f"/proc/self/fd/{directory}") if directory not in (-1, None) else ""  # noqa: PTH115
    return os.path.join(base or os.getcwd(), os.fsdecode(path))  # noqa: PTH109, PTH118


def _only_reads(command: object) -> bool:
    if not isinstance(command, list):
        return False
    words = {os.path.basename(str(word)) for word in command}  # noqa: PTH119
    return any(reader <= words for reader in READERS)


def _watch() -> None:
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644) if LOG else -1
    count = 0
    busy = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count, busy
        if busy or (event not in PATHS and event not in ALWAYS):
            return
        busy = True
        try:
            if event in ALWAYS:
                place = str(arguments[ALWAYS[event]])
                if _only_reads(arguments[ALWAYS[event]]):
                    return
            else:
                place = _place(event, arguments)
                if not place.startswith(f"{ROOT}/"):
                    return
            count += 1
            line = f"{count} {event} {place}\n"
            if log >= 0:
                os.write(log, line.encode())
            if count == EVENT or (TEXT and TEXT in line):
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            busy = False

    sys.addaudithook(hook)


if ROOT:
    _watch()
