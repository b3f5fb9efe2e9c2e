"""The versions of Postfix that a test has used, recorded by the parts that run one.

used("3.7.11")      called by a part whenever it uses a Postfix of that version
begin(), USED       used by conftest.py, at the start of a test and at its end
"""

import functools

from .common import run

USED: set[str] = set()
"""The versions that were used since the start of the test."""


def begin() -> None:
    """Forget the recorded versions at the start of a test."""
    USED.clear()


def used(version: str) -> None:
    """Record a version."""
    USED.add(version)


@functools.cache
def machines() -> str:
    """Return the version of this machine's Postfix."""
    return run("/usr/sbin/postconf", "-dh", "mail_version").strip()
