"""Decide when a failed operation is retried. Pure."""

from postfix_sync.errors import Missing, NotPermitted, Refused, SyncError

FIRST_RETRY = 1.0
"""Seconds until the first retry of a failed operation."""

LONGEST_RETRY = 60.0
"""Longest time in seconds until a failed operation is retried. A refused login and a host key that
was not accepted are not retried automatically before that, so that no host bans this address."""


def retry_delay(failures: int, longest: float, jitter: float) -> float:
    """Return the seconds until the next retry after so many failures in a row.

    It is at most `longest` seconds; `jitter` is a random number from 0 to 1.
    """
    doubled = FIRST_RETRY * 2.0 ** min(failures - 1, 30)
    return float(min(longest, doubled) * (0.5 + jitter / 2))


def next_try(
    error: SyncError | None, failures: int, *, interval: float, remote: bool, jitter: float
) -> float:
    """Return the seconds until a source is polled again.

    `error` is that of its last answer, after `failures` temporary ones in a row; `interval` is the
    source's, in seconds; `remote` says that it is read over SSH; `jitter` is from 0 to 1. Pure.
    """
    if error is None or isinstance(error, Refused):
        return interval
    if isinstance(error, Missing):
        return min(interval, LONGEST_RETRY)
    if remote and isinstance(error, NotPermitted):
        return LONGEST_RETRY
    return retry_delay(failures, LONGEST_RETRY if remote else min(interval, LONGEST_RETRY), jitter)
