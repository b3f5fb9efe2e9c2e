"""Order the changes of setup to main.cf, and compute how to undo them. Pure.

A `Step` is one replacement of main.cf, recorded as the text before and after it, and as changes of
parameters. If the file was not edited since, undo restores the text before to the byte. If it was,
each parameter is undone separately (`Change.reversed`): what setup added to it is removed, and what
others wrote is kept.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Annotated, NotRequired, TypeAlias, TypedDict

from postfix_sync.postfix.match_list import items
from postfix_sync.store.json_reader import parse

ACCEPTING = frozenset(
    {
        "local_recipient_maps",
        "mydestination",
        "relay_domains",
        "relay_recipient_maps",
        "virtual_alias_domains",
        "virtual_alias_maps",
        "virtual_mailbox_domains",
        "virtual_mailbox_maps",
    }
)
"""The parameters that make Postfix accept mail; all others decide where the mail goes."""


@dataclass(frozen=True)
class Change:
    """A change of one parameter's value; None means that main.cf does not set the parameter."""

    parameter: str
    before: str | None
    after: str | None
    default: str = ""
    """The parameter's default as it is written, in effect if main.cf does not set it."""
    why: str = ""

    @property
    def shown(self) -> str:
        """The change as a text: `parameter: before -> after`."""
        return f"{self.parameter}: {_shown(self.before)} -> {_shown(self.after)}"

    def reversed(self, present: str | None) -> "Change | None":
        """Return the change that undoes this one in the value `present`; None if there is none."""
        if present is None or present == self.before:
            return None
        if present == self.after:
            return self._back(present, self.before)
        if not self._is_of_tables:
            return None
        rest = present
        for lost, added in self._edits:
            missing = [item for item in lost if item not in items(present)]
            for number, item in enumerate(added):
                rest = _exchanged(rest, item, [] if number else missing)
        if rest == present:
            return None
        if self.before is None and rest == self.default:
            return self._back(present, None)
        # A value that is empty without our items was not empty before, unless it was set so.
        return self._back(present, rest or (self.before if self.before == "" else None))

    def is_overwritten(self, present: str | None) -> bool:
        """Return whether the value of setup was replaced by another, so that undo is impossible."""
        return present not in {None, self.before, self.after} and not self._is_of_tables

    @property
    def _edits(self) -> list[tuple[list[str], list[str]]]:
        """The removed items, and the items that replaced them; each list may be empty.

        Removed items that are not tables, such as the default $virtual_maps, are not restored.
        """
        before = items(self.default if self.before is None else self.before)
        after = items(self.after or "")
        return [
            ([item for item in before[i:j] if _is_table(item)], after[k:m])
            for tag, i, j, k, m in SequenceMatcher(
                None, before, after, autojunk=False
            ).get_opcodes()
            if tag != "equal"
        ]

    @property
    def _is_of_tables(self) -> bool:
        """Whether it can be undone item by item: only items were added, or all are tables."""
        before = items(self.default if self.before is None else self.before)
        lost = [item for item in before if item not in items(self.after or "")]
        return not lost or all(_is_table(item) for _, added in self._edits for item in added)

    def _back(self, present: str, target: str | None) -> "Change":
        return Change(self.parameter, present, target, self.default, "setup has changed it")


def _is_table(item: str) -> bool:
    """Return whether an item names a table, type:name."""
    return bool(re.match(r"(?:proxy:)?[a-z][\w-]*:.", item))


def _exchanged(value: str, item: str, others: list[str]) -> str:
    """Replace an item of a list by other items, or by none, and keep all other bytes."""
    found = re.search(rf"(?:^|(?<=[\s,])){re.escape(item)}(?=$|[\s,])", value)
    if not found:
        return value
    before, after = value[: found.start()], value[found.end() :]
    if others:
        return f"{before}{', '.join(others)}{after}"
    return before.rstrip(" \t,") + after if before else after.lstrip(" \t,")


def _shown(value: str | None) -> str:
    return "(not set)" if value is None else value or "(empty)"


@dataclass(frozen=True)
class Step:
    """One replacement of main.cf."""

    before: str
    after: str
    """The whole text, decoded as Latin-1, so that any bytes in the file can be restored."""
    changes: tuple[Change, ...]
    confirmed: bool = False
    """Whether Postfix was reloaded after it, and replied as before."""


def in_order(changes: Sequence[Change]) -> list[tuple[Change, ...]]:
    """Return the changes as steps; Postfix has to be reloaded after each of them.

    Routes come first, and acceptance after them: each process reads main.cf when it starts, and a
    process that has read the new text must not accept mail that another process cannot route yet.
    """
    routing = tuple(change for change in changes if change.parameter not in ACCEPTING)
    accepting = tuple(change for change in changes if change.parameter in ACCEPTING)
    return [step for step in (routing, accepting) if step]


def undoing(steps: Iterable[Step], present: Mapping[str, str]) -> list[Change]:
    """Return the changes to main.cf's current values that undo all steps, the last step first."""
    values: dict[str, str | None] = dict(present)
    first: dict[str, Change] = {}
    for step in reversed(list(steps)):
        for change in step.changes:
            name = change.parameter
            if back := change.reversed(values.get(name)):
                values[name] = back.after
                first.setdefault(name, back)
    return [
        Change(name, present.get(name), values[name], change.default, change.why)
        for name, change in first.items()
    ]


def overwritten(steps: Iterable[Step], present: Mapping[str, str]) -> list[Change]:
    """Return the changes that cannot be undone, because the value was changed again since."""
    return [
        change
        for step in steps
        for change in step.changes
        if change.is_overwritten(present.get(change.parameter))
    ]


def to_json(steps: Iterable[Step]) -> bytes:
    """Encode the steps as JSON, for the record."""
    return json.dumps({"steps": [asdict(step) for step in steps]}, indent=1).encode() + b"\n"


def _is_text(text: str) -> bool:
    """Return whether a text may be main.cf's: each character stands for a byte."""
    return all(ord(character) < 256 for character in text)


def _is_value(text: str) -> bool:
    """Return whether a text may be a value that postconf(1) prints and accepts."""
    return _is_text(text) and "\0" not in text


_Text: TypeAlias = Annotated[str, _is_text]
_Value: TypeAlias = Annotated[str, _is_value]


class _Change(TypedDict):
    parameter: _Value
    before: _Value | None
    after: _Value | None
    default: NotRequired[_Value]
    why: NotRequired[str]


class _Step(TypedDict):
    before: _Text
    after: _Text
    changes: list[_Change]
    confirmed: bool


class _Steps(TypedDict):
    steps: list[_Step]


def from_json(content: bytes) -> tuple[Step, ...]:
    """Decode what `to_json` has encoded. Raises Damaged on anything else."""
    return tuple(
        Step(
            before=step["before"],
            after=step["after"],
            changes=tuple(
                Change(
                    change["parameter"],
                    change["before"],
                    change["after"],
                    change.get("default", ""),
                    change.get("why", ""),
                )
                for change in step["changes"]
            ),
            confirmed=step["confirmed"],
        )
        for step in parse(content, _Steps)["steps"]
    )
