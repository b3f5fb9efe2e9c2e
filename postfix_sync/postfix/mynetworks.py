"""Match IP addresses against lists such as mynetworks (postconf(5))."""

import ipaddress
import re
from contextlib import suppress
from typing import TypeAlias

from postfix_sync.errors import SyncError
from postfix_sync.postfix.instance import Postfix, list_file
from postfix_sync.postfix.match_list import Pattern, patterns

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Net: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

TIMEOUT = 10.0
"""Seconds that a table may take to answer."""


async def matches(postfix: Postfix, address: Address, listed: str) -> bool:
    """Return whether an address is in a list such as mynetworks: the first match counts.

    A table that cannot be queried counts as empty.
    """
    for pattern in patterns(listed, list_file):
        net = network(pattern.text)
        if address in net if net else pattern.is_table and await _has(postfix, pattern, address):
            return not pattern.negated
    return False


async def _has(postfix: Postfix, table: Pattern, address: Address) -> bool:
    with suppress(SyncError):
        return bool(await postfix.postmap.look_up(table.text, [str(address)], timeout=TIMEOUT))
    return False


def network(pattern: str) -> Net | None:
    """Return an item of mynetworks as a network, None if it is not an address or a network."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F.:]+)\]|([0-9.]+))(/\d{1,3})?", pattern)
    try:
        text = (found[1] or found[2]) + (found[3] or "") if found else ""
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
