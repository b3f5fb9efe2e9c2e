"""Read and write the hold: an order to install one generation, in a file of the state directory.

The order is written before the maps are changed, and every sync obeys it until it is released.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from postfix_sync.store.generation_number import Number
from postfix_sync.store.json_reader import parse
from postfix_sync.system.files import read_file, remove_file, replace_file, unwritable
from postfix_sync.text import iso


@dataclass(frozen=True)
class Hold:
    """The order to keep the maps as one generation has them."""

    generation: int | None
    """The number to hold; None if the file of the order can't be read."""
    since: float
    """The time of the order, in seconds since the epoch."""
    before: int | None = None
    """The generation that was installed before the order; None if it is unknown."""

    def __str__(self) -> str:
        number = "?" if self.generation is None else self.generation
        return f"held at generation {number} since {iso(self.since)}"


class _Stored(TypedDict):
    """The content of the file; see `Hold`."""

    generation: Number
    since: float
    before: Number | None


@dataclass(frozen=True)
class HoldFile:
    """The file of the order in a state directory."""

    state_directory: Path

    @property
    def path(self) -> Path:
        """Return the file."""
        return self.state_directory / "held.json"

    def read(self) -> Hold | None:
        """Return the order, or None; an order that can't be read has no generation."""
        try:
            found = parse(read_file(self.path), _Stored)
            return Hold(found["generation"], float(found["since"]), found["before"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            since = 0.0
            with suppress(OSError):
                since = self.path.lstat().st_mtime
            return Hold(None, since)

    def write(self, order: Hold) -> None:
        """Write the order. Raises ApplyError or NotPermitted; the previous order is then kept."""
        ordered = {
            "generation": order.generation,
            "since": order.since,
            "before": order.before,
        }
        try:
            replace_file(self.path, json.dumps(ordered).encode() + b"\n")
        except OSError as error:
            raise unwritable(self.path, error) from None

    def remove(self) -> None:
        """Remove the order. Raises ApplyError or NotPermitted; the order is then kept."""
        try:
            remove_file(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None
