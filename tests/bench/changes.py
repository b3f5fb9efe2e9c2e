"""The changes of Mailman's lists whose cost is measured.

A round makes each of them once, and the next round begins with as many lists: what one change adds,
another one removes, and the others go back and forth.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.lists import HOP, ListFiles, list_name
from tests.parts.site import Site

OTHER_HOP = "lmtp:[127.0.0.1]:8025"

FEWEST_FOR_PERCENT = 200
"""With fewer lists, one per cent is not two lists: one to add, and one to remove."""


@dataclass(frozen=True)
class Expected:
    """A key of a map, and whether the map has it, or the value that it has, after a change."""

    map_name: str
    key: str
    value: str | bool

    def is_true(self, site: Site) -> bool:
        """Query the installed map with postmap."""
        found = site.lookup(self.map_name, [self.key])
        if isinstance(self.value, bool):
            return (self.key in found) is self.value
        return found.get(self.key) == self.value


@dataclass(frozen=True)
class Change:
    """A change: `make` changes the lists, and returns what is then expected of the maps."""

    name: str
    make: Callable[[ListFiles], Expected | None]
    always_reloads: bool = False
    """Whether it takes a reload of Postfix with every map type."""
    rewrites: bool = True
    """Whether Mailman writes its files."""
    fewest: int = 0
    """The smallest number of lists with which it is possible."""


def new_name(files: ListFiles) -> str:
    """Return the name of the list that comes and goes, which is in the middle of the file."""
    return list_name(files.count // 2, files.count, "x")


def _add(files: ListFiles) -> Expected:
    name = new_name(files)
    files.add(name)
    return Expected("postfix_recipients", name, value=True)


def _remove(files: ListFiles) -> Expected:
    name = new_name(files)
    files.remove(name)
    return Expected("postfix_recipients", name, value=False)


def _move(files: ListFiles) -> Expected:
    name = list_name(files.count // 3, files.count)
    hop = OTHER_HOP if files.hop_of(name) == HOP else HOP
    files.move(name, hop)
    return Expected("postfix_lmtp", name, value=hop)


def _percent(files: ListFiles) -> Expected:
    """Rename every 200th list: half a per cent is removed, and half a per cent is added."""
    numbers = range(0, files.count - 199, 200)
    plain = [list_name(each, files.count) for each in numbers]
    renamed = [list_name(each, files.count, "y") for each in numbers]
    old, new = (plain, renamed) if plain[0] in files.names else (renamed, plain)
    files.remove(*old)
    files.add(*new)
    return Expected("postfix_recipients", new[-1], value=True)


def _nothing(files: ListFiles) -> None:
    return None


CHANGES = (
    Change("added", _add),
    Change("moved", _move, always_reloads=True),
    Change("header", _nothing),
    Change("nothing", _nothing, rewrites=False),
    Change("percent", _percent, fewest=FEWEST_FOR_PERCENT),
    Change("removed", _remove),
)
