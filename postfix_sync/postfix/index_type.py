"""A map type as main.cf names it, and the index that this Postfix makes of it. Pure."""

from dataclasses import dataclass
from pathlib import Path

from postfix_sync.model import INDEX_SUFFIX

SUCCESSORS = ("lmdb", "cdb")
"""The map types to change over to from one that Postfix warns of, the preferred one first."""

_TEXT = "\0"
"""What stands for the name of the text in a standing line of `IndexType`."""


@dataclass(frozen=True)
class IndexType:
    """A map type as main.cf names it, and what this Postfix makes of that name.

    Postfix 3.11 may open another type than main.cf names, and may warn of a type whenever it is
    used (NON_BERKELEYDB_README).
    """

    name: str
    opened: str
    """The type of the index that Postfix builds and reads: another than `name` if it redirects."""
    standing: frozenset[str] = frozenset()
    """What postmap(1) prints about the type whatever the map, with _TEXT for the text's name."""

    def index(self, text: Path) -> Path:
        """Return the path of the index beside a text."""
        return text.with_name(text.name + INDEX_SUFFIX[self.opened])

    def is_standing(self, line: str, text: Path) -> bool:
        """Decide whether a line of postmap(1) is about the type, and not about this map."""
        return line.replace(str(text), _TEXT) in self.standing

    @property
    def warnings(self) -> list[str]:
        """What Postfix warns of about the type, such as that it is deprecated."""
        told = (line.partition("warning: ")[2] for line in sorted(self.standing))
        return [line.removeprefix(f"{_TEXT}: ") for line in told if line]
