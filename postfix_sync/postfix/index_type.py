"""A map type as main.cf names it, and the index that this Postfix makes of it. Pure."""

from dataclasses import dataclass
from pathlib import Path

from postfix_sync.model.map_names import INDEX_SUFFIX

SUCCESSORS = ("lmdb", "cdb")
"""The map types that replace a type that Postfix warns of, the preferred one first."""

TEXT = "\0"
"""The placeholder for the name of the text in `IndexType.standing`."""


@dataclass(frozen=True)
class IndexType:
    """A map type as main.cf names it, and the type that this Postfix opens for that name.

    Postfix 3.11 may open another type than main.cf names, and may warn of a type whenever it is
    used (NON_BERKELEYDB_README).
    """

    name: str
    opened: str
    """The type of the index that Postfix builds and reads; differs from `name` if it redirects."""
    standing: frozenset[str] = frozenset()
    """The lines that postmap(1) prints about the type for every map, with TEXT for the text."""

    def index(self, text: Path) -> Path:
        """Return the path of the index beside a text."""
        return text.with_name(text.name + INDEX_SUFFIX[self.opened])

    def is_standing(self, line: str, text: Path) -> bool:
        """Return whether a line of postmap(1) is about the type, and not about this map."""
        return line.replace(str(text), TEXT) in self.standing

    @property
    def warnings(self) -> list[str]:
        """Postfix's warnings about the type, for instance that it is deprecated."""
        warnings = (line.partition("warning: ")[2] for line in sorted(self.standing))
        return [line.removeprefix(f"{TEXT}: ") for line in warnings if line]
