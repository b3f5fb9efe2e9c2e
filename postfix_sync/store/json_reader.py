"""Read the JSON that an earlier run has stored: a value of the expected shape, or one error. Pure.

A file may have any content after a crash, on a disk with errors, or after an edit. A `TypedDict`
describes the expected content; for any bytes, `parse` returns that content or raises `Damaged`. The
module that owns the file decides what a damaged file means.
"""

import json
import re
from collections.abc import Callable, Iterable
from types import UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

T = TypeVar("T")

_Fits: TypeAlias = Callable[[Any], bool]

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_LARGEST = 2**63
"""The limit of a number's absolute value: stored numbers are far smaller, and larger times and
counters can't be displayed."""


def _is_pair(numbers: list[int]) -> bool:
    return len(numbers) == 2


Pair: TypeAlias = Annotated[list[int], _is_pair]
"""Two whole numbers in a stored file."""


class Damaged(ValueError):
    """The error for bytes that differ from what was stored; its text is the problem."""


def parse(content: bytes, kind: type[T]) -> T:
    """Return the JSON document in `content`, of the shape of `kind`. Raises Damaged."""
    return shaped(loads(content), kind)


def loads(content: bytes) -> object:
    """Return the JSON document in `content`, without a check of its shape.

    Its numbers are finite and have 64 bits at most, and its texts can be encoded as UTF-8, which
    Python's json module does not guarantee. Raises Damaged.
    """
    try:
        found = json.loads(
            content.decode(),
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if _ESCAPED_SURROGATE.search(content):  # of a valid pair, or a lone surrogate
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise Damaged("it is nested too deeply") from None
    except ValueError as error:
        raise Damaged(str(error)) from None
    return cast("object", found)


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) < 20 else _LARGEST
    if abs(number) >= _LARGEST:
        raise Damaged(f"a number has {len(digits)} digits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise Damaged(f"{text[:20]} is not a number")
    return number


def shaped(found: object, kind: type[T]) -> T:
    """Return `found` if it is of the shape of `kind`, a TypedDict. Raises Damaged.

    The values may be TypedDict, dict[str, X], list[X], X | Y, plain types, and Annotated[X, test]:
    an X for which the function `test` returns true. Keys that `kind` does not name are ignored.
    """
    if type(found) is not dict:
        raise Damaged("it is not a JSON object")
    for key, (required, fits) in _keys(kind).items():
        if key in found:
            if not fits(found[key]):
                raise Damaged(f'"{key}" has another content than expected')
        elif required:
            raise Damaged(f'"{key}" is missing')
    return cast("T", found)


def _keys(kind: type[object]) -> dict[str, tuple[bool, _Fits]]:
    """Return, by key of a TypedDict, whether the key is required, and a test of its value."""
    return {
        key: (get_origin(value) is not NotRequired, _test(value))
        for key, value in get_type_hints(kind, include_extras=True).items()
    }


def _test(kind: Any) -> _Fits:
    """Return a test of whether a value is of a kind; fast, because a map has a million entries."""
    if make := _TESTS.get(get_origin(kind)):
        return make(*get_args(kind))
    if is_typeddict(kind):
        return _is_object(kind)
    types = {float, int} if kind is float else {kind}
    return lambda value: type(value) in types


def _is_object(kind: type[object]) -> _Fits:
    keys = _keys(kind).items()
    return lambda value: (
        type(value) is dict
        and all(
            fits(value[key]) if key in value else not required for key, (required, fits) in keys
        )
    )


def _is_dict(_: Any, kind: Any) -> _Fits:
    fit = _test_of_all(kind)
    return lambda value: type(value) is dict and fit(value.values())


def _is_list(kind: Any) -> _Fits:
    fit = _test_of_all(kind)
    return lambda value: type(value) is list and fit(value)


def _test_of_all(kind: Any) -> Callable[[Iterable[Any]], bool]:
    """Return a test of whether all of some values are of a kind, without a step for each text."""
    if kind is str:
        return lambda values: {str}.issuperset(map(type, values))
    each = _test(kind)
    return lambda values: all(map(each, values))


def _is_any(*kinds: Any) -> _Fits:
    several = [_test(kind) for kind in kinds]
    return lambda value: any(fits(value) for fits in several)


def _is_annotated(kind: Any, test: _Fits) -> _Fits:
    plain = _test(kind)
    return lambda value: plain(value) and test(value)


_TESTS: dict[Any, Callable[..., _Fits]] = {
    Annotated: _is_annotated,
    NotRequired: _test,
    Union: _is_any,
    UnionType: _is_any,
    dict: _is_dict,
    list: _is_list,
}
"""By the typing.get_origin of a kind, the function that makes its test from its arguments."""
