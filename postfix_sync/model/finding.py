"""The result of a check of doctor. Pure."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """The verdict of a check of doctor."""

    OK = "ok"
    WARNING = "warning"
    """It should be checked: it works, but not in every case, or not for long."""
    FAILURE = "failure"
    """It makes mail of the lists lost, refused or deferred."""


@dataclass(frozen=True)
class Finding:
    """The result of one check of doctor.

    `name` is the same in every version and unique in a report. If a check examines several things
    of one kind, each name ends with a colon and the thing.
    """

    name: str
    verdict: Verdict
    seen: str
    why: str = ""
    """The consequence for mail, and what to do if no single command fixes it."""
    fix: str | None = None
    """A command for a shell on this host that fixes what the check found."""
