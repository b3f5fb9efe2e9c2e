"""One configuration of Postfix, small: one feature, or one style. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.parts.mailman_files import nine

NEW, RELAY, ALIAS, MAILBOX, LOCAL = CLASSES = (
    "new",
    "relay",
    "virtual-alias",
    "virtual-mailbox",
    "local",
)
"""The address class of the list's domain before setup; new: main.cf does not name the domain."""

PARAMETER = {
    RELAY: ("relay_domains", ""),
    ALIAS: ("virtual_alias_domains", "$virtual_alias_maps"),
    MAILBOX: ("virtual_mailbox_domains", "$virtual_mailbox_maps"),
    LOCAL: ("mydestination", "$myhostname, localhost"),
}
"""The parameter that has the domains of a class, and its value if the shape has none."""

ELSEWHERE = "eve@elsewhere.example"
"""An address that this host is not responsible for."""


@dataclass(frozen=True)
class Shape:
    """A configuration, as additions to what every instance needs.

    Values, tables and services may have `{data}` (the directory with the tables), `{port}` (of the
    public listener), `{extra}` (a second port to listen on), `{relay}` (the port of another SMTP
    server), `{mailman}` (the port of Mailman's LMTP server), and `{domain}` (the list's).
    """

    name: str
    about: str
    main_cf: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    """`TYPE:FILE` to the text; postmap builds the indexed types, postalias the type `aliases`."""
    services: tuple[str, ...] = ()
    """Lines of master.cf; each replaces the service of the same name and type."""
    overrides: tuple[str, ...] = ()
    """`SERVICE/TYPE/PARAMETER=VALUE`, for `postconf -P`."""
    classes: tuple[str, ...] = (NEW,)
    others: tuple[str, ...] = ()
    """Further addresses; setup must not change where their mail is delivered."""
    domain: str = "lists.example.net"
    """The domain of the list."""
    alias_domain: str = ""
    """The list's domain in Mailman, if `domain` is an alias for it; empty: `domain`."""
    listeners: tuple[str, ...] = ("port",)
    """The ports that list mail is sent to."""
    verp: str = ""
    """A further extension that list mail is sent to; empty: none."""
    large: int = 0
    """The size in bytes of one more message to the list; 0: none."""

    @property
    def list_name(self) -> str:
        """The list."""
        return f"ants@{self.domain}"

    @property
    def list_mail(self) -> tuple[str, ...]:
        """The addresses of the list: the nine, and one or two with an extension."""
        further = (f"ants-bounces+{self.verp}@{self.domain}",) if self.verp else ()
        return (*nine(self.list_name), f"ants-confirm+abc@{self.domain}", *further)

    def at_mailman(self, recipient: str) -> str:
        """Return the address that Mailman must be given for an address of the list."""
        return recipient.replace(f"@{self.domain}", f"@{self.alias_domain or self.domain}")

    @property
    def watched(self) -> tuple[str, ...]:
        """All addresses that are no list's."""
        return tuple(dict.fromkeys((*self.others, f"unknown@{self.domain}", ELSEWHERE)))

    def parameters(self, list_class: str) -> dict[str, str]:
        """Return main.cf's parameters with the list's domain in this class."""
        found = dict(self.main_cf)
        if list_class != NEW:
            name, default = PARAMETER[list_class]
            found[name] = ", ".join(filter(None, (found.get(name, default), self.domain)))
        return found
