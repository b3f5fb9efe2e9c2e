"""What is not needed any more, and since when, as a file in the state directory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from postfix_sync.retirement import Retiring
from postfix_sync.stored import Damaged, parse
from postfix_sync.system import read_file, remove_file, replace_file, unwritable


class _Stored(TypedDict):
    """What the file holds; see `Retiring`."""

    routes: dict[str, float]
    names: dict[str, float]
    moved: dict[str, float]


@dataclass(frozen=True)
class RetirementRecord:
    """What is kept for a while, on the disk."""

    path: Path

    def read(self) -> Retiring:
        """Read it; what is damaged is noted again by the next sync, as of then."""
        try:
            found = parse(read_file(self.path), _Stored)
        except (OSError, Damaged):
            return Retiring()
        return Retiring(found["routes"], found["names"], found["moved"])

    def write(self, retiring: Retiring) -> None:
        """Replace it, or remove it if there is nothing.

        Raises ApplyError or NotPermitted; it is then as it was.
        """
        try:
            if retiring:
                replace_file(self.path, json.dumps(asdict(retiring)).encode() + b"\n")
            else:
                remove_file(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None
