"""Read values of parameters that are times, such as 3h (postconf(5)). Pure."""

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_of(value: str, unit: str) -> int | None:
    """Return a time in seconds, None if it is not a time.

    `unit` is that of a number without one: the unit of the parameter's default (postconf(5)).
    """
    found = re.fullmatch(r"(\d+)([smhdw]?)", value)
    return int(found[1]) * _SECONDS[found[2] or unit] if found else None
