"""status.json in the state directory: read, written and locked."""

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
    """status.json is there, and holds something else."""


@dataclass(frozen=True)
class StatusFile:
    """status.json in the state directory."""

    directory: Path
    once: str
    """The command that makes a pass, as an operator types it."""

    @classmethod
    def of(cls, config: "Config") -> "StatusFile":
        """The one of a configuration."""
        return cls(config.state_directory, config.command("--once"))

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.directory / STATUS_NAME

    async def update(self, change: Callable[[Status], Status]) -> Status:
        """Puts what `change` makes of the status into its place; returns it.

        Raises ApplyError, NotPermitted, or OutOfReach where another pass holds the lock too long.
        """
        async with lock(self.directory / LOCK_NAME):
            status = change(self._read_to_replace())
            try:
                replace_file(self.path, json.dumps(status, indent=2).encode() + b"\n")
            except OSError as error:
                raise unwritable(self.path, error) from None
            return status

    def _read_to_replace(self) -> Status:
        """As `read_or_new`; a damaged file is named, once, as it is about to go."""
        try:
            return self.read()
        except DamagedStatus as error:
            LOG.warning("%s; it is started anew, its counters at zero", error.message)
        except SyncError:
            pass  # there is none
        return new_status()

    def read_or_new(self) -> Status:
        """The status as it stands, or one that says nothing."""
        try:
            return self.read()
        except SyncError:
            return new_status()

    def read(self) -> Status:
        """The status as it stands. Raises OutOfReach where there is none, or NotPermitted."""
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
                f"{self.path}: {why(error)}: no pass has been made yet",
                f"make one: {self.once}",
            ) from None
        except (OSError, ValueError) as error:
            raise DamagedStatus(
                f"{self.path}: is no status file: {why(error)}", f"make a pass: {self.once}"
            ) from None


def _complete(found: object) -> None:
    """Adds what a file of an earlier version does not have."""
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
