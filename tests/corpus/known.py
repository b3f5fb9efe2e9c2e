"""What is known to be wrong: (shape, class, phase) to the reason.

A phase that is not wrong any more fails its test, so that its entry is removed. Numbers such as D3
are those of the findings of 2026-11-27; "new" is what the corpus has found.
"""

from collections.abc import Mapping

REASONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "after": {
        "no message is sent, so header checks that reject or redirect are not seen": (
            "header-checks, new",
            "header-filter, new",
        ),
        "a filter may do anything; what it does with mail is not seen": (
            "content-filter-elsewhere, new",
        ),
        "the operator rejects these strangers, whichever list they write to": (
            "client-access-strangers, new",
        ),
        "a milter decides on messages, and none is sent": ("milter-down, new",),
        "a network that trusts strangers is a failure, though mail flows": (
            "mynetworks-broad, new",
        ),
        "D13: a warning only, because messages of usual size get through": (
            "message-size-limit, new",
        ),
        "D13: Postfix rejects % in an address from strangers; a note in the documentation": (
            "verp-percent, new",
        ),
    },
    "others": {
        "lists need a recipient_delimiter, and main.cf has one for all; setup shows the change": (
            "recipient-delimiter-empty, new",
        ),
        "main.cf accepts addresses that no table has, or a table has all of them: setup's plan and"
        " doctor say that this holds in the list's domain, too, and the operator decides on it": (
            "unlisted-accepted, new",
            "relay-recipients-static, new",
        ),
    },
}
"""Phase to reason to tests."""

KNOWN: Mapping[tuple[str, str, str], str] = {
    (shape, list_class, phase): reason
    for phase, reasons in REASONS.items()
    for reason, names in reasons.items()
    for shape, list_class in (name.split(", ") for name in names)
}
