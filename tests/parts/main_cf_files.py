"""main.cf files as found in the field, each with the address class of lists.example.net.

`{base}` stands for the settings of a test's own instance, and `{data}` for a directory with the
tables that the file names, which `write_tables` makes.
"""

from pathlib import Path

from .postfix_instance import PostfixInstance

TABLES = ("transport", "relay", "recipients", "virtual", "vmailbox", "vdomains", "aliases")

DEBIAN = """\
# See /usr/share/postfix/main.cf.dist for a commented, more complete version


# Debian specific:  Specifying a file name will cause the first
# line of that file to be used as the name.  The Debian default
# is /etc/mailname.
#myorigin = /etc/mailname

smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no

# appending .domain is the MUA's job.
append_dot_mydomain = no

# Uncomment the next line to generate "delayed mail" warnings
#delay_warning_time = 4h

readme_directory = no

compatibility_level = 3.6

{base}


# TLS parameters
smtpd_tls_security_level=may

smtp_tls_CApath=/etc/ssl/certs
smtp_tls_security_level=may
smtp_tls_session_cache_database = btree:${{data_directory}}/smtp_scache


smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = mx.example.net
alias_maps = hash:{data}/aliases
alias_database = hash:{data}/aliases
mydestination = $myhostname, example.net, localhost.example.net, localhost
relayhost =\x20
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = loopback-only
inet_protocols = all
"""
"""The result of postfix.postinst for an "Internet Site", from main.cf.debian."""

MAILMAN = (
    DEBIAN
    + """
# Support the default VERP delimiter.
recipient_delimiter = +
unknown_local_recipient_reject_code = 550
owner_request_special = no

transport_maps =
    hash:{data}/transport
local_recipient_maps =
    proxy:unix:passwd.byname $alias_maps
    hash:{data}/recipients
relay_domains =
    hash:{data}/relay
"""
)
"""Mailman's documented settings after those of Debian, so one parameter is set twice."""

DOCKER_MAILMAN = """\
compatibility_level = 2
{base}
recipient_delimiter = +
unknown_local_recipient_reject_code = 550
owner_request_special = no
mydestination = localhost

transport_maps =
    regexp:{data}/transport
local_recipient_maps =
    regexp:{data}/transport
relay_domains =
    regexp:{data}/relay
"""

VIRTUAL_MAILBOXES = """\
compatibility_level = 2
{base}
# everything is in tables here
mydestination = localhost
recipient_delimiter = +
virtual_mailbox_domains = proxy:hash:{data}/vdomains, lists.example.net
virtual_mailbox_maps = proxy:hash:{data}/vmailbox
virtual_alias_maps = proxy:hash:{data}/virtual
virtual_transport = lmtp:unix:private/dovecot-lmtp
relay_domains = $mydestination, proxy:hash:{data}/relay
relay_recipient_maps = proxy:hash:{data}/recipients
proxy_read_maps = $local_recipient_maps $virtual_alias_maps $virtual_mailbox_maps
    $virtual_mailbox_domains $relay_recipient_maps $relay_domains
"""

LISTS_AMONG_LOCAL_USERS = """\
compatibility_level = 3.6
{base}
recipient_delimiter = +
mydestination = $myhostname, Lists.Example.NET, localhost
alias_maps = hash:{data}/aliases
"""

CONTINUED = """\
# head
compatibility_level = 3.6
{base}
recipient_delimiter = +

transport_maps =
    hash:{data}/transport
# a comment in between
    hash:{data}/relay

  \t
    hash:{data}/virtual
smtpd_recipient_restrictions = permit_mynetworks,
    # not at the beginning of a line
    reject_unauth_destination,
# and one that is

    reject_unlisted_recipient
virtual_alias_maps=hash:{data}/virtual   \x20
# tail
"""

NAMES = """\
compatibility_level = 3.6
{base}
recipient_delimiter = +
tables = {data}
indexed = ${{default_database_type}}:$tables
transport_maps = $indexed/transport
virtual_alias_maps = $virtual_maps $indexed/virtual
relay_domains = ${{indexed}}/relay, $mydestination
relay_recipient_maps = $indexed/recipients
"""

OTHER_ORDER = """\
virtual_alias_maps = hash:{data}/virtual
relay_recipient_maps = hash:{data}/recipients
relay_domains = hash:{data}/relay
recipient_delimiter = +-
{base}
lmtp_host_lookup = dns
transport_maps = hash:{data}/transport
compatibility_level = 3.6
"""

DUPLICATES = """\
compatibility_level = 3.6
{base}
recipient_delimiter = +
transport_maps = hash:{data}/relay
relay_domains = example.org
# appended by a script
transport_maps = hash:{data}/transport
relay_recipient_maps = hash:{data}/recipients
transport_maps =
  hash:{data}/transport
  hash:{data}/virtual
"""

BARE = "{base}\n"

SHAPES = {
    "debian": DEBIAN,
    "mailman": MAILMAN,
    "docker-mailman": DOCKER_MAILMAN,
    "virtual-mailboxes": VIRTUAL_MAILBOXES,
    "local": LISTS_AMONG_LOCAL_USERS,
    "continued": CONTINUED,
    "names": NAMES,
    "other-order": OTHER_ORDER,
    "duplicates": DUPLICATES,
    "last-line-not-ended": "# gr\xfc\xdfe\n" + BARE.rstrip("\n"),
    "ends-in-a-continued-line": CONTINUED.partition("virtual_alias_maps")[0].rstrip("\n"),
    "windows": NAMES.replace("\n", "\r\n"),
}


def write_tables(directory: Path, postfix: PostfixInstance) -> None:
    """Write the tables that the files name, without entries and with the named types."""
    directory.mkdir()
    for name in TABLES:
        (directory / name).write_text("")
        make = "postalias" if name == "aliases" else "postmap"
        postfix.command(make, f"hash:{directory / name}")
