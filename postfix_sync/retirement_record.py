"""What is not needed any more, and since when, as a file in the state directory."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from postfix_sync.retirement import Retiring
from postfix_sync.system import read_file, remove_file, replace_file, unwritable


@dataclass(frozen=True)
class RetirementRecord:
    """What is kept for a while, on the disk."""

    path: Path

    def read(self) -> Retiring:
        """Read it; what is damaged is noted again by the next sync, as of then."""
        try:
            found = json.loads(read_file(self.path))
            return Retiring(*(_times(found[part]) for part in ("routes", "names", "moved")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Retiring()

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


def _times(found: object) -> dict[str, float]:
    if not isinstance(found, dict):
        raise TypeError("not an object")
    times = {str(name): float(at) for name, at in found.items()}
    if not all(map(math.isfinite, times.values())):
        raise ValueError("not a time")
    return times
