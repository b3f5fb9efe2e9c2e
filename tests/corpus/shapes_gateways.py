"""Mail gateways: relay domains, and routes in transport_maps of each type of table."""

from tests.corpus.shape import NEW, RELAY, Shape

RELAY_SMTP = "smtp:[127.0.0.1]:{relay}"
CUSTOMER = f"customer.example {RELAY_SMTP}\n"
OTHERS = ("bob@customer.example", "unknown@customer.example")


def routed(name: str, about: str, transport_maps: str, **tables: str) -> Shape:
    """Return a gateway for customer.example with these transport_maps."""
    return Shape(
        name,
        about,
        {"relay_domains": "customer.example", "transport_maps": transport_maps},
        {f"{kind}:transport": text for kind, text in tables.items()},
        others=OTHERS,
    )


SHAPES = (
    Shape(
        "backup-mx",
        "relays any address of some domains",
        {"relay_domains": "customer.example", "relay_transport": RELAY_SMTP},
        classes=(NEW, RELAY),
        others=OTHERS,
    ),
    Shape(
        "gateway",
        "knows the recipients of its domains",
        {
            "relay_domains": "hash:{data}/relay",
            "relay_recipient_maps": "hash:{data}/recipients",
            "transport_maps": "hash:{data}/transport",
        },
        {
            "hash:relay": "customer.example x\n",
            "hash:recipients": "bob@customer.example x\n",
            "hash:transport": CUSTOMER,
        },
        classes=(NEW, RELAY),
        others=OTHERS,
    ),
    Shape(
        "gateway-star",
        "transport_maps has an entry for everything",
        {"relay_domains": "customer.example", "transport_maps": "hash:{data}/transport"},
        {"hash:transport": f"* {RELAY_SMTP}\n"},
        classes=(NEW, RELAY),
        others=OTHERS,
    ),
    Shape(
        "gateway-star-in-mydestination",
        "an entry for everything, and local users named one by one",
        {"mydestination": "example.net", "transport_maps": "hash:{data}/transport"},
        {"hash:transport": f"bob@example.net local:\n* {RELAY_SMTP}\n"},
        others=("bob@example.net", "postmaster@example.net", "unknown@example.net"),
    ),
    Shape(
        "domain-routed-elsewhere",
        "transport_maps has an entry for the list's domain, to another host",
        {"relay_domains": "{domain}", "transport_maps": "hash:{data}/transport"},
        {"hash:transport": "{domain} " + RELAY_SMTP + "\n"},
    ),
    Shape(
        "domain-routed-to-mailman",
        "transport_maps has an entry for the list's domain, to Mailman",
        {"relay_domains": "{domain}", "transport_maps": "hash:{data}/transport"},
        {"hash:transport": "{domain} lmtp:[127.0.0.1]:{mailman}\n"},
    ),
    Shape(
        "list-routed-elsewhere",
        "transport_maps has one address of the list",
        {"relay_domains": "{domain}", "transport_maps": "hash:{data}/transport"},
        {"hash:transport": "ants-owner@{domain} " + RELAY_SMTP + "\n"},
    ),
    routed(
        "regexp-star",
        "a pattern for everything",
        "regexp:{data}/transport",
        regexp=f"/./ {RELAY_SMTP}\n",
    ),
    routed(
        "pcre",
        "a pattern for a customer",
        "pcre:{data}/transport",
        pcre=f"/@customer\\.example$/ {RELAY_SMTP}\n",
    ),
    routed(
        "pcre-dash",
        "a pattern for all addresses with -owner or -request",
        "pcre:{data}/transport",
        pcre=f"/-(owner|request)@/ {RELAY_SMTP}\n/@customer\\.example$/ {RELAY_SMTP}\n",
    ),
    routed("inline", "a table in main.cf", "inline:{customer.example=" + RELAY_SMTP + "}"),
    routed("texthash", "a text file", "texthash:{data}/transport", texthash=CUSTOMER),
    routed("static", "one answer for everything", "static:" + RELAY_SMTP),
    routed("randmap", "one of several relays for everything", "randmap:{" + RELAY_SMTP + "}"),
    routed(
        "pipemap",
        "a domain to its owner, the owner to a relay",
        "pipemap:{inline:{customer.example=one},inline:{one=" + RELAY_SMTP + "}}",
    ),
    routed(
        "unionmap",
        "all answers of two tables",
        "unionmap:{inline:{customer.example=" + RELAY_SMTP + "},hash:{data}/transport}",
        hash="other.example discard:\n",
    ),
    Shape(
        "relay-domains-excluded",
        "relay_domains has the parent of the list's domain, and excludes the list's",
        {"relay_domains": "!{domain}, example.net", "relay_transport": RELAY_SMTP},
        others=("bob@example.net", "bob@other.example.net"),
    ),
    Shape(
        "relay-recipients-static",
        "relay_recipient_maps accepts every address",
        {
            "relay_domains": "customer.example",
            "relay_recipient_maps": "static:all",
            "relay_transport": RELAY_SMTP,
        },
        classes=(NEW, RELAY),
        others=OTHERS,
    ),
    Shape(
        "subdomains-routed-elsewhere",
        "transport_maps has an entry for all subdomains",
        {"relay_domains": "example.net", "transport_maps": "hash:{data}/transport"},
        {"hash:transport": f"example.net {RELAY_SMTP}\n.example.net {RELAY_SMTP}\n"},
        others=("bob@example.net", "bob@other.example.net"),
    ),
)
