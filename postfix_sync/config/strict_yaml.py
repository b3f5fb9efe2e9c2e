"""Read YAML without surprising conversions: the values, the line of each, and every problem. Pure.

PyYAML's composer makes a tree of nodes with line numbers. Its constructors are not used: YAML 1.1
reads 0022 as 18, 22:22 as 1342 and 2026-11-27 as a date, and a constructor raises exceptions of
many types for invalid input (`!!int ''`). This module accepts a scalar if it is text, a decimal
number, a boolean or null; it refuses any other, and the message says what YAML 1.1 would read.
"""

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from postfix_sync.errors import escape, quote

At: TypeAlias = tuple[str | int, ...]
"""The keys and list positions that lead to a value."""

VALUES_AT_MOST = 100_000
"""Values of a document at most, each alias counted as the values of its anchor: nine lines of
aliases can be a billion values."""

_TAG = "tag:yaml.org,2002:"

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_NULLS = {"", "~", "null"}

LENGTH_OF_NUMBER = 40
"""Characters of a number at most for which a message shows the value that YAML 1.1 reads."""

_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FRACTION = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}")


class NotYaml(ValueError):
    """The bytes are not a usable YAML document: the first problem, with its line."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


@dataclass(frozen=True)
class Note:
    """A remark on a scalar that YAML does not read as text."""

    text: str
    is_number: bool


@dataclass
class Document:
    """The content of a document, and its problems."""

    value: Any = None
    """Dictionaries with text as keys, lists, text, int, float, bool and None."""
    lines: dict[At, int] = field(default_factory=dict)
    notes: dict[At, Note] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Lines, each with its problem; if there is one, `value` lacks a part of the document."""
    refused: set[At] = field(default_factory=set)
    """The values that are refused and replaced by None; each has an entry in `problems`."""


def load(content: bytes) -> Document:
    """Return the content of a document. Raises NotYaml, and no other exception for any bytes."""
    root = _compose(content)
    document = Document(lines={(): 1})
    if root:
        try:
            document.value = _Reader(document).value(root, ())
        except RecursionError:
            raise NotYaml(1, "nested too deeply") from None
    return document


def _compose(content: bytes) -> yaml.Node | None:
    loader = None
    try:
        loader = yaml.SafeLoader(content)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml(mark.line + 1 if mark else 1, str(error.problem or error)) from None
    except yaml.reader.ReaderError as error:
        before = content[: error.position]
        if error.encoding == "unicode":  # then the position counts characters, not bytes
            before = content.decode("utf-8", "replace")[: error.position].encode()
        said = " ".join(str(error).split()).replace(' in "<byte string>"', "")
        raise NotYaml(before.count(b"\n") + 1, said) from None
    except RecursionError:
        raise NotYaml(loader.line + 1 if loader else 1, "nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - such as OverflowError of "\UFFFFFFFF"
        raise NotYaml(loader.line + 1 if loader else 1, f"it can't be read: {error}") from None


def dotted(at: At) -> str:
    """Return a path as `sources[0].path`, with keys escaped, because a key may be any text."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{escape(part[:80])}" for part in at)
    return "".join(parts).lstrip(".")


class _Reader:
    """A converter of nodes to values, which adds lines, notes and problems to a Document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._around: list[yaml.Node] = []

    def value(self, node: yaml.Node, at: At) -> Any:
        """Return the value of a node. Raises NotYaml if aliases expand to too many values."""
        self._count += 1
        if self._count > VALUES_AT_MOST:
            raise NotYaml(_line(node), f"more than {VALUES_AT_MOST} values, aliases included")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if any(node is outer for outer in self._around):
            raise NotYaml(_line(node), "an anchor (&) whose content has an alias (*) of it")
        self._around.append(node)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            found: Any = self._mapping(node, at)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            found = self._sequence(node, at)
        else:
            self._refuse(node, at, f"the tag {_tag(node)} means nothing here")
            found = None
        self._around.pop()
        return found

    def _sequence(self, node: yaml.SequenceNode, at: At) -> list[Any]:
        found = []
        for number, item in enumerate(node.value):
            self._document.lines[*at, number] = _line(item)
            found.append(self.value(item, (*at, number)))
        return found

    def _mapping(self, node: yaml.MappingNode, at: At) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[tuple[int, Any]] = []
        seen = set()
        for key, value in node.value:
            line = _line(key)
            if not isinstance(key, yaml.ScalarNode):
                self._problem(line, at, "expected a name as key, not a list or a mapping")
                continue
            inner = (*at, key.value)
            if key.value in seen:
                self._problem(line, inner, "duplicate key")
            seen.add(key.value)
            self._document.lines[inner] = line
            if key.tag == f"{_TAG}merge":
                merged.append((line, self.value(value, inner)))
            else:
                found[key.value] = self.value(value, inner)
        for line, value in merged:
            self._merge(found, line, value, at)
        return found

    def _merge(self, found: dict[str, Any], line: int, value: Any, at: At) -> None:
        """Add the keys of `value`, a mapping or a list of mappings, that `found` lacks (`<<`)."""
        for mapping in value if isinstance(value, list) else [value]:
            if not isinstance(mapping, dict):
                self._problem(line, (*at, "<<"), "expected a mapping, or a list of mappings")
                continue
            for key in mapping.keys() - found.keys():
                found[key] = mapping[key]
                self._document.lines[*at, key] = line

    def _scalar(self, node: yaml.ScalarNode, at: At) -> Any:
        text: str = node.value
        if node.tag == f"{_TAG}str":
            return text
        try:
            value = _plain(node.tag.removeprefix(_TAG), text)
        except ValueError:
            self._refuse(node, at, f"{quote(text)} {_what_it_is(node)}")
            return None
        if text:
            if isinstance(value, bool):
                read = str(value).lower()
            else:
                read = "nothing" if value is None else "a number"
            said = f"{text} is read as {read}; write it in quotes if it is text"
            self._document.notes[at] = Note(said, is_number=read == "a number")
        return value

    def _refuse(self, node: yaml.Node, at: At, problem: str) -> None:
        self._problem(_line(node), at, problem)
        self._document.refused.add(at)

    def _problem(self, line: int, at: At, problem: str) -> None:
        self._document.problems.append((line, f"{dotted(at) or 'the file'}: {problem}"))


def _plain(kind: str, text: str) -> bool | int | float | None:
    """Return the value of a plain scalar of this kind. Raises ValueError if it has none."""
    known = text.lower()
    if kind == "null" and known in _NULLS:
        return None
    if kind == "bool" and known in _BOOLEANS:
        return _BOOLEANS[known]
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    if kind == "float" and _FRACTION.fullmatch(text):
        return float(text)
    raise ValueError


def _what_it_is(node: yaml.ScalarNode) -> str:
    """Return why a scalar is refused: what YAML 1.1 reads there, and what to write instead."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "timestamp":
        return "is read as a date; write it in quotes if it is text"
    if kind not in {"int", "float"}:
        return f"has the tag {_tag(node)}, which means nothing here; write it in quotes"
    if len(text) > LENGTH_OF_NUMBER:
        return f"has {len(text)} digits; write it in quotes if it is text"
    loader = yaml.SafeLoader("")
    make = loader.construct_yaml_int if kind == "int" else loader.construct_yaml_float
    try:
        number = make(node)
    except (ValueError, IndexError):
        return "is not a number"
    return f"is read as {number}; write {number}, or put it in quotes if it is text"


def _tag(node: yaml.Node) -> str:
    tag = node.tag
    return quote(f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag)


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
