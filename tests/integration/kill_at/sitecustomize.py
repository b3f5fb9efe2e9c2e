"""Ends this Python process with SIGKILL just before the Nth thing that it would do to its files.

Python imports it at its start when this directory is on PYTHONPATH. What counts as a thing to do is
every audit event that changes something under the directory KILL_AT_ROOT, and every command that is
started. With KILL_AT_EVENT=N the Nth of them does not happen; without, all do. KILL_AT_LOG names a
file that gets a line for each of them, the last line being the one that did not happen. Where the
number of what comes before is not known, KILL_AT_TEXT is what such a line has in it.

Between two such events the process changes nothing on the disk that a file system would keep apart:
so all N together are all the moments at which a kill makes a difference.
"""

import os
import signal
import sys

ROOT = os.environ.get("KILL_AT_ROOT", "")
EVENT = int(os.environ.get("KILL_AT_EVENT", "0"))
TEXT = os.environ.get("KILL_AT_TEXT", "")
LOG = os.environ.get("KILL_AT_LOG", "")

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Where in the event's arguments the changed path is, and the descriptor that it is relative to.
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

# Commands that only look: before and after them, the disk is the same.
LOOKS = ({"postconf"}, {"postqueue"}, {"postfix", "status"}, {"postmap", "-q"})


def _place(event: str, arguments: tuple[object, ...]) -> str:
    """The path that an event is about to change, empty if it is none of those that count."""
    where, relative_to = PATHS[event]
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return ""
    path = arguments[where]
    if isinstance(path, int):
        # It was opened before; whoever changes its mode has not written to it yet.
        return "" if event == "open" else os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    directory = arguments[relative_to] if relative_to is not None else -1
    base = os.readlink(f"/proc/self/fd/{directory}") if directory not in (-1, None) else ""  # noqa: PTH115
    return os.path.join(base or os.getcwd(), os.fsdecode(path))  # noqa: PTH109, PTH118


def _only_looks(command: object) -> bool:
    if not isinstance(command, list):
        return False
    words = {os.path.basename(str(word)) for word in command}  # noqa: PTH119
    return any(look <= words for look in LOOKS)


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
                if _only_looks(arguments[ALWAYS[event]]):
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
