"""Addresses that are rewritten or refused on the way, and overrides in master.cf."""

from tests.corpus.shape import LOCAL, NEW, RELAY, Shape

RELAY_SMTP = "smtp:[127.0.0.1]:{relay}"

REINJECT = (
    "127.0.0.1:{extra} inet n - y - - smtpd -o content_filter= -o myhostname=filter.example"
    " -o mynetworks=127.0.0.0/8 -o smtpd_relay_restrictions=permit_mynetworks,reject"
    " -o receive_override_options=%s"
)
"""Where a filter returns mail. Here Postfix sends to it directly: the filter changes nothing."""

FILTER = "scan unix - - y - 10 smtp -o smtp_send_xforward_command=yes"
CONTENT_FILTER = "scan:[127.0.0.1]:{extra}"

ALIASED = "members.example.net"
"""The domain in Mailman of lists that have an alias domain."""

LOCAL_USERS = {"mydestination": "example.net"}
BOB = ("bob@example.net",)

SHAPES = (
    Shape(
        "canonical",
        "the list's domain is renamed",
        {**LOCAL_USERS, "canonical_maps": "hash:{data}/canonical"},
        {"hash:canonical": "@{domain} @example.net\n"},
        others=BOB,
    ),
    Shape(
        "canonical-one-user",
        "login names become full names; no list is concerned",
        {**LOCAL_USERS, "canonical_maps": "hash:{data}/canonical"},
        {"hash:canonical": "b@example.net bob@example.net\n"},
        others=("b@example.net", *BOB),
    ),
    Shape(
        "recipient-canonical",
        "one address of the list gets another name",
        {**LOCAL_USERS, "recipient_canonical_maps": "hash:{data}/canonical"},
        {"hash:canonical": "ants-owner@{domain} bob@example.net\n"},
        classes=(NEW, LOCAL),
        others=BOB,
    ),
    Shape(
        "masquerade-recipients",
        "subdomains are removed from recipients as well",
        {
            **LOCAL_USERS,
            "masquerade_domains": "example.net",
            "masquerade_classes": "envelope_sender, envelope_recipient, header_sender",
        },
        others=("bob@example.net", "bob@host.example.net"),
    ),
    Shape(
        "masquerade-senders",
        "subdomains are removed from senders: Postfix's default classes",
        {**LOCAL_USERS, "masquerade_domains": "example.net"},
        others=BOB,
    ),
    Shape(
        "relocated",
        "the list's earlier domain is listed as moved",
        {**LOCAL_USERS, "relocated_maps": "hash:{data}/relocated"},
        {"hash:relocated": "@{domain} example.org\n"},
        others=BOB,
    ),
    Shape(
        "recipient-access",
        "a list is closed to the public",
        {
            "smtpd_recipient_restrictions": "check_recipient_access hash:{data}/access,"
            " permit_mynetworks, reject_unauth_destination"
        },
        {"hash:access": "ants@{domain} REJECT internal\n"},
    ),
    Shape(
        "header-checks",
        "mail to the list's domain is rejected by its header",
        {"header_checks": "regexp:{data}/header"},
        {"regexp:header": "/^To:.*@lists\\.example\\.net/ REJECT closed\n"},
    ),
    Shape(
        "always-bcc",
        "a copy of everything to the archive",
        {**LOCAL_USERS, "always_bcc": "bob@example.net"},
        others=BOB,
    ),
    Shape(
        "content-filter",
        "a filter between two smtpd(8)",
        {**LOCAL_USERS, "content_filter": CONTENT_FILTER},
        services=(FILTER, REINJECT % "no_unknown_recipient_checks"),
        others=BOB,
    ),
    Shape(
        "content-filter-address-mappings",
        "aliases are expanded after the filter only; the list's domain is an alias domain",
        {
            **LOCAL_USERS,
            "content_filter": CONTENT_FILTER,
            "receive_override_options": "no_address_mappings",
        },
        services=(FILTER, REINJECT % "no_unknown_recipient_checks"),
        alias_domain=ALIASED,
        others=BOB,
    ),
    Shape(
        "no-address-mappings",
        "the same option without a filter that returns mail",
        {**LOCAL_USERS, "receive_override_options": "no_address_mappings"},
        alias_domain=ALIASED,
        others=BOB,
    ),
    Shape(
        "proxy-filter",
        "a filter before the queue",
        LOCAL_USERS,
        services=(REINJECT % "no_address_mappings",),
        overrides=("127.0.0.1:{port}/inet/smtpd_proxy_filter=127.0.0.1:{extra}",),
        others=BOB,
    ),
    Shape(
        "cleanup-without-aliases",
        "cleanup(8) has no virtual_alias_maps",
        LOCAL_USERS,
        overrides=("cleanup/unix/virtual_alias_maps=",),
        others=BOB,
    ),
    Shape(
        "cleanup-without-aliases-alias-domain",
        "the same, and the list's domain is an alias domain",
        LOCAL_USERS,
        overrides=("cleanup/unix/virtual_alias_maps=",),
        alias_domain=ALIASED,
        others=BOB,
    ),
    Shape(
        "own-cleanup-without-aliases",
        "the public listener has a cleanup(8) of its own, for mail that a filter checks later",
        LOCAL_USERS,
        services=("first unix n - y - 0 cleanup -o virtual_alias_maps=",),
        overrides=("127.0.0.1:{port}/inet/cleanup_service_name=first",),
        alias_domain=ALIASED,
        others=BOB,
    ),
    Shape(
        "alias-domain",
        "the list's domain is an alias domain; nothing else",
        LOCAL_USERS,
        classes=(NEW, RELAY),
        alias_domain=ALIASED,
        others=BOB,
    ),
    Shape(
        "rewrite-without-transport",
        "trivial-rewrite(8) has no transport_maps",
        LOCAL_USERS,
        overrides=("rewrite/unix/transport_maps=",),
        others=BOB,
    ),
    Shape(
        "propagate-no-extensions",
        "extensions are removed when an alias is expanded",
        {**LOCAL_USERS, "propagate_unmatched_extensions": ""},
        alias_domain=ALIASED,
        others=BOB,
    ),
    Shape(
        "recipient-access-redirect",
        "all mail for one address goes to somebody else",
        {
            **LOCAL_USERS,
            "smtpd_recipient_restrictions": "reject_unauth_destination,"
            " check_recipient_access inline:{{ants@{domain}=REDIRECT bob@example.net}}",
        },
        others=BOB,
    ),
    Shape(
        "restriction-class",
        "a list for the site's own senders",
        {
            **LOCAL_USERS,
            "smtpd_restriction_classes": "own_senders",
            "own_senders": "check_sender_access inline:{example.net=OK}, reject",
            "smtpd_recipient_restrictions": "reject_unauth_destination,"
            " check_recipient_access inline:{ants@{domain}=own_senders}",
        },
        others=BOB,
    ),
    Shape(
        "header-filter",
        "mail to lists goes to another host, chosen by its header",
        {"header_checks": "regexp:{data}/header"},
        {"regexp:header": "/^To:.*@lists\\.example\\.net/ FILTER " + RELAY_SMTP + "\n"},
    ),
    Shape(
        "content-filter-elsewhere",
        "all mail goes to an appliance that returns none",
        {**LOCAL_USERS, "content_filter": RELAY_SMTP},
        others=BOB,
    ),
)
