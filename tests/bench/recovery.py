"""Mailman is down on two hosts at the same time, and only one of them flushes the deferred mail.

It takes a quarter of an hour, because the other one waits for Postfix's retries.
"""

from pathlib import Path

from tests.bench.measure import Row, Say
from tests.bench.plan import Plan
from tests.parts.common import public_directory
from tests.scenarios.recovery import PER_SECOND, side_by_side

PATIENCE = 1800.0


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row for postfix-sync, and one for a postfix-sync with `probe.flush: false`."""
    say(f"recovery: Mailman is down for {plan.down:g} s, and the mail deferred for longer")
    with public_directory(base) as first, public_directory(base) as second:
        ours, theirs = side_by_side((first, second), down=plan.down, after=30, patience=PATIENCE)
    common = {"down": plan.down, "per_second": PER_SECOND}
    return [
        {"what": "postfix-sync", **common, **ours.as_dict()},
        {"what": "without a flush", **common, **theirs.as_dict()},
    ]
