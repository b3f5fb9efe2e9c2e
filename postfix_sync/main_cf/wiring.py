"""What main.cf must say for the maps to work: from what postconf(1) says to what is missing. Pure.

The maps do nothing until main.cf names each of them in the parameter for its role, and which roles
there are depends on the address class of each list domain (ADDRESS_CLASS_README): local, virtual
alias, virtual mailbox, relay, or none. `settings` is the one place that knows; the daemon's
notices, doctor and setup tell, or make, what it returns.

A setting adds to what a parameter has, and what Postfix accepts today it accepts afterwards:
defaults and `$names` stay, and where a parameter was empty, which accepts everything, unknown
addresses are refused only in domains that main.cf names by the maps alone. Only the maps themselves
in a wrong place, and Mailman's own files, go.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import ConfigError, NotPermitted, SyncError
from postfix_sync.main_cf.match_list import items, unproxied
from postfix_sync.main_cf.parameter import Edit, Installation, path_of, type_of
from postfix_sync.model import (
    ALIASES,
    DOMAINS,
    INDEX_SUFFIX,
    RECIPIENTS,
    ROUTES,
    Notice,
    Verdict,
)
from postfix_sync.queue import without_extension

if TYPE_CHECKING:
    from postfix_sync.postfix import IndexType, Postfix

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
        return [one for one in CLASSES if domain in self.named.get(one, ())]

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
        hosts = {one for one in self.mail_hosts if self.parameters(one) in by_maps}
        return (self.relayed - self.shared) | (hosts - self.relayed_anyway - self.domains)

    def _of(self, parameter: str) -> AbstractSet[str]:
        return {one for one in self.domains if self.parameters(one)[:1] == [parameter]}


@dataclass(frozen=True)
class Setting:
    """A parameter of main.cf that has to be another one for the maps to work."""

    parameter: str
    present: str
    """As it is written, $names and all."""
    wanted: str
    problem: str
    """What is wrong with it, beginning with the parameter."""
    verdict: Verdict = Verdict.FAILURE
    """WARNING where mail of the lists flows all the same."""
    first: str = ""
    """A command for a shell that has to come before, as what the value names is not there yet."""
    is_decision: bool = False
    """It would refuse addresses that are accepted, which only the operator can decide: no command
    is printed for it."""


def choose_map_type(postfix: "Postfix", map_directory: Path, configured: str) -> str:
    """The type that the maps are built as.

    `configured` is the configuration's postfix.map_type; "auto" takes what main.cf names for our
    maps, else lmdb where this Postfix has it, else its default_database_type.

    Raises ConfigError where this Postfix can't use that type, or where its index would take the
    place of one that main.cf reads as another type: hash and btree share a suffix.
    """
    named = named_types(postfix, map_directory)
    usable = INDEX_SUFFIX.keys() & postfix.map_types
    if configured != "auto":
        choices = [configured]
    else:
        default = postfix.parameters["default_database_type"]
        choices = [*named, "lmdb", default]
    for choice in choices:
        if choice in usable:
            _check_suffix(postfix, map_directory, choice, named)
            return choice
    raise ConfigError(
        f"{postfix.config_directory}: this Postfix has no map type {' or '.join(choices)} that"
        f" could be built; it has: {' '.join(sorted(postfix.map_types))}",
        "install one (apt install postfix-lmdb), or set postfix.map_type",
    )


def named_types(postfix: "Postfix", map_directory: Path) -> list[str]:
    """Return the types as which main.cf names the maps, in the order of ROLES."""
    return [
        type_of(item)
        for parameter in (*ROLES, *HARMLESS)
        for item in items(postfix.parameters[parameter])
        if path_of(item) in {str(map_directory / name) for name in _at_home(parameter)}
    ]


def _check_suffix(postfix: "Postfix", map_directory: Path, choice: str, named: list[str]) -> None:
    for other in named:
        if other != choice and INDEX_SUFFIX.get(other) == INDEX_SUFFIX[choice]:
            raise ConfigError(
                f"{postfix.config_directory}/main.cf: names maps in {map_directory} as {other}; as"
                f" {choice} their indexes would have the same names, which {other} can't read",
                f"name all of them as {choice} in main.cf, or set postfix.map_type: {other}",
            )


def type_notices(kind: "IndexType", doctor: str) -> Iterator[Notice]:
    """Report a map type that works, and that Postfix warns of; `doctor` is its command."""
    if kind.warnings:
        yield Notice(
            f"map type {kind.name}: the maps work, but Postfix warns whenever one is used:"
            f" {'; '.join(kind.warnings)}",
            f"doctor prints the command that changes them over to another type: {doctor}",
        )


def notices(
    postfix: "Postfix", ours: Installation, classes: Classes, first: str = ""
) -> list[Notice]:
    """What main.cf lacks, each with its remedy; see `settings`. `first` is as in `only_built`."""
    return [
        Notice(f"main.cf: {one.problem}", only_built(first, one, remedy(postfix, one)))
        for one in settings(postfix, ours, classes)
    ]


def settings(postfix: "Postfix", ours: Installation, classes: Classes) -> list[Setting]:
    """What main.cf lacks for the maps to work: one setting for a parameter at most.

    What depends on a domain's class is left out where that of any domain can't be told: Postfix has
    no answer for its mail either, and a guess would be wrong once it has one again.
    """
    edits = {one: Edit(postfix, one) for one in (*ROLES, "virtual_alias_domains", *NO_ROLE)}
    needed = _needed(postfix, ours, classes)
    for parameter, edit in edits.items():
        _put_map(edit, ours, classes, needed.get(parameter))
    _put_relayed(edits["relay_domains"], ours, classes)
    _put_others(edits["relay_recipient_maps"], ours, classes)
    _put_users(edits["local_recipient_maps"], ours)
    relayed = "relay_domains" in needed or any(
        ours.named(item) == DOMAINS for item in edits["relay_domains"].items
    )
    _put_virtual(edits["virtual_alias_domains"], classes, accepts_hosts=relayed)
    _put_local(edits, classes)
    found = [
        Setting(parameter, postfix.unexpanded[parameter], edit.text, edit.problem, edit.verdict)
        for parameter, edit in edits.items()
        if edit.problem and not classes.is_undecided(parameter)
    ]
    return [*found, *_delimiter(postfix), *_host_lookup(postfix, ours)]


def _needed(postfix: "Postfix", ours: Installation, classes: Classes) -> dict[str, Verdict]:
    """The parameters that have to name a map, and what it means where they don't."""
    parameters = postfix.parameters
    in_local = any(
        ours.named(item) == RECIPIENTS for item in items(parameters["local_recipient_maps"])
    )
    # As long as there is no list, it can't be told whether its domain will be a local one.
    relaying = bool(classes.relayed) or not (classes.domains or in_local)
    needed = {
        "transport_maps": Verdict.FAILURE,
        "virtual_alias_maps": Verdict.FAILURE if classes.mail_hosts else Verdict.WARNING,
    }
    if relaying and (classes.needs_domains or not classes.relayed):
        needed["relay_domains"] = Verdict.FAILURE
    if relaying and _others_can_be_kept(postfix, ours, classes):
        present = parameters["relay_recipient_maps"]
        needed["relay_recipient_maps"] = Verdict.FAILURE if present else Verdict.WARNING
    # An empty local_recipient_maps or virtual_mailbox_maps accepts every address, by Postfix's
    # definition; to name the map there would refuse all others.
    if classes.local and parameters["local_recipient_maps"]:
        needed["local_recipient_maps"] = Verdict.FAILURE
    if classes.mailbox and parameters["virtual_mailbox_maps"]:
        needed["virtual_mailbox_maps"] = Verdict.FAILURE
    return needed


