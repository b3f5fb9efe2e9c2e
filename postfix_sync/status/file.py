"""Read, write and lock status.json in the state directory."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import NotPermitted, OutOfReach, SyncError, why
from postfix_sync.log import LOG
from postfix_sync.status.schema import Status, new_status, no_syncs
from postfix_sync.store.json_reader import loads, shaped
from postfix_sync.store.state_directory import LOCK_NAME
from postfix_sync.system.files import denied_hint, read_file, replace_file, unwritable
from postfix_sync.system.lock import lock

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

STATUS_NAME = "status.json"


class DamagedStatus(OutOfReach):
    """status.json exists, but does not hold a status."""


@dataclass(frozen=True)
class StatusFile:
    """status.json in the state directory."""

    directory: Path
    once: str
    """The command that runs a sync, as an operator types it."""

    @classmethod
    def of(cls, config: "Config") -> "StatusFile":
        """Return the status file of a configuration."""
        return cls(config.state_directory, config.command("--once"))

    @property
    def path(self) -> Path:
        """The path of status.json."""
        return self.directory / STATUS_NAME

    async def update(self, change: Callable[[Status], Status]) -> Status:
        """Replace the status by what `change` returns for it, under the lock; return the new one.

        Raises ApplyError or NotPermitted if it cannot be written, and OutOfReach if another sync
        holds the lock too long.
        """
        async with lock(self.directory / LOCK_NAME):
            status = change(self._read_to_replace())
            try:
                replace_file(self.path, json.dumps(status, indent=2).encode() + b"\n")
            except OSError as error:
                raise unwritable(self.path, error) from None
            return status

    def _read_to_replace(self) -> Status:
        """Read as `read_or_new` does; log a damaged file, which is about to be replaced."""
        try:
            return self.read()
        except DamagedStatus as error:
            LOG.warning("%s; it is replaced, and its counters start at zero", error.message)
        except SyncError:
            pass  # there is none
        return new_status()

    def read_or_new(self) -> Status:
        """Read the status; return an empty one if there is none, or if it cannot be read."""
        try:
            return self.read()
        except SyncError:
            return new_status()

    def read(self) -> Status:
        """Read the status.

        Raises OutOfReach if there is none, DamagedStatus if the file holds anything else, and
        NotPermitted if it must not be read.
        """
        try:
            found = loads(read_file(self.path))
            _complete(found)
            return shaped(found, Status)
        except PermissionError as error:
            raise NotPermitted(
                f"{self.path}: {why(error)}", denied_hint(self.path, error)
            ) from None
        except FileNotFoundError as error:
            raise OutOfReach(
                f"{self.path}: {why(error)}: no sync has been run yet",
                f"run one: {self.once}",
            ) from None
        except (OSError, ValueError) as error:
            raise DamagedStatus(
                f"{self.path}: is not a status file: {why(error)}", f"run a sync: {self.once}"
            ) from None


def _complete(found: object) -> None:
    """Add the keys that a file of an earlier version lacks, with their defaults."""
    if not isinstance(found, dict):
        return
    found.setdefault("generation", None)
    found.setdefault("held", False)
    found.setdefault("held_since", None)
    found.setdefault("waiting", "")
    found.setdefault("clusters", {})
    found.setdefault("passes", no_syncs())
    found.setdefault("queue", None)
    sources = found.get("sources")
    for source in sources.values() if isinstance(sources, dict) else ():
        if isinstance(source, dict):
            source.setdefault("failing_since", None)
    destinations = found.get("destinations")
    for destination in destinations.values() if isinstance(destinations, dict) else ():
        if isinstance(destination, dict):
            down = destination.get("up") is False
            destination.setdefault("failures", int(down))
            destination.setdefault("last_failure", destination.get("since") if down else None)
            destination.setdefault("last_flush", None)
