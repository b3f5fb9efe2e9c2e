"""Decide whether an index is changed where the table changes, or built anew. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from postfix_sync.model.maps import Diff
from postfix_sync.model.table import Table

SMALL: Mapping[str, int] = {"lmdb": 500, "hash": 20, "btree": 20}
"""By type, how many times as many entries as changed keys a map must have for its index to be
changed. Measured: on lmdb, each key is a transaction of about 1.2 ms, and a rebuild takes 3 us an
entry; hash and btree are changed in a copy. postmap(1) can only rebuild a cdb."""


@dataclass(frozen=True)
class Publish:
    """Build, check and publish one map. `fresh`: no reader can have its index open."""

    name: str
    table: Table[str]
    fresh: bool = False
    before: Table[str] | None = None
    """What its index holds before the step; None if that is not certain."""


def small_change(step: Publish, opened: str) -> Diff | None:
    """Return the entries to change in an index of the type `opened`; None to build it anew."""
    if step.fresh or not step.before or opened not in SMALL:
        return None
    change = Diff.between(step.before, step.table)
    keys = len(change.added) + len(change.removed) + len(change.changed)
    return change if keys * SMALL[opened] <= len(step.table) else None