def _put_map(edit: Edit, ours: Installation, classes: Classes, needed: Verdict | None) -> None:
    """Makes a parameter name the map for it, as the type that is built, and no wrong one.

    `needed` is what it means where the map is not named, None where that is no fault.
    """
    name = ROLES.get(edit.parameter, "")
    wanted = ours.reference(name) if name else ""
    named = False
    for item in dict.fromkeys(edit.items):
        own = ours.named(item)
        called = own or ours.of_mailman(item)
        if not called:
            continue
        if _comes_from_elsewhere(edit, item):
            named |= own == name
        elif called in _at_home(edit.parameter):
            named |= called == name
            if not own:
                edit.replace(item, ours.reference(called))
                edit.because(_mailmans(item))
            elif type_of(item) != ours.map_type:
                edit.replace(item, ours.reference(called))
                edit.because(f"names {item}, but the map is built as {ours.map_type}")
        else:
            edit.replace(item, wanted if needed else "")
            edit.because(*_misplaced(edit.parameter, own, item))
            named |= bool(needed)
    if needed and not named:
        edit.append(wanted)
        edit.because(f"does not name {wanted}{_so(edit, classes)}", needed)


def _at_home(parameter: str) -> AbstractSet[str]:
    """The maps that a parameter may name: the one that it is for, and what does no harm there."""
    role = {ROLES[parameter]} if parameter in ROLES else set()
    return role | HARMLESS.get(parameter, set())


