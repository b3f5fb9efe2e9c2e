"""Check the names of lists and domains against those that Mailman would write. Pure."""

import functools
import re
from typing import NamedTuple

from postfix_sync.errors import quote
from postfix_sync.postfix.folding import _NON_ASCII


class _Patterns(NamedTuple):
    local_part: re.Pattern[str]
    domain: re.Pattern[str]


def _patterns(more: str) -> _Patterns:
    """Return the patterns of names; `more` are the letters that they may have beside ASCII."""
    end = f"[A-Za-z0-9_{more}]"
    label = rf"{end}(?:[A-Za-z0-9_\-{more}]{{0,61}}{end})?"
    return _Patterns(
        re.compile(rf"[A-Za-z0-9!#$%&'*+\-./=?^_`{{|}}~{more}]+"),
        re.compile(rf"{label}(?:\.{label})*"),
    )


_ASCII = _patterns("")


@functools.cache
def _wide() -> _Patterns:
    """Return the patterns of names in any script; they take 40 ms to make, so most runs do not."""
    return _patterns(_NON_ASCII)


def _patterns_for(text: str) -> _Patterns:
    return _ASCII if text.isascii() else _wide()


# A large file names the same few domains again and again.
@functools.lru_cache(maxsize=4096)
def check_domain(text: str) -> str:
    """Return `text` if it is a mail domain. Raises ValueError with the problem."""
    if not text:
        raise ValueError("the domain is missing")
    if not _patterns_for(text).domain.fullmatch(text) or len(text.encode()) > 255:
        raise ValueError(f"{quote(text)} is not a mail domain")
    return text


def check_address(text: str) -> str:
    """Return `text` if it is a full address. Raises ValueError with the problem."""
    local, at, domain = text.rpartition("@")
    if not at:
        raise ValueError(f"{quote(text)} is not a full address (local-part@domain)")
    # postmap(1) treats a line that begins with "#" as a comment.
    if not _patterns_for(local).local_part.fullmatch(local) or local.startswith("#"):
        raise ValueError(f"{quote(local)} is not a local part of a list address")
    check_domain(domain)
    return text
