"""Fold the case of keys and addresses as Postfix does (SMTPUTF8_README). Pure."""

from collections.abc import Callable
from typing import TypeAlias

Fold: TypeAlias = Callable[[str], str]


def fold_unicode(key: str) -> str:
    """Fold a key as postmap(1) does under smtputf8_enable = yes: full Unicode case folding."""
    return key.casefold()


def fold_ascii(key: str) -> str:
    """Fold a key as postmap(1) does under smtputf8_enable = no: ASCII letters only."""
    return key.encode().lower().decode()


# RFC 5321's atoms, widened by RFC 6531 to all of UTF-8 except controls, blanks, invisible marks.
# Dots may be anywhere: Mailman creates lists named an..ts and ants., and Postfix delivers to them.
_NON_ASCII = (
    "\u00a1-\u167f\u1681-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\u2fff"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufefe\uff00-\uffef\U00010000-\U000effff"
)
