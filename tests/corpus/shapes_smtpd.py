"""Restrictions of smtpd(8), further listeners, and postscreen(8)."""

from tests.corpus.shape import NEW, RELAY, Shape

LOCAL_USERS = {"mydestination": "example.net"}
BOB = ("bob@example.net", "unknown@example.net")
RELAY_SMTP = "smtp:[127.0.0.1]:{relay}"

SUBMISSION = "127.0.0.1:{extra} inet n - y - - smtpd -o cleanup_service_name=subcleanup"
SUBCLEANUP = "subcleanup unix n - y - 0 cleanup -o header_checks= -o "
BOTH = ("port", "extra")

PUBLIC_RESTRICTIONS = "127.0.0.1:{port}/inet/smtpd_recipient_restrictions="

SHAPES = (
    Shape(
        "postscreen",
        "postscreen(8) on the public port",
        {**LOCAL_USERS, "postscreen_greet_wait": "1s"},
        services=(
            "127.0.0.1:{port} inet n - y - 1 postscreen",
            "smtpd pass - - y - - smtpd",
            "dnsblog unix - - y - 0 dnsblog",
            "tlsproxy unix - - y - 0 tlsproxy",
        ),
        others=BOB,
    ),
    Shape(
        "submission",
        "a second listener, for users who log in",
        LOCAL_USERS,
        services=(
            "127.0.0.1:{extra} inet n - y - - smtpd -o syslog_name=postfix/submission"
            + "".join(
                f" -o smtpd_{name}_restrictions=permit_sasl_authenticated,reject"
                for name in ("relay", "recipient")
            ),
        ),
        others=BOB,
    ),
    Shape(
        "submission-cleanup-diverts",
        "a second listener has a cleanup(8) of its own, which renames the list's domain",
        LOCAL_USERS,
        services=(
            SUBMISSION,
            SUBCLEANUP + "canonical_maps=inline:{@{domain}=bob@example.net}",
        ),
        others=BOB,
        listeners=BOTH,
    ),
    Shape(
        "submission-cleanup-harmless",
        "a second listener has a cleanup(8) of its own, which renames one user",
        LOCAL_USERS,
        services=(
            SUBMISSION,
            SUBCLEANUP + "canonical_maps=inline:{b@example.net=bob@example.net}",
        ),
        others=BOB,
        listeners=BOTH,
    ),
    Shape(
        "listener-override-reject",
        "the public listener rejects the list's domain by an override",
        LOCAL_USERS,
        overrides=(
            PUBLIC_RESTRICTIONS
            + "check_recipient_access,inline:{{domain}=REJECT},reject_unauth_destination",
        ),
        others=BOB,
    ),
    Shape(
        "listener-override-harmless",
        "the public listener has restrictions of its own that accept lists",
        LOCAL_USERS,
        overrides=(PUBLIC_RESTRICTIONS + "permit_mynetworks,reject_unauth_destination",),
        others=BOB,
    ),
    Shape(
        "listener-without-recipients",
        "the public listener has a relay_recipient_maps of its own",
        {
            "relay_domains": "customer.example",
            "relay_recipient_maps": "inline:{bob@customer.example=x}",
            "relay_transport": RELAY_SMTP,
        },
        overrides=("127.0.0.1:{port}/inet/relay_recipient_maps=inline:{bob@customer.example=x}",),
        classes=(RELAY,),
        others=("bob@customer.example", "unknown@customer.example"),
    ),
    Shape(
        "client-access-cidr",
        "a block of addresses is blocked",
        {**LOCAL_USERS, "smtpd_client_restrictions": "check_client_access cidr:{data}/clients"},
        {"cidr:clients": "192.0.2.0/24 REJECT\n"},
        others=BOB,
    ),
    Shape(
        "client-access-strangers",
        "only the provider's filter may connect",
        {**LOCAL_USERS, "smtpd_client_restrictions": "permit_mynetworks, reject"},
        others=BOB,
    ),
    Shape(
        "relay-restrictions-strict",
        "strangers may send to no domain at all",
        {**LOCAL_USERS, "smtpd_relay_restrictions": "permit_mynetworks, reject"},
        classes=(NEW, RELAY),
        others=BOB,
    ),
    Shape(
        "sender-access",
        "mail of a sender's domain is rejected",
        {
            **LOCAL_USERS,
            "smtpd_sender_restrictions": "check_sender_access inline:{spam.example=REJECT}",
        },
        others=BOB,
    ),
    Shape(
        "unverified-recipient",
        "recipients are verified; a negative answer is remembered for three hours",
        {
            "relay_domains": "customer.example",
            "transport_maps": "inline:{customer.example=" + RELAY_SMTP + "}",
            "smtpd_recipient_restrictions": "reject_unauth_destination,"
            " reject_unverified_recipient",
            "unverified_recipient_reject_code": "550",
        },
        classes=(RELAY, NEW),
        others=("bob@customer.example",),
    ),
    Shape(
        "unlisted-accepted",
        "unknown addresses are accepted",
        {**LOCAL_USERS, "smtpd_reject_unlisted_recipient": "no"},
        classes=(NEW, RELAY),
        others=BOB,
    ),
    Shape(
        "policy-service-down",
        "a policy server that does not run",
        {
            **LOCAL_USERS,
            "smtpd_recipient_restrictions": "reject_unauth_destination,"
            " check_policy_service { inet:127.0.0.1:{extra}, timeout=1s, try_limit=1 }",
        },
        others=("bob@example.net",),
    ),
    Shape(
        "milter-down",
        "a milter that does not run; Postfix's default action",
        {**LOCAL_USERS, "smtpd_milters": "inet:127.0.0.1:{extra}"},
        others=("bob@example.net",),
    ),
)
