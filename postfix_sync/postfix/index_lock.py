"""Check whether a local user keeps an index locked."""

import asyncio
import fcntl
import os
import struct
import time
from pathlib import Path

from postfix_sync.system.files import open_file
from postfix_sync.system.lock import LOCK_POLL

KEPT_LOCKED = 2.0
"""Seconds for which Postfix never locks an index, unless postmap(1) builds a very large one."""

_FLOCK = "hhqqi4x"
"""struct flock of fcntl(2) with 64 bits: l_type, l_whence, l_start, l_len, l_pid."""


async def is_kept_locked(index: Path, map_type: str) -> bool:
    """Return whether an index has been locked for KEPT_LOCKED seconds, as Postfix locks it.

    Any user may lock a file that the user can read. postmap(1) then blocks: when it changes an lmdb
    index, which it locks with fcntl(2), and even when it queries a hash or btree index, which it
    locks with flock(2). A new index that replaces the old one is not locked.
    """
    give_up = time.monotonic() + KEPT_LOCKED
    while _is_locked(index, map_type):
        if time.monotonic() > give_up:
            return True
        await asyncio.sleep(LOCK_POLL)
    return False


def _is_locked(index: Path, map_type: str) -> bool:
    """Return whether another process holds the lock now; False if there is no such index."""
    try:
        with open_file(index) as file:
            if map_type == "lmdb":
                request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))
                return bool(kind != fcntl.F_UNLCK)
            if map_type in {"hash", "btree"}:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # the query of the index reports what is wrong with it
    return False
