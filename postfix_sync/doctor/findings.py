"""What a check returns: a finding that is ok, a warning or a failure. Pure."""

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from postfix_sync.doctor.host import Host
from postfix_sync.model import Finding, Verdict

Check: TypeAlias = Callable[[Host], AsyncIterator[Finding]]


def ok(name: str, seen: str) -> Finding:
    """All is well."""
    return Finding(name, Verdict.OK, seen)


def warning(name: str, seen: str, why: str, fix: str | None = None) -> Finding:
    """It works, but not in every case, or not for long."""
    return Finding(name, Verdict.WARNING, seen, why, fix)


def failure(name: str, seen: str, why: str, fix: str | None = None) -> Finding:
    """Mail of the lists is lost, refused or held up by it."""
    return Finding(name, Verdict.FAILURE, seen, why, fix)