def _mailmans(item: str) -> str:
    return f"names {item}: that is Mailman's own file, which changes without Postfix being told"


def _misplaced(parameter: str, own: str, item: str) -> tuple[str, Verdict]:
    """Why an item should not be there: a map (`own`) in a wrong role, or a file of Mailman's."""
    if not own:
        return _mailmans(item), Verdict.FAILURE
    if own == ROUTES and ROLES.get(parameter) == RECIPIENTS:
        why = "which has a new list's addresses before Postfix knows their route"
        return f"names {item}, {why}", Verdict.WARNING
    role = " or ".join(one for one, map_name in ROLES.items() if map_name == own)
    return f"names {item}, which is for {role}", Verdict.FAILURE


def _comes_from_elsewhere(edit: Edit, item: str) -> bool:
    """Whether another parameter, to which the value refers, has the item, and will lose it."""
    names = re.findall(r"\$[{(]?(\w+)", edit.text)
    parameters = edit.postfix.parameters
    return any(item in items(parameters.get(name, "")) for name in names)


def _so(edit: Edit, classes: Classes) -> str:
    if edit.parameter == "relay_recipient_maps" and not edit.items:
        return f": {_every_address(classes.only_lists)}"
    return ", so Postfix does not use that map"


def _every_address(domains: AbstractSet[str]) -> str:
    """What it means that every address of list domains is accepted."""
    named = ", ".join(sorted(domains)) or "a list domain"
    return (
        f"mail to any address in {named} is accepted, and returned to the apparent sender where"
        " there is no such list"
    )


def _put_relayed(edit: Edit, ours: Installation, classes: Classes) -> None:
    """Makes relay_domains name the relayed list domains, and none that is a virtual one.

    postfix_domains has all list domains. trivial-rewrite(8) says nothing of one that is in
    mydestination as well; of one that is a virtual one, it warns with each message.
    """
    ours_is_named = ours.reference(DOMAINS) in map(unproxied, items(edit.text))
    virtual = (classes.mailbox | classes.kept_as_alias) - classes.relayed_anyway
    double = virtual - classes.kept_out if ours_is_named else frozenset()
    lost = classes.relayed & classes.kept_out if ours_is_named else frozenset()
    for domain in sorted(lost):
        edit.because(f'keeps {domain} out with a "!": mail to its lists is refused')
        if f"!{domain}" in items(edit.text):
            edit.replace(f"!{domain}")
        else:
            edit.prepend(domain)
    # Right before the map: what others name is matched first, subdomains of these among it.
    below = [one for one in classes.relayed if any(one.endswith(f".{two}") for two in double)]
    for item in [*sorted(below), *(f"!{one}" for one in sorted(double))]:
        edit.insert(item, ours.reference(DOMAINS))
    for domain in sorted(double):
        edit.because(
            f"names {domain}, which is a virtual domain, too: Postfix warns of that with each"
            " message",
            Verdict.WARNING,
        )


def _others_relayed(postfix: "Postfix", ours: Installation, classes: Classes) -> list[str]:
    """What relay_domains names besides domains that it names for lists only."""
    return [
        item
        for item in items(postfix.parameters["relay_domains"])
        if not (ours.named(item) or ours.of_mailman(item))
        if item.lower() not in classes.domains - classes.shared
        if not item.startswith("!")
    ]


def _others_can_be_kept(postfix: "Postfix", ours: Installation, classes: Classes) -> bool:
    """Whether relay_recipient_maps can get the map without refusing the mail of other domains.

    A table within main.cf needs Postfix 3.7, and says which domains have nothing but lists.
    """
    return (
        bool(postfix.parameters["relay_recipient_maps"])
        or not _others_relayed(postfix, ours, classes)
        or (bool(classes.only_lists) and postfix.at_least(3, 7))
    )


