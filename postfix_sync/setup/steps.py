"""What setup changes in main.cf, in which order, and how it is taken out again. Pure.

A `Step` is one replacement of main.cf, remembered as its text before and after, and parameter by
parameter. Where nobody has touched the file since, the text before comes back to the byte. Where
somebody has, each parameter is looked at by itself (`Change.reversed`): what was added to it goes,
and what others have written stays.
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
"""The parameters that make Postfix take mail; all others say what becomes of it."""


@dataclass(frozen=True)
class Change:
    """One parameter, from a value to another; None: main.cf does not set it."""

    parameter: str
    before: str | None
    after: str | None
    default: str = ""
    """What it is, as it is written, where main.cf does not set it."""
    why: str = ""

    @property
    def shown(self) -> str:
        """For people: `parameter: before -> after`."""
        return f"{self.parameter}: {_shown(self.before)} -> {_shown(self.after)}"

    def reversed(self, present: str | None) -> "Change | None":
        """What takes this change out of the value that main.cf has now; None: there is nothing."""
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
        # What comes to nothing without us was never empty on purpose.
        return self._back(present, rest or (self.before if self.before == "" else None))

    def is_overwritten(self, present: str | None) -> bool:
        """Whether a value that setup has replaced was replaced again, so that it can't go back."""
        return present not in {None, self.before, self.after} and not self._is_of_tables

    @property
    def _edits(self) -> list[tuple[list[str], list[str]]]:
        """What was there, and what has taken its place; each may be nothing.

        What comes to nothing, as the default $virtual_maps mostly does, is not put back.
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
        """Whether it can be taken out item by item: a list that was added to, or of tables."""
        before = items(self.default if self.before is None else self.before)
        lost = [item for item in before if item not in items(self.after or "")]
        return not lost or all(_is_table(item) for _, added in self._edits for item in added)

    def _back(self, present: str, target: str | None) -> "Change":
        return Change(self.parameter, present, target, self.default, "setup has changed it")


def _is_table(item: str) -> bool:
    """Whether it names a table, type:name."""
    return bool(re.match(r"(?:proxy:)?[a-z][\w-]*:.", item))


def _exchanged(value: str, item: str, others: list[str]) -> str:
    """A list with other items, maybe none, in the place of one, everything else as it was."""
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
    """The whole text, as bytes of Latin-1: whatever is in the file comes back as it was."""
    changes: tuple[Change, ...]
    confirmed: bool = False
    """Postfix was told of it, and went on as before."""


def in_order(changes: Sequence[Change]) -> list[tuple[Change, ...]]:
    """The changes as steps, each to be made visible to Postfix before the next.

    Routes first, acceptance after it: main.cf is read by each process when it starts, and one that
    has read the new text must not take mail that another one can't route yet.
    """
    routing = tuple(change for change in changes if change.parameter not in ACCEPTING)
    accepting = tuple(change for change in changes if change.parameter in ACCEPTING)
    return [step for step in (routing, accepting) if step]


def undoing(steps: Iterable[Step], present: Mapping[str, str]) -> list[Change]:
    """What taking out all steps, the last one first, makes of the values that main.cf has now."""
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
    """The changes that can't be taken out, because somebody has changed the value again."""
    return [
        change
        for step in steps
        for change in step.changes
        if change.is_overwritten(present.get(change.parameter))
    ]


def to_json(steps: Iterable[Step]) -> bytes:
    """The steps for a file."""
    return json.dumps({"steps": [asdict(step) for step in steps]}, indent=1).encode() + b"\n"


def _is_text(text: str) -> bool:
    """Whether it may have been in main.cf, each byte of which is a character."""
    return all(ord(character) < 256 for character in text)


def _is_value(text: str) -> bool:
    """Whether postconf(1) may have printed it, and takes it."""
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
    """The inverse of `to_json`. Raises Damaged on anything else."""
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
