"""Which list and domain names Mailman would write. Pure."""

import functools
import re

from postfix_sync.errors import quote
from postfix_sync.model import Table
from postfix_sync.postfix.folding import _NON_ASCII

_LABEL = rf"[A-Za-z0-9_{_NON_ASCII}](?:[A-Za-z0-9_\-{_NON_ASCII}]{{0,61}}[A-Za-z0-9_{_NON_ASCII}])?"
_LOCAL_PART = re.compile(rf"[A-Za-z0-9!#$%&'*+\-./=?^_`{{|}}~{_NON_ASCII}]+")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def check_entries(table: Table) -> Table:
    """`table`, if each entry of it can be a line of a map; raises ValueError, saying what is wrong.

    It may have a million entries, so nothing else is looked at.
    """
    keys = "".join(table)
    if not f"{keys}{''.join(table.values())}".isprintable() or " " in keys:
        raise ValueError("an entry has a blank or a control character")
    if not all(key and value and key[0] != "#" for key, value in table.items()):
        raise ValueError("an entry can't be a line of a map")
    return table


# A large file names few domains and fewer destinations, over and over.
@functools.lru_cache(maxsize=4096)
def check_domain(text: str) -> str:
    """`text`, if it is a mail domain; raises ValueError, saying what is wrong."""
    if not text:
        raise ValueError("the domain is missing")
    if not _DOMAIN.fullmatch(text) or len(text.encode()) > 255:
        raise ValueError(f"{quote(text)} is no mail domain")
    return text


def check_address(text: str) -> str:
    """`text`, if it is a full address; raises ValueError, saying what is wrong."""
    local, at, domain = text.rpartition("@")
    if not at:
        raise ValueError(f"{quote(text)} is no full address (local-part@domain)")
    # postmap(1) takes a line that begins with "#" for a comment.
    if not _LOCAL_PART.fullmatch(local) or local.startswith("#"):
        raise ValueError(f"{quote(local)} is no local part of a list address")
    check_domain(domain)
    return text
