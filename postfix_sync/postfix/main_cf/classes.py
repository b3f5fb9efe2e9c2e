"""Postfix's address classes, and the role of each map in them (ADDRESS_CLASS_README). Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from postfix_sync.errors import SyncError
from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES

ROLES = {
    "transport_maps": ROUTES,
    "relay_domains": DOMAINS,
    "relay_recipient_maps": RECIPIENTS,
    "local_recipient_maps": RECIPIENTS,
    "virtual_mailbox_maps": RECIPIENTS,
    "virtual_alias_maps": ALIASES,
}
"""The main.cf parameter that each map is for."""

CLASSES = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains")
"""The parameters that give a domain its class, in the order of trivial-rewrite(8)'s lookups."""

BY_CLASS = frozenset(
    {
        *CLASSES,
        "local_recipient_maps",
        "relay_recipient_maps",
        "unknown_local_recipient_reject_code",
        "virtual_mailbox_maps",
    }
)
"""The parameters whose right values depend on the classes of the list domains."""

HARMLESS = {
    "mydestination": {DOMAINS},
    "virtual_alias_domains": {ALIASES, RECIPIENTS},
    "virtual_alias_maps": {RECIPIENTS},
    "virtual_mailbox_domains": {DOMAINS, RECIPIENTS},
}
"""The maps that do no harm in a parameter that they are not for.

By default, some parameters have the value of another parameter.
"""

NO_ROLE = (
    "alias_database",
    "alias_maps",
    "canonical_maps",
    "mydestination",
    "recipient_canonical_maps",
    "relocated_maps",
    "sender_canonical_maps",
    "virtual_mailbox_domains",
)
"""Parameters that often name a map of Mailman's by mistake."""


@dataclass(frozen=True)
class Classes:
    """The domains of the maps, and the parameters of main.cf that name each of them."""

    domains: AbstractSet[str] = frozenset()
    """The mail domains of all lists."""
    mail_hosts: AbstractSet[str] = frozenset()
    """The domains that have an alias_domain in Mailman: postfix_vmap has their addresses."""
    named: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    """By parameter of CLASSES: which of all these domains it names, by the maps or otherwise."""
    relayed_anyway: AbstractSet[str] = frozenset()
    """The domains that relay_domains names without the maps."""
    kept_out: AbstractSet[str] = frozenset()
    """The domains that a `!` in relay_domains excludes."""
    self_aliased: AbstractSet[str] = frozenset()
    """The domains whose list addresses virtual_alias_maps maps to themselves."""
    unknown: Mapping[str, SyncError] = field(default_factory=dict)
    """The domains of unknown class, each with the error of the table that decides it."""

    def parameters(self, domain: str) -> list[str]:
        """Return the parameters that name a domain; the first of them gives it its class."""
        return [parameter for parameter in CLASSES if domain in self.named.get(parameter, ())]

    @property
    def local(self) -> AbstractSet[str]:
        """The list domains in the class of local domains."""
        return self._of("mydestination")

    @property
    def aliased(self) -> AbstractSet[str]:
        """The virtual alias domains among the list domains whose lists have no virtual alias.

        Postfix refuses mail to their lists, so setup removes them from that class; the properties
        below have the class that they get then.
        """
        return self._of("virtual_alias_domains") - self.self_aliased

    @property
    def mailbox(self) -> AbstractSet[str]:
        """The list domains in the class of virtual mailbox domains."""
        named = self.domains & self.named.get("virtual_mailbox_domains", frozenset())
        return named - self.local - self.kept_as_alias

    @property
    def kept_as_alias(self) -> AbstractSet[str]:
        """The list domains that are virtual alias domains, and whose lists get mail that way."""
        return self._of("virtual_alias_domains") & self.self_aliased

    @property
    def relayed(self) -> AbstractSet[str]:
        """The list domains to relay: all others of known class."""
        known = self.domains - self.unknown.keys()
        return known - self.local - self.mailbox - self.kept_as_alias

    def is_undecided(self, parameter: str) -> bool:
        """Return whether a parameter's right value is unknown, as a domain's class is unknown."""
        return bool(self.unknown) and parameter in BY_CLASS

    @property
    def shared(self) -> AbstractSet[str]:
        """The relayed list domains that relay_domains names without the maps.

        Recipients other than lists may exist there, which a transport, relayhost or MX reaches.
        """
        return (self.relayed & self.relayed_anyway) - self.aliased

    @property
    def needs_domains(self) -> bool:
        """Whether there are list domains that only postfix_domains makes relay domains."""
        return not self.relayed <= self.relayed_anyway

    @property
    def only_lists(self) -> AbstractSet[str]:
        """The relayed list domains, and the mail hosts of aliases, that only the maps name.

        That includes domains that are not relayed yet because relay_domains does not name
        postfix_domains.
        """
        by_maps = [["relay_domains"], *([[]] if self.needs_domains else [])]
        hosts = {host for host in self.mail_hosts if self.parameters(host) in by_maps}
        return (self.relayed - self.shared) | (hosts - self.relayed_anyway - self.domains)

    def _of(self, parameter: str) -> AbstractSet[str]:
        return {domain for domain in self.domains if self.parameters(domain)[:1] == [parameter]}
