"""Ask where recipients are delivered: trivial-rewrite(8), the resolver, the LMTP server."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from postfix_sync.errors import SyncError
from postfix_sync.explain.steps import COMPUTED, Step, Verdict
from postfix_sync.explain.view import View
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.model.destination import Destination
from postfix_sync.postfix import lmtp_families, lmtp_resolver
from postfix_sync.postfix.lmtp_resolver import Answer
from postfix_sync.postfix.main_cf.lookup import alias_forms, transport_forms
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.postfix.trivial_rewrite import Resolved, resolve
from postfix_sync.probe.lmtp import probe_all
from postfix_sync.probe.targets import Target

_PARAMETERS_OF_CLASSES = {
    "local": ("local_recipient_maps", "local_transport"),
    "virtual alias": ("virtual_alias_maps", "virtual_alias_maps"),
    "virtual mailbox": ("virtual_mailbox_maps", "virtual_transport"),
    "relay": ("relay_recipient_maps", "relay_transport"),
    "default": ("", "default_transport"),
}
"""By address class, the parameter that lists recipients, and the default for their delivery
(ADDRESS_CLASS_README)."""


_TABLES = (
    "canonical_maps",
    "local_recipient_maps",
    "recipient_canonical_maps",
    "relay_recipient_maps",
    "transport_maps",
    "virtual_alias_maps",
    "virtual_mailbox_maps",
)
"""The parameters whose tables are queried for recipients."""


@dataclass(frozen=True)
class Delivery:
    """Where one recipient is delivered, and what is known of the way there."""

    recipient: str
    resolved: Resolved | None
    """None if trivial-rewrite(8) could not be asked."""
    problem: str
    """Why not."""
    by: str
    """The entry or the parameter that the route comes from, as computed."""
    steps: tuple[Step, ...]
    """The steps after the transport is chosen."""

    @property
    def route(self) -> str:
        """Return `transport:nexthop`; empty if it is unknown."""
        return self.resolved.route if self.resolved else ""

    def judged(self, expected: str | None) -> list[Step]:
        """Return the steps; `expected` is the installed route of a list's address."""
        if self.resolved is None:
            asked = "trivial-rewrite(8)"
            said = f"{asked}: {self.problem}"
            return [Step("transport", self.recipient, said, ok=None, outcome=Verdict.UNKNOWN)]
        found = self.resolved
        outcome = _outcome(found, expected)
        said = "a table can't be queried" if found.failed else found.route
        transport = Step(
            "transport", self.recipient, said, self.by, ok=not outcome, outcome=outcome
        )
        steps = [Step("class", found.recipient, found.address_class or "none"), transport]
        return steps if outcome else [*steps, *self.steps]

    def informing(self) -> list[Step]:
        """Return the steps of a copy that is no matter of the verdict."""
        return [Step("transport", self.recipient, self.route or self.problem, self.by)]


def _outcome(found: Resolved, expected: str | None) -> Verdict | None:
    """Return what becomes of mail by its transport, unless it goes on to the list's Mailman."""
    if found.failed:
        return Verdict.DEFERRED
    if found.transport == "error":
        return Verdict.REFUSED
    if found.transport == "retry":
        return Verdict.DEFERRED
    if expected is not None and found.route != expected:
        return Verdict.DIVERTED
    return None


def decisive(view: View, address: str, found: Sequence[Delivery]) -> Sequence[Delivery]:
    """Return the deliveries that decide about mail to an address, of those of its recipients.

    Copies for others do not matter if the list's own Mailman gets the mail.
    """
    entry = view.list_entry(address)
    return [one for one in found if entry and one.route == entry[1]] or found


def expected_route(view: View, address: str, one: Delivery) -> str | None:
    """Return the route that a recipient of mail to an address must have: a list's, or None."""
    entry = view.list_entry(address) or view.list_entry(one.recipient)
    return entry[1] if entry else None


async def delivery_of(
    view: View, recipients: Iterable[str], *, probing: bool
) -> dict[str, Delivery]:
    """Find out where each recipient is delivered."""
    wanted = list(recipients)
    await _query_transports(view, wanted)
    resolved: Mapping[str, Resolved] = {}
    problem = ""
    try:
        resolved = await resolve(view.rewrite_socket, wanted)
    except SyncError as error:
        problem = error.message
    hops = {
        recipient: parse_next_hops(found.route)
        for recipient, found in resolved.items()
        if found.transport == "lmtp" and not found.failed
    }
    lookups = await _look_up(view, {hop for several in hops.values() for hop in several})
    steps = {
        recipient: (
            *(step for hop in several for step in _named(view, hop, lookups)),
            *(await _probed(view, recipient, several) if probing else ()),
        )
        for recipient, several in hops.items()
    }
    return {
        recipient: Delivery(
            recipient,
            resolved.get(recipient),
            problem,
            await _responsible(view, resolved.get(recipient)),
            steps.get(recipient, ()),
        )
        for recipient in wanted
    }


