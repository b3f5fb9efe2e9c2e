"""Read the restrictions that smtpd(8) applies before it replies to RCPT (SMTPD_ACCESS_README)."""

from collections.abc import Sequence

from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items

CLASSES = "smtpd_restriction_classes"
"""The parameter that names further parameters, which other restrictions may use."""

LISTS = tuple(
    f"smtpd_{stage}_restrictions" for stage in ("client", "helo", "sender", "relay", "recipient")
)
"""The parameters whose restrictions smtpd(8) applies, in their order."""


async def restrictions(postfix: Postfix, services: Sequence[Service]) -> dict[str, str]:
    """Read main.cf's values of LISTS, of CLASSES, and of each class that any service names."""
    values = await postfix.values(CLASSES, *LISTS)
    named = [values[CLASSES], *(one.overrides.get(CLASSES, "") for one in services)]
    classes = [name for value in named for name in items(value)]
    return {**(await postfix.values(*classes) if classes else {}), **values}
