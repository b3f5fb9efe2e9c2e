"""Render numbers and times as text, and parse times. Pure."""

from datetime import UTC, datetime

LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
"""The last second that a datetime can represent, in seconds since the epoch."""


def counted(number: int, what: str) -> str:
    """Render a number with its noun: `1 list`, `2 lists`, `3 aliases`, `4 entries`."""
    if number == 1:
        return f"1 {what}"
    if what.endswith("y"):
        return f"{number} {what[:-1]}ies"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"


def iso(seconds: float) -> str:
    """Render seconds since the epoch as ISO 8601 in UTC, limited to the years 1970 to 9999.

    The limit is needed because the time of a file may be any number.
    """
    moment = datetime.fromtimestamp(min(max(seconds, 0), LAST_SECOND), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(moment: str) -> float:
    """Parse a time that `iso` rendered, into seconds since the epoch. Raises ValueError."""
    return datetime.fromisoformat(moment).timestamp()
