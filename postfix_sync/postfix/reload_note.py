"""The note in the map directory that a reload of Postfix is due: the file .reload.

It is written before a change that needs the reload, so that the next sync makes the reload if this
one is killed.
"""

import contextlib
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import EVERY_DOMAIN
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.postfix.processes import REMEMBERING, Processes
from postfix_sync.system.files import publish_file, read_file, unwritable, write_file

NAME = ".reload"
MODE = 0o644

A_TICK = 1.0
"""Seconds by which the times of processes and of files may differ."""


class OwedReload(NamedTuple):
    """Why a reload is due: see `Installed.unseen` and `Installed.left`."""

    unseen: frozenset[str] = frozenset()
    left: frozenset[Destination] = frozenset()


@dataclass(frozen=True)
class ReloadNote:
    """The note of one map directory; its file is written in `staging` first."""

    directory: Path
    staging: Path

    @property
    def path(self) -> Path:
        """Return the path of the note."""
        return self.directory / NAME

    def due(self, processes: Processes) -> OwedReload | None:
        """Return why a reload is due; None if none is.

        One is due if the note is there and no process has reloaded Postfix since, or if lmtp(8)
        still has a connection to a destination that was left. After a reload by another process,
        the note stays on the disk and is void.
        """
        try:
            noted = self.path.stat().st_mtime
        except OSError:
            return None
        owed = self.read()
        age = processes.oldest(*REMEMBERING)
        was_reloaded = 0 < age < time.time() - noted - A_TICK
        return owed if not was_reloaded or processes.connections(owed.left) else None

    def read(self) -> OwedReload:
        """Read what is noted: nothing if there is no note, all domains if it can't be read."""
        try:
            lines = frozenset(read_file(self.path).decode("utf-8", "replace").split())
        except FileNotFoundError:
            return OwedReload()
        except OSError:
            return OwedReload(frozenset({EVERY_DOMAIN}))
        hops = {line for line in lines if line.startswith("lmtp:")}
        named = (to for hop in hops for to in parse_next_hops(hop))
        return OwedReload(lines - hops, frozenset(to for to in named if not to.is_name))

    def write(self, unseen: AbstractSet[str], left: AbstractSet[Destination]) -> None:
        """Note that a reload is due, and why. Raises ApplyError or NotPermitted."""
        lines = sorted({*unseen, *(destination.next_hop for destination in left)})
        staged = self.staging / NAME
        try:
            write_file(staged, "".join(f"{line}\n" for line in lines).encode(), MODE)
            publish_file(staged, self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def age(self) -> float:
        """Return for how many seconds a reload has been due; 0 if none is noted."""
        with contextlib.suppress(OSError):
            return time.time() - self.path.stat().st_mtime
        return 0.0

    def remove(self) -> None:
        """Remove the note, because Postfix uses all that was published so far."""
        self.path.unlink(missing_ok=True)
