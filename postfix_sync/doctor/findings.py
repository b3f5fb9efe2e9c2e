"""Make the findings of checks: ok, a warning or a failure. Pure."""

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding, Verdict

Check: TypeAlias = Callable[[Host], AsyncIterator[Finding]]


def ok(name: str, seen: str) -> Finding:
    """Make a finding of a check that found no problem."""
    return Finding(name, Verdict.OK, seen)


def warning(name: str, seen: str, why: str, fix: str | None = None) -> Finding:
    """Make a finding of a problem: mail flows, but not in every case, or not for long."""
    return Finding(name, Verdict.WARNING, seen, why, fix)


def failure(name: str, seen: str, why: str, fix: str | None = None) -> Finding:
    """Make a finding of a problem by which mail of the lists is lost, refused or delayed."""
    return Finding(name, Verdict.FAILURE, seen, why, fix)