def _put_others(edit: Edit, ours: Installation, classes: Classes) -> None:
    """Keeps accepted what an empty relay_recipient_maps accepted in other relay domains.

    Which those are can't be listed: relay_domains may name tables, and stand for subdomains.
    """
    present = next((one for one in items(edit.text) if one.startswith(_OTHERS)), "")
    # What an earlier setup has closed is not opened again because main.cf names it since.
    closed = classes.only_lists | (_closed_by(present) & (classes.relayed | classes.mail_hosts))
    wanted = _others(closed)
    if not edit.items and edit.text and _others_relayed(edit.postfix, ours, classes):
        edit.append(wanted)
    elif present and present != wanted and closed:
        edit.replace(present, wanted)
        edit.because(
            f"names {present}, which has every address of other domains; the domains that have"
            f" nothing but lists are {', '.join(sorted(closed))} now",
            Verdict.WARNING,
        )


def _others(closed: AbstractSet[str]) -> str:
    """A table that has every address which is not in one of these domains."""
    domains = "|".join(one.replace(".", r"\.") for one in sorted(closed))
    return f"{_OTHERS}({domains})$$/ OK}}}}"


def _closed_by(table: str) -> AbstractSet[str]:
    """The domains of which such a table has no address."""
    domains = table.removeprefix(f"{_OTHERS}(").partition(")")[0].replace("\\", "")
    return frozenset(filter(None, domains.split("|")))


_OTHERS = "regexp:{{!/@"
"""How an item begins that names everything which is not in certain list domains."""


def left_open(postfix: "Postfix", classes: Classes) -> dict[str, str]:
    """The list domains in which every address is accepted, and stays so; each with the reason.

    Only the operator can tell whether others than lists have addresses there.
    """
    present = items(postfix.parameters["relay_recipient_maps"])
    tables = [one for one in present if one.startswith(_OTHERS)]
    if present and not tables:
        return {}
    return {
        domain: f"relay_domains names {domain} without postfix_domains, too, so it may have other"
        " addresses than those of lists. Every address of it stays accepted, also one that does not"
        " exist; to refuse those, relay_recipient_maps has to list all that exist"
        for domain in sorted(classes.shared)
        if all(domain not in _closed_by(one) for one in tables)
    }


def _put_virtual(edit: Edit, classes: Classes, *, accepts_hosts: bool) -> None:
    """Makes virtual_alias_domains name no list domain, and the hosts of aliases if nothing else
    does: where relay_domains names postfix_domains, that has them (`accepts_hosts`).

    Virtual aliases are looked up for every class of domain: those of a domain that is kept out
    work as before.
    """
    for domain in sorted(classes.aliased):
        edit.prepend(f"!{domain}")
        edit.because(
            f"names {domain}: its lists are refused, because Postfix looks for addresses of such a"
            " domain in virtual_alias_maps only"
        )
    hosts = classes.mail_hosts if not accepts_hosts else frozenset[str]()
    for domain in sorted(one for one in hosts if not classes.parameters(one)):
        edit.append(domain)
        edit.because(
            f"does not name {domain}, the domain of lists that have an alias_domain: mail to them"
            " is refused"
        )


def _put_local(edits: Mapping[str, Edit], classes: Classes) -> None:
    """Keeps local list domains out of the virtual ones, where they are by mistake.

    Postfix takes them for local, but warns with each message.
    """
    for parameter in ("virtual_alias_domains", "virtual_mailbox_domains"):
        for domain in sorted(classes.local & classes.named.get(parameter, frozenset())):
            edits[parameter].prepend(f"!{domain}")
            edits[parameter].because(
                f"names {domain}, as mydestination does: Postfix warns of that with each message",
                Verdict.WARNING,
            )


def _put_users(edit: Edit, ours: Installation) -> None:
    """Lets local_recipient_maps name local users where it has nothing but lists.

    Recipes that replace its value are as old as Mailman 3.
    """
    if edit.items and all(ours.named(item) or ours.of_mailman(item) for item in edit.items):
        edit.prepend(LOCAL_USERS)
        edit.because(
            "names no local users: mail to all of them, and to root and postmaster, is refused"
            " wherever the domain is in mydestination",
            Verdict.WARNING,
        )


LOCAL_USERS = "proxy:unix:passwd.byname, $alias_maps"
"""The default of local_recipient_maps."""


def _delimiter(postfix: "Postfix") -> Iterator[Setting]:
    present = postfix.parameters["recipient_delimiter"]
    if "+" not in present:
        yield Setting(
            "recipient_delimiter",
            postfix.unexpanded["recipient_delimiter"],
            f"{present}+",
            f"recipient_delimiter = {present}: Postfix refuses answers to Mailman's confirmations,"
            " and bounces, which come to addresses such as ants-confirm+1a2b3c",
        )


