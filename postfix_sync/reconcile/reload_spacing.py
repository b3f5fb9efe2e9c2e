"""How often Postfix may be reloaded. Pure."""

from collections.abc import Iterable

from postfix_sync.errors import Busy

RELOAD_AGE = 10.0
"""Seconds between two reloads of Postfix at least: each costs everybody's mail a moment."""

SLOWEST_RELOADS = 60.0
"""The same, at most, while a destination comes and goes."""

TURN_TAKES = 120.0
"""Seconds after which a reload that is owed has not only to wait for its turn."""

RELOADS_COUNT = 300.0
"""Seconds for which a reload counts towards that."""


def reload_age(made: Iterable[float], now: float) -> float:
    """Return how many seconds the last reload must be past before the next one.

    `made` are the times of those that were made because mail of a list goes elsewhere; `now` is in
    seconds on the same clock.
    """
    recent = sum(now - RELOADS_COUNT < at for at in made)
    return min(RELOAD_AGE * 2.0 ** max(recent - 1, 0), SLOWEST_RELOADS)


def no_turn() -> Busy:
    """Return the error of a change that can't be made visible to Postfix for want of a reload."""
    return Busy(
        "Postfix is reloaded again and again by others, and some lists wait for a reload",
        "see who does: grep 'reload -- ' in Postfix's log, and the times",
    )
