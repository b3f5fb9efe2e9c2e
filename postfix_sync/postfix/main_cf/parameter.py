"""Find the maps in a parameter of main.cf, and edit its value. Pure.

An edit keeps every other byte of the value: `$names` are not expanded, and items are added at the
end or at the front.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.model.finding import Verdict
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.postfix.match_list import items, unproxied

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


def type_of(item: str) -> str:
    """Return the type of a `type:name` item."""
    return unproxied(item).partition(":")[0]


def path_of(item: str) -> str:
    """Return the name of a `type:name` item; empty for any other item."""
    return unproxied(item).partition(":")[2]


@dataclass(frozen=True)
class Installation:
    """The maps, as main.cf should name them."""

    directory: Path
    map_type: str
    volumes: tuple[Path, ...] = ()
    """Mailman's data directories on this host, whose files main.cf should not name."""
    hosts_used: bool = False
    """Whether the names of destinations are in the hosts file."""

    def reference(self, name: str) -> str:
        """Return a map as main.cf should name it."""
        return f"{self.map_type}:{self.directory / name}"

    def named(self, item: str) -> str:
        """Return the map of ours that an item of main.cf names, as any type; empty for others."""
        return _named(item, self.directory)

    def of_mailman(self, item: str) -> str:
        """Return the file in Mailman's data directory that an item names; empty for others."""
        return next((name for volume in self.volumes if (name := _named(item, volume))), "")


def _named(item: str, directory: Path) -> str:
    path = path_of(item)
    return next((name for name in MAP_NAMES if path == str(directory / name)), "")


@dataclass
class Edit:
    """An edit of a parameter's value, with its reasons."""

    postfix: "Postfix"
    parameter: str
    text: str = ""
    reasons: dict[str, Verdict] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    """The reasons that Postfix does not use a map as it is built: other tables may replace it."""

    def __post_init__(self) -> None:
        self.text = written(self.postfix, self.parameter)

    @property
    def items(self) -> list[str]:
        """The items of the current value, `$names` expanded."""
        return items(self.postfix.parameters[self.parameter])

    def because(self, reason: str, verdict: Verdict = Verdict.FAILURE) -> None:
        """Record why the value has to change."""
        self.reasons[reason] = verdict

    def because_unused(self, reason: str, verdict: Verdict = Verdict.FAILURE) -> None:
        """Record that Postfix does not use the map as it is built."""
        self.because(reason, verdict)
        self.unused.add(reason)

    def append(self, item: str) -> None:
        """Add an item at the end."""
        self.text = f"{self.text}, {item}" if self.text else item

    def prepend(self, item: str) -> None:
        """Add an item at the front, so that it matches before all others."""
        self.text = f"{item}, {self.text}" if self.text else item

    def insert(self, item: str, before: str) -> None:
        """Add an item right before a table that the text names, by proxymap(8) or not."""
        place = rf"(?<![^\s,])(?=(?:proxy:)?{re.escape(before)}(?![^\s,]))"
        self.text = re.sub(place, lambda _: f"{item}, ", self.text, count=1)

    def replace(self, item: str, by: str = "") -> None:
        """Replace an item by another; remove it if `by` is empty or among the items already."""
        if item not in items(self.text):
            # The item is part of a $name: the whole value has to be written out instead.
            self.text = self.postfix.parameters[self.parameter].replace("$", "$$")
        if by and by not in items(self.text):
            alone = rf"(?<![^\s,]){re.escape(item)}(?![^\s,])"
            self.text = re.sub(alone, lambda _: by, self.text)
        else:
            self.text = ", ".join(kept for kept in items(self.text) if kept != item)

    @property
    def problem(self) -> str:
        """The reasons as a text that begins with the parameter; empty without a reason."""
        return f"{self.parameter} {'; and it '.join(self.reasons)}" if self.reasons else ""

    @property
    def verdict(self) -> Verdict:
        """The worst of the reasons."""
        failures = Verdict.FAILURE in self.reasons.values()
        return Verdict.FAILURE if failures else Verdict.WARNING

    @property
    def is_unused(self) -> bool:
        """Whether the only failures are that Postfix does not use the map as it is built."""
        failures = {reason for reason, said in self.reasons.items() if said is Verdict.FAILURE}
        return bool(failures) and failures <= self.unused


_DEFAULT_OF_RELAY_DOMAINS = re.compile(
    r"\$\{\{\$compatibility_level\}\s*<(?:level)?\s*\{2\}\s*\?\s*\{\$mydestination\}\s*:\s*\{\}\}"
)
"""`${{$compatibility_level} <level {2} ? {$mydestination} : {}}`, as `postconf -d` prints it; with
`<` in Postfix before 3.6."""


def written(postfix: "Postfix", parameter: str) -> str:
    """Return a value as it is written, but simplify two defaults.

    `$virtual_maps` is a parameter of Postfix 1, mostly empty. The default of relay_domains is an
    expression that means $mydestination below compatibility_level 2, and is empty from there on.
    """
    text, value = postfix.unexpanded[parameter], postfix.parameters[parameter]
    if text == "$virtual_maps" and not value:
        return ""
    if default := _DEFAULT_OF_RELAY_DOMAINS.match(text):
        rest = text[default.end() :].lstrip(" \t,")  # appended, as README.Debian says
        level = postfix.parameters["compatibility_level"].partition(".")[0]
        means_something = level in {"", "0", "1"} if rest else bool(value)
        return ", ".join(filter(None, ["$mydestination" if means_something else "", rest]))
    return text
