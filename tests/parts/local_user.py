"""A user of the host without any rights, who opens and locks every file that he can open."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534

# Each file is locked once, and kept locked, until standard input ends: with flock(2), and what is
# there at first with fcntl(2) as well.
_LOCK_ALL = """
import fcntl, json, os, select, sys

held = {}

def lock(path, also_posix):
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) not in held:  # a close would end what lockf has locked
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if also_posix:
                fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            held[found.st_dev, found.st_ino] = path
    except OSError:
        pass

def lock_all(also_posix=False):
    for root in sys.argv[1:]:
        lock(root, also_posix)
        for directory, directories, files in os.walk(root):
            for name in directories + files:
                lock(os.path.join(directory, name), also_posix)

def tell():
    print(json.dumps(sorted(held.values())), flush=True)

lock_all(also_posix=True)
tell()
while not select.select([0], [], [], 0.005)[0]:
    lock_all()
tell()
"""


@contextmanager
def locks_all(*roots: Path) -> Iterator[list[Path]]:
    """He locks what is at and below these paths, and what comes there meanwhile.

    Yields the paths that he has locked: at first those from before, at the end all of them.
    """
    with subprocess.Popen(
        # The tests' own Python may be where no other user can read it.
        ["/usr/bin/python3", "-c", _LOCK_ALL, *map(str, roots)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    ) as process:
        assert process.stdin
        assert process.stdout
        locked = [Path(path) for path in json.loads(process.stdout.readline())]
        try:
            yield locked
        finally:
            process.stdin.close()
            locked[:] = [Path(path) for path in json.loads(process.stdout.readline())]
