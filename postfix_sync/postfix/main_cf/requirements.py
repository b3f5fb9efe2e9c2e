"""Compute what main.cf lacks for the maps to work, from what postconf(1) prints. Pure.

The maps have no effect until main.cf names each of them in the parameter for its role, and which
roles are needed depends on the address class of each list domain (ADDRESS_CLASS_README): local,
virtual alias, virtual mailbox, relay, or none. Only `settings` decides that; the daemon's notices
and doctor report what it returns, and setup makes these changes.

A setting adds to a parameter's value, and Postfix accepts afterwards all that it accepted before:
defaults and `$names` are kept, and if a parameter was empty, which accepts every address, unknown
addresses are refused only in domains that main.cf names by the maps alone. Only a map in a wrong
parameter, and Mailman's own files, are removed.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from postfix_sync.model.finding import Verdict
from postfix_sync.model.map_names import DOMAINS, RECIPIENTS, ROUTES
from postfix_sync.model.notice import Notice
from postfix_sync.postfix.main_cf.classes import NO_ROLE, ROLES, Classes
from postfix_sync.postfix.main_cf.fixes import Setting, only_built, remedy
from postfix_sync.postfix.main_cf.map_type import at_home
from postfix_sync.postfix.main_cf.parameter import Edit, Installation, type_of
from postfix_sync.postfix.main_cf.relay_recipients import (
    every_address,
    others_can_be_kept,
    put_others,
)
from postfix_sync.postfix.match_list import items, unproxied

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


def notices(
    postfix: "Postfix", ours: Installation, classes: Classes, first: str = ""
) -> list[Notice]:
    """Return a notice for each of `settings`, with its remedy; `first` is as in `only_built`."""
    return [
        Notice(f"main.cf: {setting.problem}", only_built(first, setting, remedy(postfix, setting)))
        for setting in settings(postfix, ours, classes)
    ]


def settings(postfix: "Postfix", ours: Installation, classes: Classes) -> list[Setting]:
    """Return what main.cf lacks for the maps to work, at most one setting for a parameter.

    If the class of any domain is unknown, the settings that depend on classes are left out: Postfix
    itself defers that domain's mail, and a guess may be wrong once the class is known again.
    """
    edits = {
        parameter: Edit(postfix, parameter)
        for parameter in (*ROLES, "virtual_alias_domains", *NO_ROLE)
    }
    needed = _needed(postfix, ours, classes)
    for parameter, edit in edits.items():
        _put_map(edit, ours, classes, needed.get(parameter))
    _put_relayed(edits["relay_domains"], ours, classes)
    put_others(edits["relay_recipient_maps"], ours, classes)
    _put_users(edits["local_recipient_maps"], ours)
    relayed = "relay_domains" in needed or any(
        ours.named(item) == DOMAINS for item in edits["relay_domains"].items
    )
    _put_virtual(edits["virtual_alias_domains"], classes, accepts_hosts=relayed)
    _put_local(edits, classes)
    found = [
        Setting(
            parameter,
            postfix.unexpanded[parameter],
            edit.text,
            edit.problem,
            edit.verdict,
            is_unused=edit.is_unused,
        )
        for parameter, edit in edits.items()
        if edit.problem and not classes.is_undecided(parameter)
    ]
    found += propagation(postfix, ours, classes)
    return [*found, *delimiter(postfix), *host_lookup(postfix, ours)]


def _needed(postfix: "Postfix", ours: Installation, classes: Classes) -> dict[str, Verdict]:
    """Return the parameters that must name a map, each with the verdict if it does not."""
    parameters = postfix.parameters
    in_local = any(
        ours.named(item) == RECIPIENTS for item in items(parameters["local_recipient_maps"])
    )
    # As long as there is no list, the class of its domain is unknown; relay is assumed.
    relaying = bool(classes.relayed) or not (classes.domains or in_local)
    needed = {
        "transport_maps": Verdict.FAILURE,
        "virtual_alias_maps": Verdict.FAILURE if classes.mail_hosts else Verdict.WARNING,
    }
    if relaying and (classes.needs_domains or not classes.relayed):
        needed["relay_domains"] = Verdict.FAILURE
    if relaying and others_can_be_kept(postfix, ours, classes):
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
    """Make a parameter name the map for it, as the type that is built, and remove other maps.

    `needed` is the verdict if the parameter does not name the map, None if it need not.
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
        elif called in at_home(edit.parameter):
            named |= called == name
            if not own:
                edit.replace(item, ours.reference(called))
                edit.because_unused(_mailmans(item))
            elif type_of(item) != ours.map_type:
                edit.replace(item, ours.reference(called))
                edit.because_unused(f"names {item}, but the map is built as {ours.map_type}")
        else:
            edit.replace(item, wanted if needed else "")
            edit.because(*_misplaced(edit.parameter, own, item))
            named |= bool(needed)
    if needed and not named:
        edit.append(wanted)
        edit.because_unused(f"does not name {wanted}{_so(edit, classes)}", needed)


def _mailmans(item: str) -> str:
    return f"names {item}: that is Mailman's own file, of whose changes Postfix is not notified"


def _misplaced(parameter: str, own: str, item: str) -> tuple[str, Verdict]:
    """Return why a parameter must not name an item: a map (`own`) for another role, or a file of
    Mailman's."""
    if not own:
        return _mailmans(item), Verdict.FAILURE
    if own == ROUTES and ROLES.get(parameter) == RECIPIENTS:
        why = "which has a new list's addresses before Postfix knows their route"
        return f"names {item}, {why}", Verdict.WARNING
    role = " or ".join(parameter for parameter, map_name in ROLES.items() if map_name == own)
    return f"names {item}, which is for {role}", Verdict.FAILURE


