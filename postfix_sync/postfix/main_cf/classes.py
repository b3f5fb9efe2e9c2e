"""The address classes of Postfix, and the role of each map in them (ADDRESS_CLASS_README). Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from postfix_sync.errors import SyncError
from postfix_sync.model import ALIASES, DOMAINS, RECIPIENTS, ROUTES

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
"""The parameters that give a domain its class, in the order in which trivial-rewrite(8) asks."""

BY_CLASS = frozenset(
    {
        *CLASSES,
        "local_recipient_maps",
        "relay_recipient_maps",
        "unknown_local_recipient_reject_code",
        "virtual_mailbox_maps",
    }
)
"""The parameters of which the classes of the list domains decide what they have to be."""

HARMLESS = {
    "mydestination": {DOMAINS},
    "virtual_alias_domains": {ALIASES},
    "virtual_mailbox_domains": {DOMAINS, RECIPIENTS},
}
"""Where else a map does no harm; some parameters are by default what another is."""

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
"""Parameters in which people name a map of Mailman's that is for another one."""


@dataclass(frozen=True)
class Classes:
    """The domains that the maps are for, and where main.cf names each of them."""

    domains: AbstractSet[str] = frozenset()
    """The mail domains of all lists."""
    mail_hosts: AbstractSet[str] = frozenset()
    """Those that have an alias_domain in Mailman: postfix_vmap has their addresses."""
    named: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    """By parameter of CLASSES: those of them all that it names, by the maps or otherwise."""
    relayed_anyway: AbstractSet[str] = frozenset()
    """Those that relay_domains names without the maps."""
    kept_out: AbstractSet[str] = frozenset()
    """Those that a `!` in relay_domains keeps out."""
    self_aliased: AbstractSet[str] = frozenset()
    """Those whose list addresses virtual_alias_maps knows, as aliases for themselves."""
    unknown: Mapping[str, SyncError] = field(default_factory=dict)
    """Those whose class can't be told, and what is wrong with the table that knows it."""

    def parameters(self, domain: str) -> list[str]:
        """The parameters that name a domain; the first is the one that counts."""
        return [parameter for parameter in CLASSES if domain in self.named.get(parameter, ())]

    @property
    def local(self) -> AbstractSet[str]:
        """The list domains that are local ones."""
        return self._of("mydestination")

    @property
    def aliased(self) -> AbstractSet[str]:
        """The list domains in which nothing but virtual aliases is known, the lists not among them.

        They can't stay so; the classes below are what they have otherwise.
        """
        return self._of("virtual_alias_domains") - self.self_aliased

    @property
    def mailbox(self) -> AbstractSet[str]:
        """The list domains that are virtual mailbox ones."""
        named = self.domains & self.named.get("virtual_mailbox_domains", frozenset())
        return named - self.local - self.kept_as_alias

    @property
    def kept_as_alias(self) -> AbstractSet[str]:
        """The list domains that are virtual alias ones, and work as such."""
        return self._of("virtual_alias_domains") & self.self_aliased

    @property
    def relayed(self) -> AbstractSet[str]:
        """The list domains that are to be relayed: all others."""
        known = self.domains - self.unknown.keys()
        return known - self.local - self.mailbox - self.kept_as_alias

    def is_undecided(self, parameter: str) -> bool:
        """Whether it can't be told what a parameter has to be, as the class of a domain can't."""
        return bool(self.unknown) and parameter in BY_CLASS

    @property
    def shared(self) -> AbstractSet[str]:
        """The relayed list domains that relay_domains names without the maps.

        Others than lists may have addresses there, which a transport, relayhost or MX reaches.
        """
        return (self.relayed & self.relayed_anyway) - self.aliased

    @property
    def needs_domains(self) -> bool:
        """Whether there are list domains that nothing but postfix_domains has relayed."""
        return not self.relayed <= self.relayed_anyway

    @property
    def only_lists(self) -> AbstractSet[str]:
        """The relayed list domains, and mail hosts of aliases, that only the maps bring in.

        Also those that are not there yet, as relay_domains does not name postfix_domains so far.
        """
        by_maps = [["relay_domains"], *([[]] if self.needs_domains else [])]
        hosts = {host for host in self.mail_hosts if self.parameters(host) in by_maps}
        return (self.relayed - self.shared) | (hosts - self.relayed_anyway - self.domains)

    def _of(self, parameter: str) -> AbstractSet[str]:
        return {domain for domain in self.domains if self.parameters(domain)[:1] == [parameter]}
