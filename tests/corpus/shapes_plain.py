"""Hosts much as installed: the defaults, and single parameters that people change."""

from tests.corpus.shape import ALIAS, LOCAL, MAILBOX, NEW, RELAY, Shape

RELAY_SMTP = "smtp:[127.0.0.1]:{relay}"

SHAPES = (
    Shape(
        "debian",
        "Debian's default for an Internet site",
        {
            "smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated"
            " defer_unauth_destination",
            "mydestination": "$myhostname, example.net, localhost.example.net, localhost",
            "relayhost": "",
            "mailbox_size_limit": "0",
        },
        classes=(NEW, RELAY, LOCAL, ALIAS, MAILBOX),
        others=("bob@example.net", "unknown@example.net"),
    ),
    Shape(
        "null-client",
        "no local delivery; all mail goes to a relay host",
        {"mydestination": "", "relayhost": "[127.0.0.1]:{relay}"},
        others=("bob@example.net",),
    ),
    Shape(
        "relayhost",
        "mail for elsewhere goes through the provider's server",
        {"mydestination": "example.net, localhost", "relayhost": "[127.0.0.1]:{relay}"},
        classes=(NEW, RELAY),
        others=("bob@example.net", "unknown@example.net"),
    ),
    Shape(
        "recipient-delimiter-dash",
        "qmail's delimiter",
        {"recipient_delimiter": "-", "mydestination": "example.net"},
        others=("bob@example.net", "bob-x@example.net"),
    ),
    Shape("recipient-delimiter-both", "two delimiters", {"recipient_delimiter": "+-"}),
    Shape(
        "recipient-delimiter-empty",
        "Postfix's own default",
        {"recipient_delimiter": "", "mydestination": "example.net"},
        others=("bob@example.net", "bob+x@example.net"),
    ),
    Shape("ipv4-only", "the advice for hosts without IPv6", {"inet_protocols": "ipv4"}),
    Shape("smtputf8-off", "ASCII addresses only", {"smtputf8_enable": "no"}),
    Shape(
        "message-size-limit",
        "larger messages than Mailman's LMTP server accepts (33,554,432 bytes)",
        {"message_size_limit": "52428800", "mailbox_size_limit": "0"},
        large=35_000_000,
    ),
    Shape(
        "soft-bounce",
        "the safety net of a migration",
        {"soft_bounce": "yes", "mydestination": "example.net"},
        others=("bob@example.net", "unknown@example.net"),
    ),
    Shape(
        "default-transport-error",
        "a host that sends no mail to the outside",
        {"default_transport": "error:no mail for elsewhere", "mydestination": "example.net"},
        classes=(NEW, RELAY),
        others=("bob@example.net",),
    ),
    Shape(
        "relay-transport-error",
        "relay domains need an entry in transport_maps",
        {
            "relay_domains": "customer.example, other.example",
            "relay_transport": "error:no route",
            "transport_maps": "inline:{customer.example=" + RELAY_SMTP + "}",
        },
        classes=(NEW, RELAY),
        others=("bob@customer.example", "bob@other.example"),
    ),
    Shape(
        "conditional-expressions",
        "one main.cf for several hosts",
        {
            "relay_domains": "${{$compatibility_level} >= {3} ? {customer.example} : {}}",
            "transport_maps": "${{$myhostname} == {b.example} ? {static:discard:}"
            " : {hash:{data}/transport}}",
        },
        {"hash:transport": f"customer.example {RELAY_SMTP}\n"},
        others=("bob@customer.example",),
    ),
    Shape(
        "conditional-domains",
        "domains that depend on the host's name",
        {
            "relay_domains": "${{$myhostname} == {b.example} ? {} : {customer.example}}",
            "relay_transport": RELAY_SMTP,
        },
        others=("bob@customer.example",),
    ),
    Shape(
        "conditional-delimiter",
        "a parameter of which only one branch holds",
        {"recipient_delimiter": "${{$mydomain} == {b.example} ? {+} : {}}"},
    ),
    Shape(
        "parent-domains",
        "relay_domains has the parent of the list's domain; Postfix's default matches subdomains",
        {
            "relay_domains": "example.net",
            "relay_transport": RELAY_SMTP,
        },
        others=("bob@example.net", "bob@other.example.net"),
    ),
    Shape(
        "parent-domains-strict",
        "the same, with subdomains written as .domain only",
        {
            "parent_domain_matches_subdomains": "",
            "relay_domains": "example.net, .example.net",
            "relay_transport": RELAY_SMTP,
        },
        others=("bob@example.net", "bob@other.example.net"),
    ),
    Shape(
        "verp-percent",
        "a bounce to a member with % in the address; allow_untrusted_routing is off by default",
        verp="bob%x=customer.example",
    ),
    Shape("verp", "a bounce to a member", verp="bob=customer.example"),
    Shape(
        "mynetworks-broad",
        "mynetworks has a block that is not all private",
        {"mynetworks": "127.0.0.1/32, 172.0.0.0/8"},
    ),
    Shape(
        "lmtp-ipv6-only",
        "lmtp(8) may use IPv6 only; Mailman has an IPv4 address",
        overrides=("lmtp/unix/inet_protocols=ipv6",),
    ),
    Shape(
        "lmtp-tls-encrypt",
        "lmtp(8) must use TLS, which Mailman does not have",
        {"lmtp_tls_security_level": "encrypt"},
    ),
    Shape(
        "smtp-tls-encrypt",
        "smtp(8) must use TLS; lmtp(8) need not",
        {"smtp_tls_security_level": "encrypt"},
    ),
    Shape(
        "compatibility-level-0",
        "a main.cf from before Postfix 3: relay_domains is $mydestination",
        {
            "compatibility_level": "0",
            "mydestination": "example.net",
            "smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_destination",
        },
        classes=(NEW, LOCAL),
        others=("bob@example.net", "unknown@example.net", "bob@sub.example.net"),
    ),
)
