"""Virtual domains: mailboxes in SQL, aliases, and aliases that catch the list's addresses."""

from tests.corpus.shape import ALIAS, LOCAL, MAILBOX, NEW, RELAY, Shape

MAILBOXES = "smtp:[127.0.0.1]:{relay}"
"""In place of Dovecot."""

QUERY = "dbpath = {data}/mail.db\nquery = SELECT value FROM %s WHERE name = '%%s'\n"

OTHERS = ("bob@customer.example", "info@customer.example", "unknown@customer.example")

CATCH_ALL = {
    "mydestination": "example.net",
    "virtual_alias_maps": "hash:{data}/virtual",
}

SHAPES = (
    Shape(
        "sql-mailboxes",
        "domains, mailboxes and aliases in SQL, as PostfixAdmin has them",
        {
            "virtual_mailbox_domains": "proxy:sqlite:{data}/domains.cf",
            "virtual_mailbox_maps": "proxy:sqlite:{data}/mailboxes.cf",
            "virtual_alias_maps": "proxy:sqlite:{data}/aliases.cf",
            "virtual_transport": MAILBOXES,
        },
        {
            "sqlite:mail.db": "".join(
                f"CREATE TABLE {name} (name TEXT, value TEXT);\n"
                for name in ("domains", "mailboxes", "aliases")
            )
            + "INSERT INTO domains VALUES ('customer.example', 'x');\n"
            "INSERT INTO mailboxes VALUES ('bob@customer.example', 'bob/');\n"
            "INSERT INTO aliases VALUES ('info@customer.example', 'bob@customer.example');\n",
            **{f"text:{name}.cf": QUERY % name for name in ("domains", "mailboxes", "aliases")},
        },
        classes=(NEW, MAILBOX),
        others=OTHERS,
    ),
    Shape(
        "sql-domain-of-the-list",
        "SQL has the list's domain as a domain of mailboxes",
        {
            "virtual_mailbox_domains": "proxy:sqlite:{data}/domains.cf",
            "virtual_mailbox_maps": "inline:{bob@{domain}=x}",
            "virtual_transport": MAILBOXES,
        },
        {
            "sqlite:mail.db": "CREATE TABLE domains (name TEXT, value TEXT);\n"
            "INSERT INTO domains VALUES ('{domain}', 'x');\n",
            "text:domains.cf": QUERY % "domains",
        },
        others=("bob@lists.example.net",),
    ),
    Shape(
        "virtual-alias-domains",
        "domains of aliases only",
        {
            "mydestination": "example.net",
            "virtual_alias_domains": "customer.example",
            "virtual_alias_maps": "hash:{data}/virtual",
        },
        {"hash:virtual": "bob@customer.example bob@example.net\n"},
        classes=(NEW, ALIAS),
        others=("bob@customer.example", "unknown@customer.example", "bob@example.net"),
    ),
    Shape(
        "virtual-alias-domains-in-the-table",
        "virtual(5)'s own example: the domain is a key of virtual_alias_maps",
        {"mydestination": "example.net", "virtual_alias_maps": "hash:{data}/virtual"},
        {
            "hash:virtual": "{domain} anything\nbob@{domain} bob@example.net\n"
            "customer.example anything\nbob@customer.example bob@example.net\n"
        },
        others=("bob@lists.example.net", "bob@customer.example", "unknown@customer.example"),
    ),
    Shape(
        "catch-all",
        "one user gets all mail of the list's domain",
        CATCH_ALL,
        {"hash:virtual": "@{domain} bob@example.net\n"},
        classes=(RELAY, ALIAS, MAILBOX),
        others=("bob@lists.example.net",),
    ),
    Shape(
        "catch-all-regexp",
        "the same with a pattern",
        {"mydestination": "example.net", "virtual_alias_maps": "regexp:{data}/virtual"},
        {"regexp:virtual": "/@lists\\.example\\.net$/ bob@example.net\n"},
        classes=(NEW, ALIAS),
        others=("bob@lists.example.net",),
    ),
    Shape(
        "catch-all-of-another-domain",
        "a catch-all that does not concern lists",
        CATCH_ALL,
        {"hash:virtual": "customer.example x\n@customer.example bob@example.net\n"},
        others=OTHERS,
    ),
    Shape(
        "one-address-aliased",
        "an alias for one of the list's addresses, left from earlier",
        CATCH_ALL,
        {"hash:virtual": "ants-request@{domain} bob@example.net\n"},
        classes=(NEW, ALIAS),
    ),
    Shape(
        "list-aliased-without-domain",
        "an alias for a bare local part: it is looked up for local domains only",
        {**CATCH_ALL, "myorigin": "example.net"},
        {"hash:virtual": "ants bob\n"},
        classes=(NEW, LOCAL),
        others=("ants@example.net", "bob@example.net"),
    ),
    Shape(
        "extension-aliased",
        "an alias for all addresses with an extension (a pattern)",
        {"mydestination": "example.net", "virtual_alias_maps": "pcre:{data}/virtual"},
        {"pcre:virtual": "/^([^+]*)\\+.*@(.*)$/ bob@example.net\n"},
        others=("bob@example.net", "bob+x@example.net"),
    ),
    Shape(
        "local-and-virtual",
        "mydestination and virtual_alias_domains both name the domain",
        {"virtual_alias_domains": "{domain}", "virtual_alias_maps": "hash:{data}/virtual"},
        {"hash:virtual": "bob@{domain} bob@localhost\n"},
        classes=(LOCAL,),
        others=("bob@lists.example.net",),
    ),
    Shape(
        "mailbox-domain-without-maps",
        "virtual_mailbox_maps is not set: every address is accepted",
        {"virtual_transport": MAILBOXES, "virtual_mailbox_domains": "customer.example"},
        classes=(NEW, MAILBOX),
        others=("bob@customer.example", "bob@lists.example.net"),
    ),
    Shape(
        "static-alias",
        "a test host: all mail goes to one user",
        {"mydestination": "example.net", "virtual_alias_maps": "static:bob@example.net"},
        others=("postmaster@example.net",),
    ),
    Shape(
        "mailboxes",
        "mailboxes in an indexed file",
        {
            "virtual_mailbox_domains": "customer.example",
            "virtual_mailbox_maps": "hash:{data}/mailboxes",
            "virtual_transport": MAILBOXES,
        },
        {"hash:mailboxes": "bob@customer.example bob/\nbob@{domain} bob/\n"},
        classes=(NEW, MAILBOX),
        others=("bob@customer.example", "unknown@customer.example", "bob@lists.example.net"),
    ),
)
