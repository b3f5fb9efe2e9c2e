"""Try whether a process of this user can watch a directory with inotify(7)."""

import ctypes
import os
from pathlib import Path

_IN_MOVED_TO = 0x80


def watch_error(directory: Path) -> int:
    """Watch a directory for a moment; return 0, or the errno(3) of inotify(7).

    EMFILE: the user has fs.inotify.max_user_instances instances already. ENOSPC: the user has
    fs.inotify.max_user_watches watches already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return ctypes.get_errno()
    try:
        added = libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_MOVED_TO)
        return ctypes.get_errno() if added < 0 else 0
    finally:
        os.close(descriptor)
