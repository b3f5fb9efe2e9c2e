"""Find mail that Postfix refused to relay for clients with private addresses, in its own log."""

import ipaddress
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.postfix.mynetworks import Address
from postfix_sync.system.files import open_file

TAIL = 256 * 2**10
"""Bytes at the end of the log to search."""

AGE = 86400.0
"""Seconds for which a refusal counts: after that, a container may have got another address."""

# No text of a client comes before its address. The sender's address may contain anything.
_REFUSED = re.compile(
    r"(?P<when>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) [^<>:]*: NOQUEUE: reject: RCPT from"
    r" [^\s\[\]<>]+\[(?P<address>[0-9a-fA-F.:]+)\](?::\d+)?: \d{3} (?:\d\.\d\.\d+ )?"
    r"<[^>]*>: Relay access denied; from=<(?P<sender>[^>]*)>"
)
"""A line of postlogd(8) about a refusal by smtpd(8)."""


@dataclass(frozen=True)
class Refusal:
    """A recipient that Postfix refused to a client because it may not relay."""

    address: Address
    sender: str
    when: str
    """The time as the log has it."""


def refusals(log: Path, now: float) -> list[Refusal]:
    """Return the latest refusals of clients with private addresses, the last one first.

    `now` is in seconds since the epoch. Raises OSError if the log is not a readable file.
    """
    with open_file(log) as file:
        file.seek(max(0, file.seek(0, 2) - TAIL))
        text = file.read(TAIL).decode("utf-8", "replace")
    return list(_parsed(reversed(text.splitlines()), now))


def _parsed(lines: Iterator[str], now: float) -> Iterator[Refusal]:
    for line in lines:
        found = _REFUSED.match(line)
        if not found or now - _seconds(found["when"], now) > AGE:
            continue
        try:
            address = ipaddress.ip_address(found["address"])
        except ValueError:
            continue
        if address.is_private and not address.is_loopback:
            yield Refusal(address, found["sender"], found["when"])


def _seconds(when: str, now: float) -> float:
    """Return a time of the log, which has no year, in seconds since the epoch; 0 if it is none."""
    year = time.localtime(now).tm_year
    for each in (year, year - 1):
        try:
            found = time.mktime(time.strptime(f"{each} {when}", "%Y %b %d %H:%M:%S"))
        except ValueError:
            continue
        if found < now + AGE:
            return found
    return 0
