"""Make sections of the mappings of a document, and collect every problem. Pure.

A section is a dataclass of schema.py. The type of a field is what its key may have: a value of
values.py, another section, or a list of either; and whether it may be null.
"""

import difflib
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from postfix_sync.config.strict_yaml import At
from postfix_sync.config.values import OneOrMore

Section = TypeVar("Section")


class Problem(NamedTuple):
    """What is wrong with a value, or with the lack of one, and its place in the document."""

    at: At
    text: str


class Invalid(ValueError):
    """A document has problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems


def read(section: type[Section], value: object) -> Section:
    """Return the section that `value` has. Raises Invalid with every problem."""
    problems: list[Problem] = []
    found: Section = _read(section, value, (), problems)
    if problems:
        raise Invalid(problems)
    return found


def keys(section: type[Any]) -> dict[str, Field[Any]]:
    """Return the keys of a section, and the field of each."""
    return {field.name: field for field in fields(section) if field.metadata.get("key", True)}


def is_required(field: Field[Any]) -> bool:
    """Return whether the key of a field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def _read(kind: Any, value: object, at: At, problems: list[Problem]) -> Any:
    """Return what `kind` makes of a value; None after a problem, which is added to `problems`."""
    inner = get_args(kind)
    if is_dataclass(kind):
        return _read_section(kind, value, at, problems)
    if inner[-1] is NoneType:
        return None if value is None else _read(inner[0], value, at, problems)
    if get_origin(kind) is list:
        return _read_list(inner[0], value, at, problems)
    if isinstance(inner[1], OneOrMore):
        if value == []:
            problems.append(Problem(at, f"expected one {inner[1].item}"))
        return _read(inner[0], value, at, problems)
    try:
        return inner[1](value)
    except ValueError as error:
        problems.append(Problem(at, str(error)))
        return None


def _read_section(section: Any, value: object, at: At, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        problems.append(Problem(at, "expected a mapping of keys"))
        return None
    known = keys(section)
    before = len(problems)
    problems += [
        Problem((*at, key), f"unknown key; {_did_you_mean(key, list(known))}")
        for key in value.keys() - known.keys()
    ]
    found = {}
    for key, field in known.items():
        if key in value:
            found[key] = _read(field.type, value[key], (*at, key), problems)
        elif is_required(field):
            problems.append(Problem((*at, key), "missing; it is required"))
    return section(**found) if len(problems) == before else None


def _read_list(kind: Any, value: object, at: At, problems: list[Problem]) -> list[Any] | None:
    if not isinstance(value, list):
        problems.append(Problem(at, "expected a valid list"))
        return None
    return [_read(kind, item, (*at, number), problems) for number, item in enumerate(value)]


def _did_you_mean(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key[:80], known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"
