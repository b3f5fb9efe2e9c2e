"""Lists among local users: the list's domain is in mydestination."""

from tests.corpus.shape import LOCAL, NEW, Shape

RELAY_SMTP = "smtp:[127.0.0.1]:{relay}"
OTHERS = ("bob@lists.example.net", "bob@localhost")

SHAPES = (
    Shape(
        "local-recipients",
        "local recipients are listed",
        {"local_recipient_maps": "$alias_maps hash:{data}/recipients"},
        {"hash:recipients": "postmaster x\n"},
        classes=(LOCAL,),
        others=OTHERS,
    ),
    Shape(
        "local-recipients-empty",
        "every local address is accepted",
        {"local_recipient_maps": ""},
        classes=(LOCAL,),
        others=OTHERS,
    ),
    Shape(
        "mailbox-transport",
        "local users' mail goes to an LMTP or SMTP server",
        {"mailbox_transport": RELAY_SMTP, "local_recipient_maps": ""},
        classes=(LOCAL, NEW),
        others=OTHERS,
    ),
    Shape(
        "fallback-transport",
        "unknown local users' mail goes to another host",
        {"fallback_transport": RELAY_SMTP, "local_recipient_maps": ""},
        classes=(LOCAL, NEW),
        others=OTHERS,
    ),
    Shape(
        "luser-relay",
        "unknown local users' mail goes to one user",
        {"luser_relay": "bob@localhost", "local_recipient_maps": ""},
        classes=(LOCAL, NEW),
        others=OTHERS,
    ),
    Shape(
        "local-transport",
        "all local mail goes to another host",
        {"local_transport": RELAY_SMTP, "local_recipient_maps": ""},
        classes=(LOCAL, NEW),
        others=OTHERS,
    ),
    Shape(
        "owner-request-special",
        "owner-NAME and NAME-request are special: Postfix's default, here with the delimiter -",
        {"owner_request_special": "yes", "recipient_delimiter": "-"},
        classes=(LOCAL,),
        others=OTHERS,
    ),
    Shape(
        "owner-request-default",
        "owner_request_special is not set",
        {"local_recipient_maps": "$alias_maps"},
        classes=(LOCAL,),
        others=OTHERS,
    ),
    Shape(
        "old-aliases",
        "Mailman 2's entries in aliases(5)",
        {
            "alias_maps": "hash:{data}/aliases",
            "local_recipient_maps": "$alias_maps",
        },
        {"aliases:aliases": "bob: /dev/null\npostmaster: /dev/null\nants: bob\nants-owner: bob\n"},
        classes=(LOCAL,),
        others=OTHERS,
    ),
    Shape(
        "mydestination-pattern",
        "mydestination is a pattern that the list's domain matches",
        {"mydestination": "localhost, pcre:{data}/domains"},
        {"pcre:domains": "/(^|\\.)example\\.net$/ x\n"},
        others=(*OTHERS, "bob@example.net"),
    ),
    Shape(
        "mydestination-file",
        "mydestination is a file with one domain a line",
        {"mydestination": "localhost, {data}/domains"},
        {"text:domains": "example.net\n{domain}\n"},
        others=(*OTHERS, "bob@example.net"),
    ),
    Shape(
        "relay-domains-pattern",
        "relay_domains is a pattern that the list's domain matches",
        {"relay_domains": "pcre:{data}/domains", "relay_transport": RELAY_SMTP},
        {"pcre:domains": "/(^|\\.)example\\.net$/ x\n"},
        others=("bob@lists.example.net", "bob@example.net", "bob@other.example.net"),
    ),
)
