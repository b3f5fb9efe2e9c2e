"""What is known to be wrong: (shape, class, phase) to the reason.

A phase that is not wrong any more fails its test, so that its entry is removed. Numbers such as D3
are those of the findings of 2026-11-27; "new" is what the corpus has found.
"""

from collections.abc import Mapping

REASONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "before": {
        "new: doctor wants the maps, though a table that has the domain leads to Mailman": (
            "domain-routed-to-mailman, new",
        ),
    },
    "after": {
        "D3: doctor does not see that recipients are rewritten": (
            "canonical, new",
            "recipient-canonical, new",
            "recipient-canonical, local",
            "masquerade-recipients, new",
        ),
        "D3: doctor does not see that aliases are not expanded": (
            "no-address-mappings, new",
            "cleanup-without-aliases-alias-domain, new",
            "own-cleanup-without-aliases, new",
        ),
        "D3: doctor does not query relocated_maps": ("relocated, new",),
        "D3: doctor does not see that an access table rejects or redirects": (
            "recipient-access, new",
            "recipient-access-redirect, new",
            "restriction-class, new",
            "listener-override-reject, new",
        ),
        "D3: doctor does not see header checks that reject or redirect": (
            "header-checks, new",
            "header-filter, new",
        ),
        "D3: doctor does not see that a filter returns no mail": ("content-filter-elsewhere, new",),
        "D3: doctor does not see that strangers are rejected": (
            "client-access-strangers, new",
            "relay-restrictions-strict, new",
            "relay-restrictions-strict, relay",
        ),
        "D3: doctor does not see that smtpd(8) defers all mail": (
            "policy-service-down, new",
            "milter-down, new",
        ),
        "D5: doctor checks two of the nine addresses for aliases": (
            "one-address-aliased, new",
            "one-address-aliased, virtual-alias",
        ),
        "D5: doctor checks two of the nine addresses for routes": (
            "list-routed-elsewhere, new",
            "pcre-dash, new",
        ),
        "D8: verify(8) remembers that the address was undeliverable": (
            "unverified-recipient, relay",
        ),
        "D13: Postfix accepts larger messages than Mailman": ("message-size-limit, new",),
        "D13: Postfix rejects % in an address from strangers": ("verp-percent, new",),
        "D13: Postfix removes the extension when it expands an alias": (
            "propagate-no-extensions, new",
        ),
        "D14: doctor calls the block a failure; list mail flows": ("mynetworks-broad, new",),
    },
    "others": {
        "D3: setup accepts a domain whose addresses are rewritten to others": ("canonical, new",),
        "new: setup takes an expression that begins with $compatibility_level for the default": (
            "conditional-expressions, new",
        ),
        "new: setup sets recipient_delimiter for the local users, too": (
            "recipient-delimiter-empty, new",
        ),
        "new: setup opens the domain, where unknown addresses are accepted": (
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