def _comes_from_elsewhere(edit: Edit, item: str) -> bool:
    """Return whether the item comes from another parameter, by a $name, and is removed there."""
    names = re.findall(r"\$[{(]?(\w+)", edit.text)
    parameters = edit.postfix.parameters
    return any(item in items(parameters.get(name, "")) for name in names)


def _so(edit: Edit, classes: Classes) -> str:
    if edit.parameter == "relay_recipient_maps" and not edit.items:
        return f": {every_address(classes.only_lists)}"
    return ", so Postfix does not use that map"


def _put_relayed(edit: Edit, ours: Installation, classes: Classes) -> None:
    """Make relay_domains name the relayed list domains, and no virtual domain.

    postfix_domains has all list domains. trivial-rewrite(8) logs nothing about a domain that is
    also in mydestination, but it logs a warning with each message to a domain that is also virtual.
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
    # Right before the map, so that all other items match first, as may subdomains of these.
    below = [
        domain
        for domain in classes.relayed
        if any(domain.endswith(f".{parent}") for parent in double)
    ]
    for item in [*sorted(below), *(f"!{domain}" for domain in sorted(double))]:
        edit.insert(item, ours.reference(DOMAINS))
    for domain in sorted(double):
        edit.because(
            f"names {domain}, which is also a virtual domain: Postfix warns of that with each"
            " message",
            Verdict.WARNING,
        )


def _put_virtual(edit: Edit, classes: Classes, *, accepts_hosts: bool) -> None:
    """Make virtual_alias_domains name no list domain, and the mail hosts of aliases if needed.

    With `accepts_hosts`, relay_domains names postfix_domains, which has these hosts already.

    Postfix looks up virtual aliases for every class of domain, so the aliases of a domain that is
    excluded here still work.
    """
    for domain in sorted(classes.aliased):
        edit.prepend(f"!{domain}")
        edit.because(
            f"names {domain}: its lists are refused, because Postfix looks for addresses of such a"
            " domain in virtual_alias_maps only"
        )
    hosts = classes.mail_hosts if not accepts_hosts else frozenset[str]()
    for domain in sorted(host for host in hosts if not classes.parameters(host)):
        edit.append(domain)
        edit.because(
            f"does not name {domain}, the domain of lists that have an alias_domain: mail to them"
            " is refused"
        )


def _put_local(edits: Mapping[str, Edit], classes: Classes) -> None:
    """Exclude local list domains from the virtual domains, which name them by mistake.

    Postfix treats such a domain as local, but warns with each message.
    """
    for parameter in ("virtual_alias_domains", "virtual_mailbox_domains"):
        for domain in sorted(classes.local & classes.named.get(parameter, frozenset())):
            edits[parameter].prepend(f"!{domain}")
            edits[parameter].because(
                f"names {domain}, as mydestination does: Postfix warns of that with each message",
                Verdict.WARNING,
            )


def _put_users(edit: Edit, ours: Installation) -> None:
    """Make local_recipient_maps name local users if it names only maps of lists.

    Recipes that replace its whole value are as old as Mailman 3.
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


def delimiter(postfix: "Postfix") -> Iterator[Setting]:
    """Require a + in recipient_delimiter."""
    present = postfix.parameters["recipient_delimiter"]
    if "+" not in present:
        yield Setting(
            "recipient_delimiter",
            postfix.unexpanded["recipient_delimiter"],
            f"{present}+",
            f"recipient_delimiter = {present}: Postfix refuses answers to Mailman's confirmations,"
            " and bounces, which come to addresses such as ants-confirm+1a2b3c",
        )


def propagation(postfix: "Postfix", ours: Installation, classes: Classes) -> Iterator[Setting]:
    """Require that virtual aliases keep extensions, if lists' addresses are virtual aliases."""
    name = "propagate_unmatched_extensions"
    aliases = map(ours.named, items(postfix.parameters["virtual_alias_maps"]))
    present = postfix.parameters[name]
    if "virtual" not in items(present) and (classes.mail_hosts or RECIPIENTS in aliases):
        text = postfix.unexpanded[name]
        yield Setting(
            name,
            text,
            f"{text}, virtual" if text else "virtual",
            f"{name} = {present}: a virtual alias of a list drops the extension of addresses such"
            " as ants-confirm+1a2b3c, so Mailman does not recognize answers to its confirmations,"
            " and bounces",
        )


def host_lookup(postfix: "Postfix", ours: Installation) -> Iterator[Setting]:
    """Require lookups in the hosts file if destinations have their names there."""
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
    """Report what main.cf lacks for a cluster to fail over in time; see `cluster_settings`."""
    for setting in cluster_settings(postfix):
        yield Notice(f"main.cf: {setting.problem}", remedy(postfix, setting))


def cluster_settings(postfix: "Postfix") -> Iterator[Setting]:
    """Require a timeout of connections, so that a route with several next hops is of use."""
    timeout = postfix.parameters["lmtp_connect_timeout"]
    if re.fullmatch("0+[smhdw]?", timeout):
        yield Setting(
            "lmtp_connect_timeout",
            postfix.unexpanded["lmtp_connect_timeout"],
            "5s",
            f"lmtp_connect_timeout = {timeout}: while a member of a cluster drops packets, mail is"
            " delayed for minutes before the next member is tried",
        )
