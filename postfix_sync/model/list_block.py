"""The nine lines of a list in the text of a table, as one regular expression. Pure.

A text is read by list several times as fast as by line, and 100,000 lists have 900,000 lines.
"""

import re

from postfix_sync.model.list_addresses import SUBADDRESSES


def list_block(separator: bytes, value: bytes, end: bytes) -> re.Pattern[bytes]:
    """Return the pattern of a list whose addresses have one value; groups `name` and `value`.

    The arguments are patterns: of what is between key and value, the value, and what ends a line.
    The lines are in the order of SUBADDRESSES, as Mailman's mta/aliases.py has them.
    """
    return _block(separator, b"(?P<value>" + value + b")", b"(?P=value)", end)


def alias_block(separator: bytes, end: bytes) -> re.Pattern[bytes]:
    """Return the pattern of a list whose addresses lead to another list's; see `list_block`."""
    first = rb"(?P<value>(?P<to>[^\s@]+)@(?P<at>[^\s@]+))"
    return _block(separator, first, rb"(?P=to)-%s@(?P=at)", end)


def _block(separator: bytes, first: bytes, other: bytes, end: bytes) -> re.Pattern[bytes]:
    lines = [rb"(?P<name>(?P<local>[^\s@#][^\s@]*)@(?P<domain>[^\s@]+))" + separator + first + end]
    for subaddress in map(str.encode, SUBADDRESSES):
        value = other.replace(b"%s", subaddress)
        lines.append(rb"(?P=local)-" + subaddress + rb"@(?P=domain)" + separator + value + end)
    return re.compile(b"".join(lines))
