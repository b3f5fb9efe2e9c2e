"""Which version of Postfix a test has used, noted by the parts that run one.

used("3.7.11")      a part, whenever it does something with a Postfix of that version
begin(), USED       conftest.py, at the start of a test and at its end
"""

import functools

from .common import run

USED: set[str] = set()
"""The versions that were used since the test began."""


def begin() -> None:
    """Forget what was used: a test begins."""
    USED.clear()


def used(version: str) -> None:
    """Note a version."""
    USED.add(version)


@functools.cache
def machines() -> str:
    """The version of this machine's Postfix."""
    return run("/usr/sbin/postconf", "-dh", "mail_version").strip()