async def query_at_once(view: View, addresses: Sequence[str]) -> None:
    """Query each table once for all forms of all addresses: each query is a process."""
    parameters = view.postfix.parameters
    forms: set[str] = set()
    for address in addresses:
        forms |= {*alias_forms(address, parameters["recipient_delimiter"], local=True)}
        forms |= {*transport_forms(view.postfix, address)}
    named = [parameters[name] for name in _TABLES]
    for table in dict.fromkeys(item for value in named for item in items(value)):
        if ":" in table:
            await view.tables.query(table, forms)


async def _query_transports(view: View, recipients: Sequence[str]) -> None:
    """Query the tables of transport_maps once for all recipients."""
    forms = {form for one in recipients for form in transport_forms(view.postfix, one)}
    for table in items(_transport_maps(view)):
        if ":" in table:
            await view.tables.query(table, forms)


def _transport_maps(view: View) -> str:
    """Return the transport_maps of the trivial-rewrite(8) that qmgr(8) asks."""
    default = view.postfix.parameters["transport_maps"]
    return view.rewrite_overrides.get("transport_maps", default)


async def recipient_step(view: View, address: str, address_class: str) -> list[Step]:
    """Return the step that says which table makes an address a valid recipient.

    smtpd(8) queries virtual aliases first, and then the table of the address class.
    """
    parameter = _PARAMETERS_OF_CLASSES.get(address_class, ("", ""))[0]
    for name in dict.fromkeys(["virtual_alias_maps", parameter] if parameter else []):
        value = view.postfix.parameters[name]
        if name == parameter and not value:
            said = f"any address of the domain: {name} is empty"
            return [Step("recipient", address, said, view.place(name), COMPUTED)]
        delimiters = view.postfix.parameters["recipient_delimiter"]
        forms = alias_forms(address, delimiters, local=address_class == "local")
        if found := await view.tables.find(value, forms):
            return [Step("recipient", address, f"{found.table} has {found.key}", view.place(name))]
    if not parameter:
        return []
    return [Step("recipient", address, "in no table", view.place(parameter), ok=False)]


async def _responsible(view: View, found: Resolved | None) -> str:
    """Return the entry of transport_maps, or the parameter, that a route comes from."""
    if not found or found.failed:
        return view.place("transport_maps") if found else ""
    postfix = view.postfix
    forms = transport_forms(postfix, found.recipient)
    entry = await view.tables.find(_transport_maps(view), forms)
    if entry and entry.value.partition(":")[0] in {found.transport, ""}:
        return f"{view.place('transport_maps')}: {entry.table} has {entry.key} {entry.value}"
    parameter = _PARAMETERS_OF_CLASSES.get(found.address_class, ("", ""))[1]
    value = postfix.parameters.get(parameter, "")
    chosen = [f"{view.place(parameter)} = {value}"] if parameter else []
    other = [f"computed: transport_maps has {entry.key} {entry.value}"] if entry else []
    return "; ".join([*chosen, *other])


async def _look_up(view: View, hops: Iterable[Destination]) -> Mapping[str, Answer]:
    """Look up the names of next hops as lmtp(8) does; literals that it must not use have none."""
    names = {hop.host for hop in hops if hop.is_name}
    found = await lmtp_resolver.look_up_all(view.postfix.lmtp.resolver, names)
    literals = {hop.host for hop in hops if not hop.is_name}
    barred = await lmtp_families.barred(view.postfix, literals, {})
    said = f"{lmtp_families.barred_families(view.postfix)}: inet_protocols excludes it"
    return {**found, **{host: Answer(said=said) for host in barred}}


def _named(view: View, hop: Destination, lookups: Mapping[str, Answer]) -> list[Step]:
    """Return the step of a next hop's name; none for an address that lmtp(8) may use."""
    answer = lookups.get(hop.host)
    if answer is None:
        return []
    by = f"lmtp_host_lookup = {view.postfix.parameters['lmtp_host_lookup']}"
    if answer.addresses:
        return [Step("resolve", hop.host, ", ".join(answer.addresses), by)]
    if answer.denied:
        return [Step("resolve", hop.host, answer.denied, by, ok=None, outcome=Verdict.UNKNOWN)]
    outcome = Verdict.DEFERRED if answer.unanswered else Verdict.REFUSED
    return [Step("resolve", hop.host, answer.said, by, COMPUTED, ok=False, outcome=outcome)]


async def _probed(view: View, recipient: str, hops: Sequence[Destination]) -> list[Step]:
    """Ask LMTP servers for their replies to RCPT; one that takes the mail is enough."""
    section = view.config.probe
    if section.level == "off":
        return []
    try:
        hosts = HostsFiles(view.config.hosts.file, None).read().lookup()
    except SyncError:
        hosts = {}
    address = recipient if recipient.isascii() else None
    targets = [Target(hop, address) for hop in hops]
    lmtp = replace(view.postfix.lmtp, known=hosts)
    steps = []
    for result in await probe_all(targets, "rcpt", section.timeout, lmtp):
        said = result.reply if result.up else f"{result.error} {result.reply}".strip()
        outcome = None
        if not result.up:
            outcome = Verdict.REFUSED if result.returned else Verdict.DEFERRED
        asked = f"RCPT at {result.destination.endpoint}"
        steps.append(Step("lmtp", asked, said, ok=result.up, outcome=outcome))
    if any(step.ok for step in steps):
        return [replace(step, outcome=None) for step in steps]
    return steps
