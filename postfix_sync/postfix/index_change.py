"""Decide whether some entries of an index are changed, or the index is rebuilt. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from postfix_sync.model.installed import TextVersion
from postfix_sync.model.maps import Diff
from postfix_sync.model.table import Table

SMALL: Mapping[str, int] = {"lmdb": 500, "hash": 20, "btree": 20}
"""By type, how many times as many entries as changed keys a map must have for its index to be
changed. Measured: on lmdb, each key is a transaction of about 1.2 ms, and a rebuild takes 3 us an
entry; hash and btree are changed in a copy. postmap(1) can only rebuild a cdb."""

TRANSACTIONS = 200
"""Keys of an lmdb index to change at most: each is written to the disk before the next one, which
takes 20 ms on a slow disk."""


@dataclass(frozen=True)
class Publish:
    """Build, check and publish one map. `fresh`: no reader can have its index open."""

    name: str
    table: Table[str]
    fresh: bool = False
    before: Table[str] | None = None
    """What its text and its index hold before the step; None if that is not certain."""
    change: Diff | None = None
    """What the step changes of that."""
    text: TextVersion | None = None
    """The text that holds it, if this is the first step of the map."""

    def over(
        self,
        before: Table[str] | None,
        change: Diff | None = None,
        text: TextVersion | None = None,
    ) -> "Publish":
        """Return the step with what its text and index hold before it, and the change, if known."""
        if before is None:
            return self
        change = change or Diff.between(before, self.table)
        return replace(self, before=before, change=change, text=text)


def small_change(step: Publish, opened: str) -> Diff | None:
    """Return the entries to change in an index of the type `opened`; None to rebuild it.

    postmap(1) folds the keys that it removes, so a key that is not folded, as after an edit of the
    text by hand, may be the same entry as one that stays.
    """
    change = step.change
    if step.fresh or not (step.before and change) or opened not in SMALL:
        return None
    if any(key != key.casefold() for key in change.removed):
        return None
    if opened == "lmdb" and len(change) > TRANSACTIONS:
        return None
    return change if len(change) * SMALL[opened] <= len(step.table) else None
