"""An unprivileged user of the host, who opens and locks every file that he has permission to."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534

# The program locks each file once, until its standard input ends: with flock(2), and those that
# exist at its start also with fcntl(2).
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

def report():
    print(json.dumps(sorted(held.values())), flush=True)

lock_all(also_posix=True)
report()
while not select.select([0], [], [], 0.005)[0]:
    lock_all()
report()
"""


@contextmanager
def locks_all(*roots: Path) -> Iterator[list[Path]]:
    """Lock everything at and below these paths, and what is created there meanwhile.

    Yield the locked paths: at first those that existed before; at the end, all of them.
    """
    with subprocess.Popen(
        # Other users may have no permission to read the tests' own Python.
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