def advice(
    postfix: "Postfix", ours: Installation, classes: Classes, recipients: AbstractSet[str]
) -> list[Setting]:
    """What doctor tells beside `settings`, and setup leaves alone: mail of the lists flows so.

    `recipients` are the lists' addresses.
    """
    found = [*_cut_off(postfix, ours, classes), *_reject_codes(postfix, classes)]
    found += _open_beside_others(postfix, ours, classes)
    found += _refused_extensions(postfix, recipients)
    parameters = postfix.parameters
    if parameters["soft_bounce"] == "yes":
        why = "mail to lists that don't exist is tried again for days, by others and from here"
        problem = f"soft_bounce = yes: {why}"
        found.append(Setting("soft_bounce", "yes", "no", problem, Verdict.WARNING))
    restrictions = [
        one
        for name in ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
        for one in items(parameters[name])
    ]
    checked = {"reject_unlisted_recipient", "reject_unverified_recipient"} & {*restrictions}
    if parameters["smtpd_reject_unlisted_recipient"] == "no" and not checked:
        why = (
            "mail to addresses that don't exist is accepted, and returned to whoever seems to have"
            " sent it, unless a restriction has reject_unlisted_recipient"
        )
        name = "smtpd_reject_unlisted_recipient"
        problem = f"{name} = no: {why}. With yes, what no table lists is refused, in all domains"
        found.append(Setting(name, "no", "yes", problem, Verdict.WARNING, is_decision=True))
    return found


def _cut_off(postfix: "Postfix", ours: Installation, classes: Classes) -> Iterator[Setting]:
    """Other relay domains, all of whose recipients are refused because of the map.

    setup does not open what is closed: somebody may want it so.
    """
    edit = Edit(postfix, "relay_recipient_maps")
    only_ours = edit.items and all(ours.named(item) == RECIPIENTS for item in edit.items)
    # Those that are local as well, as in relay_domains = $mydestination, are not relayed.
    local = items(postfix.parameters["mydestination"])
    named = {*local, *classes.domains}
    others = [one for one in _others_relayed(postfix, ours, classes) if one.lower() not in named]
    if only_ours and others and classes.relayed:
        first, table = _others_anywhere(postfix, classes.relayed)
        yield Setting(
            edit.parameter,
            postfix.unexpanded[edit.parameter],
            f"{edit.text}, {table}",
            "relay_recipient_maps names the addresses of lists only, and relay_domains other"
            " domains, too: all mail to those is refused",
            Verdict.WARNING,
            first,
        )


def _open_beside_others(
    postfix: "Postfix", ours: Installation, classes: Classes
) -> Iterator[Setting]:
    """List domains of which every address is accepted, before Postfix 3.7, and no other's is.

    setup leaves them so: it makes no table of its own outside of main.cf.
    """
    name = "relay_recipient_maps"
    if classes.only_lists and not _others_can_be_kept(postfix, ours, classes):
        first, table = _others_anywhere(postfix, classes.only_lists)
        wanted = f"{ours.reference(RECIPIENTS)}, {table}"
        why = f"{name} is empty: {_every_address(classes.only_lists)}"
        yield Setting(name, "", wanted, why, Verdict.WARNING, first)


def _others_anywhere(postfix: "Postfix", closed: AbstractSet[str]) -> tuple[str, str]:
    """The same as `_others` for any Postfix: where it has to be a file, the command that makes it
    comes first, else nothing."""
    table = _others(closed)
    if postfix.at_least(3, 7):
        return "", table
    path = postfix.config_directory / "outside_of_list_domains"
    content = table.removeprefix("regexp:{{").removesuffix("}}").replace("$$", "$")
    return f"echo {shlex.quote(content)} > {shlex.quote(str(path))}", f"regexp:{path}"


def _reject_codes(postfix: "Postfix", classes: Classes) -> Iterator[Setting]:
    """Codes that leave a sender waiting instead of telling that there is no such list."""
    for kind, domains in (
        ("local", classes.local),
        ("relay", classes.relayed),
        ("virtual_mailbox", classes.mailbox),
    ):
        name = f"unknown_{kind}_recipient_reject_code".replace("mailbox_recipient", "mailbox")
        code = postfix.parameters[name]
        if domains and code.startswith("4"):
            why = f"mail to lists that don't exist, in {min(domains)}, is tried again for days"
            yield Setting(name, code, "550", f"{name} = {code}: {why}", Verdict.WARNING)


