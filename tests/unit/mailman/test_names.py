"""Names of lists and domains: the patterns for ASCII permit what those for any script permit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.mailman.names import check_address, check_domain
from postfix_sync.postfix.folding import _NON_ASCII

_END = f"[A-Za-z0-9_{_NON_ASCII}]"
_LABEL = rf"{_END}(?:[A-Za-z0-9_\-{_NON_ASCII}]{{0,61}}{_END})?"
LOCAL_PART = re.compile(rf"(?!#)[A-Za-z0-9!#$%&'*+\-./=?^_`{{|}}~{_NON_ASCII}]+")
DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

names = st.text(st.sampled_from("aZ09_-.#/^+@\u00e4\u00df\u00a0\u202e\u3042\n\0 ")) | st.text()
labels = st.builds("{0}{1}{2}".format, st.just("a") | names, st.sampled_from(["", "x" * 62]), names)


def accepts(check: object, text: str) -> bool:
    """Return whether a check accepts a text."""
    assert callable(check)
    try:
        return bool(check(text) == text)
    except ValueError:
        return False


@given(labels)
def test_domain_is_accepted_in_any_script(text: str) -> None:
    expected = DOMAIN.fullmatch(text) is not None and len(text.encode(errors="replace")) <= 255
    assert accepts(check_domain, text) == expected


@given(names)
def test_local_part_is_accepted_in_any_script(text: str) -> None:
    address = f"{text}@b.c"
    assert accepts(check_address, address) == (LOCAL_PART.fullmatch(text) is not None)


@pytest.mark.parametrize("size", [63, 64])
def test_label_has_63_characters_at_most(size: int) -> None:
    assert accepts(check_domain, f"{'a' * size}.c") == (size == 63)
    assert accepts(check_domain, f"{chr(0xE4)}{'a' * (size - 1)}.c") == (size == 63)
