"""A parameter of main.cf: how it names the maps, and how its value is edited. Pure.

An edit keeps every byte that it isn't about: `$names` stay names, and what is added goes to the end
or to the front.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.model import MAP_NAMES, Verdict
from postfix_sync.postfix.match_list import items, unproxied

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


def type_of(item: str) -> str:
    """The type of a `type:name` item."""
    return unproxied(item).partition(":")[0]


def path_of(item: str) -> str:
    """What a `type:name` item names, nothing where it is no such item."""
    return unproxied(item).partition(":")[2]


@dataclass(frozen=True)
class Installation:
    """The maps, as main.cf should name them."""

    directory: Path
    map_type: str
    volumes: tuple[Path, ...] = ()
    """Mailman's data directories on this host: their files are not for main.cf."""
    hosts_used: bool = False
    """The names of destinations are in the hosts file."""

    def reference(self, name: str) -> str:
        """A map as main.cf should name it."""
        return f"{self.map_type}:{self.directory / name}"

    def named(self, item: str) -> str:
        """The map of ours that an item of main.cf names, as whatever type; else nothing."""
        return _named(item, self.directory)

    def of_mailman(self, item: str) -> str:
        """The file of Mailman's own, in its data directory, that an item names; else nothing."""
        return next((name for volume in self.volumes if (name := _named(item, volume))), "")


def _named(item: str, directory: Path) -> str:
    path = path_of(item)
    return next((name for name in MAP_NAMES if path == str(directory / name)), "")


@dataclass
class Edit:
    """A value on its way to what it should be, with the reasons."""

    postfix: "Postfix"
    parameter: str
    text: str = ""
    reasons: dict[str, Verdict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = written(self.postfix, self.parameter)

    @property
    def items(self) -> list[str]:
        """The items as they take effect at present, `$names` expanded."""
        return items(self.postfix.parameters[self.parameter])

    def because(self, reason: str, verdict: Verdict = Verdict.FAILURE) -> None:
        """Notes why the value has to change."""
        self.reasons[reason] = verdict

    def append(self, item: str) -> None:
        """Adds an item at the end."""
        self.text = f"{self.text}, {item}" if self.text else item

    def prepend(self, item: str) -> None:
        """Adds an item at the front, before what others match."""
        self.text = f"{item}, {self.text}" if self.text else item

    def insert(self, item: str, before: str) -> None:
        """Adds an item right before a table that the text names, by proxymap(8) or not."""
        place = rf"(?<![^\s,])(?=(?:proxy:)?{re.escape(before)}(?![^\s,]))"
        self.text = re.sub(place, lambda _: f"{item}, ", self.text, count=1)

    def replace(self, item: str, by: str = "") -> None:
        """Puts another item into the place of one, or nothing; also where the other is there."""
        if item not in items(self.text):
            # It is spelt with $names: there is no other way than to write out what they stand for.
            self.text = self.postfix.parameters[self.parameter].replace("$", "$$")
        if by and by not in items(self.text):
            alone = rf"(?<![^\s,]){re.escape(item)}(?![^\s,])"
            self.text = re.sub(alone, lambda _: by, self.text)
        else:
            self.text = ", ".join(kept for kept in items(self.text) if kept != item)

    @property
    def problem(self) -> str:
        """The reasons, beginning with the parameter; nothing where there is none."""
        return f"{self.parameter} {'; and it '.join(self.reasons)}" if self.reasons else ""

    @property
    def verdict(self) -> Verdict:
        """The worst of the reasons."""
        failures = Verdict.FAILURE in self.reasons.values()
        return Verdict.FAILURE if failures else Verdict.WARNING


def written(postfix: "Postfix", parameter: str) -> str:
    """A value as it is written, but of a default only what it comes to.

    `$virtual_maps` is a name from Postfix 1, and relay_domains is by default an expression that
    stands for $mydestination below compatibility_level 2, for nothing from there on.
    """
    text, value = postfix.unexpanded[parameter], postfix.parameters[parameter]
    if text == "$virtual_maps" and not value:
        return ""
    if text.startswith("${{$compatibility_level}"):
        return "$mydestination" if value else ""
    return text
