"""Odd JSON and bytes, which no version of postfix-sync has stored."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = b"[" * 100_000

ODD_FILES = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": b"1",
    "no number": b"NaN",
    "cut short": b'{"generation": 1, "sou',
    "nested deeply": DEEP,
    "objects nested deeply": b'{"a":' * 100_000,
    "a number of 5000 digits": b"1" * 5000,
    "zeros": bytes(4096),
    "no UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a character": b'{"a": "\\ud800"}',
}

ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**400,
    2**63,
    1.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "\0",
    "a b\nc\td",
    "\ud800",
    "9999-99-99T00:00:00Z",
    [],
    [None],
    ["a", 1],
    {},
    {"": None},
    {"a": {"b": []}},
]

_plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()

json_values = st.recursive(
    _plain | st.sampled_from(ODD_VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def mutated(document: Any) -> Iterator[Any]:
    """Yield copies of a document, each with one value replaced by an odd one or removed."""
    for path in _paths(document):
        for value in ODD_VALUES:
            yield _exchanged(document, path, value)
        yield _exchanged(document, path)


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield (key,)
            yield from ((key, *path) for path in _paths(value[key]))


def _exchanged(document: Any, path: tuple[Any, ...], *value: Any) -> Any:
    found = copy.deepcopy(document)
    around = found
    for key in path[:-1]:
        around = around[key]
    if value:
        around[path[-1]] = value[0]
    else:
        del around[path[-1]]
    return found


def dump(document: Any) -> bytes:
    """Return a document as bytes, including NaN and lone surrogates."""
    return json.dumps(document).encode()
