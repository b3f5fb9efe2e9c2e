"""When a source that failed is polled again. Pure."""

from postfix_sync.errors import Missing, NotPermitted, Refused, SyncError

FIRST_RETRY = 1.0
"""Seconds until what failed is tried again, for the first time."""

SLOWLY = 60.0
"""Seconds after which whatever failed is tried again at the latest. A login that was refused, or a
host key that was not accepted, is not tried sooner by itself, so that no host bans this address."""


def retry_delay(failures: int, longest: float, jitter: float) -> float:
    """Seconds until the next try after so many failures in a row; `jitter` from 0 to 1."""
    doubled = FIRST_RETRY * 2.0 ** min(failures - 1, 30)
    return float(min(longest, doubled) * (0.5 + jitter / 2))


def next_try(
    error: SyncError | None, failures: int, *, interval: float, remote: bool, jitter: float
) -> float:
    """Seconds until a source is asked again after an answer, or after `failures` in a row. Pure."""
    if error is None or isinstance(error, Refused):
        return interval
    if isinstance(error, Missing):
        return min(interval, SLOWLY)
    if remote and isinstance(error, NotPermitted):
        return SLOWLY
    return retry_delay(failures, SLOWLY if remote else min(interval, SLOWLY), jitter)