def _refused_extensions(postfix: "Postfix", recipients: AbstractSet[str]) -> Iterator[Setting]:
    """A delimiter that is found in a list's name before the `+` of a bounce or a confirmation.

    What is cut off there leaves another address; where that is none of a list, Postfix refuses it.
    owner_request_special = yes keeps addresses that begin with owner- from being cut at a `-`, and
    so from losing an extension (split_addr(3)).
    """
    delimiters = postfix.parameters["recipient_delimiter"]
    if "+" not in delimiters:
        return  # see `_delimiter`
    special = postfix.parameters["owner_request_special"] == "yes" and "-" in delimiters
    answered = {
        one for one in recipients if one.partition("@")[0].endswith(("-bounces", "-confirm"))
    }
    refused = {
        one for one in answered if without_extension(_extended(one), delimiters) not in recipients
    }
    kept_whole = {one for one in answered if special and one.startswith("owner-")}
    if refused:
        yield Setting(
            "recipient_delimiter",
            postfix.unexpanded["recipient_delimiter"],
            "+",
            f"recipient_delimiter = {delimiters}: {_extended(min(refused))} and the like are"
            " refused, because the first of these characters ends the address",
        )
    elif kept_whole:
        yield Setting(
            "owner_request_special",
            "yes",
            "no",
            f"owner_request_special = yes: {_extended(min(kept_whole))} and the like are refused,"
            " because with a - in recipient_delimiter nothing that begins with owner- is cut",
        )


def _extended(address: str) -> str:
    """An address to which bounces and confirmations come."""
    return address.replace("@", "+1a2b3c@")


def _host_lookup(postfix: "Postfix", ours: Installation) -> Iterator[Setting]:
    present = postfix.parameters["lmtp_host_lookup"]
    if ours.hosts_used and "native" not in items(present):
        yield Setting(
            "lmtp_host_lookup",
            postfix.unexpanded["lmtp_host_lookup"],
            "native",
            f"lmtp_host_lookup = {present}: lmtp(8) does not read the hosts file, so it will not"
            " find the destination that was entered there",
        )


def cluster_notices(postfix: "Postfix") -> Iterator[Notice]:
    """What main.cf lacks for a route with several next hops to be worth something."""
    for setting in cluster_settings(postfix):
        yield Notice(f"main.cf: {setting.problem}", remedy(postfix, setting))


def cluster_settings(postfix: "Postfix") -> Iterator[Setting]:
    """The same as settings."""
    timeout = postfix.parameters["lmtp_connect_timeout"]
    if re.fullmatch("0+[smhdw]?", timeout):
        yield Setting(
            "lmtp_connect_timeout",
            postfix.unexpanded["lmtp_connect_timeout"],
            "5s",
            f"lmtp_connect_timeout = {timeout}: while a member of a cluster drops packets, mail"
            " waits minutes before the next member is tried",
        )


def remedy(postfix: "Postfix", setting: Setting) -> str:
    """The command that makes a setting in this instance."""
    return reloaded(postfix, " && ".join(filter(None, [setting.first, change(postfix, setting)])))


def change(postfix: "Postfix", setting: Setting) -> str:
    """The command that changes main.cf alone."""
    return command(postfix, "postconf", "-e", f"{setting.parameter} = {setting.wanted}")


def reloaded(postfix: "Postfix", changing: str) -> str:
    """A command, and one that has a Postfix that runs see what it did.

    `postfix reload` fails beside one that is stopped, which reads everything when it starts.
    """
    try:
        runs = postfix.master is not None
    except NotPermitted:
        runs = True  # most do; a dry run by somebody who can't know tells as much
    return f"{changing} && {command(postfix, 'postfix', 'reload')}" if runs else changing


def only_built(first: str, setting: Setting, remedy: str) -> str:
    """A remedy that is safe to paste, by the command that makes the maps where one isn't there.

    Postfix puts off all mail as long as main.cf names a map that has not been built.
    """
    return f"{first} && {remedy}" if first and setting.parameter in ROLES else remedy


def command(postfix: "Postfix", name: str, *arguments: str) -> str:
    """A Postfix command as an operator types it for this instance."""
    directory = str(postfix.config_directory)
    instance = [] if directory == "/etc/postfix" else ["-c", directory]
    return shlex.join([name, *instance, *arguments])
