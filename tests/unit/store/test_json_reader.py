"""What an earlier run has stored: the expected shape, or Damaged, whatever the bytes are."""

import json
from collections.abc import Callable
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.store.json_reader import Damaged, loads, parse
from tests.parts.odd_json import ODD_FILES, dump, json_values, mutated


def is_short(text: str) -> bool:
    return len(text) < 10


class Inner(TypedDict):
    """A part of a file."""

    size: float
    note: NotRequired[str]


class Whole(TypedDict):
    """A file with a value of each kind."""

    number: int
    flag: bool
    name: Annotated[str, is_short]
    names: list[str]
    table: dict[str, str]
    inner: dict[str, Inner]
    maybe: Inner | None


WHOLE = {
    "number": 1,
    "flag": True,
    "name": "ants",
    "names": ["a", "ü"],
    "table": {"k": "v"},
    "inner": {"x": {"size": 1, "note": ""}, "y": {"size": 0.5}},
    "maybe": None,
}


def test_what_was_stored_comes_back() -> None:
    assert parse(dump(WHOLE), Whole) == WHOLE
    assert parse(json.dumps(WHOLE, ensure_ascii=False).encode(), Whole) == WHOLE
    more = {**WHOLE, "maybe": {"size": 2}, "of a later version": [1]}
    assert parse(dump(more), Whole) == more
    assert loads(dump("\U0001f41c")) == "\U0001f41c", "an escaped pair is one character"


@pytest.mark.parametrize("content", ODD_FILES.values(), ids=ODD_FILES)
def test_another_file_is_damaged(content: bytes) -> None:
    with pytest.raises(Damaged):
        parse(content, Whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.pop("flag"), '"flag" is missing'),
        (lambda one: one.update(number=True), '"number" has another content than expected'),
        (lambda one: one.update(number=1.0), '"number" has another content than expected'),
        (lambda one: one.update(name="a" * 10), '"name" has another content than expected'),
        (lambda one: one["names"].append(None), '"names" has another content than expected'),
        (lambda one: one["table"].update(k=1), '"table" has another content than expected'),
        (lambda one: one["inner"]["y"].clear(), '"inner" has another content than expected'),
        (lambda one: one.update(maybe=[]), '"maybe" has another content than expected'),
        (lambda one: one.update(number=2**63), "a number has 19 digits"),
        (lambda one: one.update(number=-(10**400)), "a number has 402 digits"),
        (lambda one: one.update(other=float("inf")), "Infinity is not a number"),
        (lambda one: one.update(other="\ud800"), "surrogates not allowed"),
    ],
)
def test_what_is_wrong_is_said(change: Callable[[Any], None], said: str) -> None:
    document = json.loads(json.dumps(WHOLE))
    change(document)
    with pytest.raises(Damaged, match=said):
        parse(dump(document), Whole)


def test_a_float_beyond_all_bounds_is_damage() -> None:
    with pytest.raises(Damaged, match="1e400 is not a number"):
        loads(b"[1e400]")


# Most of a file of the expected shape: where the value fits, it is read.
almost_whole = st.builds(
    lambda key, value: {**WHOLE, key: value}, st.sampled_from(sorted(WHOLE)), json_values
)


@given(st.binary() | (json_values | almost_whole).map(dump))
def test_whatever_the_bytes_it_is_the_shape_or_damaged(content: bytes) -> None:
    try:
        found = parse(content, Whole)
    except Damaged:
        return
    assert found.keys() >= WHOLE.keys()


def test_each_mutation_is_the_shape_or_damaged() -> None:
    damaged = 0
    for document in mutated(WHOLE):
        try:
            json.dumps(parse(dump(document), Whole), ensure_ascii=False, allow_nan=False).encode()
        except Damaged:
            damaged += 1
    assert damaged > 100
