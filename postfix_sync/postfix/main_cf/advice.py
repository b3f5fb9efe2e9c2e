"""Find settings of main.cf, other than the maps, that hinder list mail. Pure."""

import shlex
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from postfix_sync.model.finding import Verdict
from postfix_sync.model.map_names import RECIPIENTS
from postfix_sync.postfix.main_cf.classes import Classes
from postfix_sync.postfix.main_cf.fixes import Setting
from postfix_sync.postfix.main_cf.parameter import Edit, Installation
from postfix_sync.postfix.main_cf.relay_recipients import (
    every_address,
    others,
    others_can_be_kept,
    others_relayed,
)
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.queue import without_extension

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


def advice(
    postfix: "Postfix",
    ours: Installation,
    classes: Classes,
    recipients: AbstractSet[str],
    accepting: Mapping[str, str] | None = None,
) -> list[Setting]:
    """Return the settings that doctor reports in addition to `settings`, and setup does not change.

    The maps work without them. `recipients` are the lists' addresses; `accepting` is as in
    `unknown_accepted`.
    """
    found = [*_cut_off(postfix, ours, classes), *_reject_codes(postfix, classes)]
    found += unknown_accepted(postfix, ours, classes, accepting or {})
    found += _refused_extensions(postfix, recipients)
    parameters = postfix.parameters
    if parameters["soft_bounce"] == "yes":
        why = "mail to lists that don't exist is tried again for days, by others and from here"
        problem = f"soft_bounce = yes: {why}"
        found.append(Setting("soft_bounce", "yes", "no", problem, Verdict.WARNING))
    return found


def unknown_accepted(
    postfix: "Postfix", ours: Installation, classes: Classes, accepting: Mapping[str, str]
) -> Iterator[Setting]:
    """Find settings by which Postfix accepts addresses of list domains that do not exist.

    `accepting` are the domains in which a table of relay_recipient_maps has such addresses, each
    with the table.
    """
    yield from _open_beside_others(postfix, ours, classes)
    yield from _open_mailboxes(postfix, ours, classes)
    yield from _open_tables(postfix, accepting)
    yield from _unlisted(postfix)


def _unlisted(postfix: "Postfix") -> Iterator[Setting]:
    """Find that smtpd(8) accepts addresses that no table has."""
    parameters = postfix.parameters
    restrictions = [
        restriction
        for name in ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
        for restriction in items(parameters[name])
    ]
    checked = {"reject_unlisted_recipient", "reject_unverified_recipient"} & {*restrictions}
    if parameters["smtpd_reject_unlisted_recipient"] == "no" and not checked:
        why = (
            "mail to addresses that don't exist, also in list domains, is accepted, and returned to"
            " its apparent sender, unless a restriction has reject_unlisted_recipient"
        )
        name = "smtpd_reject_unlisted_recipient"
        problem = f"{name} = no: {why}. With yes, what no table lists is refused, in all domains"
        yield Setting(name, "no", "yes", problem, Verdict.WARNING, is_decision=True)


def _cut_off(postfix: "Postfix", ours: Installation, classes: Classes) -> Iterator[Setting]:
    """Find relay domains other than list domains whose recipients the map makes Postfix refuse.

    setup does not change that, because the operator may want it.
    """
    edit = Edit(postfix, "relay_recipient_maps")
    only_ours = edit.items and all(ours.named(item) == RECIPIENTS for item in edit.items)
    # Domains that are local, too, as in relay_domains = $mydestination, are not relayed.
    local = items(postfix.parameters["mydestination"])
    # In a mail host of aliases, postfix_vmap has the lists' addresses, so these are accepted.
    named = {*local, *classes.domains, *classes.mail_hosts}
    others = [item for item in others_relayed(postfix, ours, classes) if item.lower() not in named]
    if only_ours and others and classes.relayed:
        first, table = _others_anywhere(postfix, classes.relayed)
        yield Setting(
            edit.parameter,
            postfix.unexpanded[edit.parameter],
            f"{edit.text}, {table}",
            "relay_recipient_maps names only the addresses of lists, but relay_domains names other"
            " domains as well: all mail to those is refused",
            Verdict.WARNING,
            first,
        )


def _open_beside_others(
    postfix: "Postfix", ours: Installation, classes: Classes
) -> Iterator[Setting]:
    """Find list domains in which every address is accepted because others' mail must be kept.

    That is so before Postfix 3.7. setup does not change it, because setup makes no table of its own
    outside of main.cf.
    """
    name = "relay_recipient_maps"
    if classes.only_lists and not others_can_be_kept(postfix, ours, classes):
        first, table = _others_anywhere(postfix, classes.only_lists)
        wanted = f"{ours.reference(RECIPIENTS)}, {table}"
        why = f"{name} is empty: {every_address(classes.only_lists)}"
        yield Setting(name, "", wanted, why, Verdict.WARNING, first)


def _open_mailboxes(postfix: "Postfix", ours: Installation, classes: Classes) -> Iterator[Setting]:
    """Find virtual mailbox domains of lists in which every address is accepted.

    Only the operator knows which other addresses exist there.
    """
    name = "virtual_mailbox_maps"
    if classes.mailbox and not postfix.parameters[name]:
        yield Setting(
            name,
            postfix.unexpanded[name],
            ours.reference(RECIPIENTS),
            f"{name} is empty: {every_address(classes.mailbox)}. To refuse those, it must name"
            f" {ours.reference(RECIPIENTS)} and a table of all other addresses that exist",
            Verdict.WARNING,
            is_decision=True,
        )


def _open_tables(postfix: "Postfix", accepting: Mapping[str, str]) -> Iterator[Setting]:
    """Find list domains in which another table of relay_recipient_maps has every address.

    Only the operator knows which of its addresses exist in other domains.
    """
    name = "relay_recipient_maps"
    if accepting:
        present = postfix.unexpanded[name]
        named = ", ".join(dict.fromkeys(accepting.values()))
        yield Setting(
            name,
            present,
            present,
            f"{name} names {named}, which has addresses that don't exist:"
            f" {every_address(accepting.keys())}. To refuse those, it must name a table of all"
            " addresses that exist in other domains instead",
            Verdict.WARNING,
            is_decision=True,
        )


def _others_anywhere(postfix: "Postfix", closed: AbstractSet[str]) -> tuple[str, str]:
    """Return `others` as a table for any Postfix, after the command that makes its file.

    From Postfix 3.7 on, the table is within main.cf, and that command is empty.
    """
    table = others(closed)
    if postfix.at_least(3, 7):
        return "", table
    path = postfix.config_directory / "outside_of_list_domains"
    content = table.removeprefix("regexp:{{").removesuffix("}}").replace("$$", "$")
    return f"echo {shlex.quote(content)} > {shlex.quote(str(path))}", f"regexp:{path}"


def _reject_codes(postfix: "Postfix", classes: Classes) -> Iterator[Setting]:
    """Find reject codes that make a sender's host retry instead of reporting an unknown list."""
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
    """Find delimiters that come before the `+` of a bounce or a confirmation in a list's name.

    Postfix cuts the address at the first delimiter, and refuses it if what is left is not an
    address of a list. With owner_request_special = yes, an address that begins with owner- is not
    cut at a `-`, so its extension is kept, and Postfix refuses it (split_addr(3)).
    """
    delimiters = postfix.parameters["recipient_delimiter"]
    if "+" not in delimiters:
        return  # see `delimiter`
    special = postfix.parameters["owner_request_special"] == "yes" and "-" in delimiters
    answered = {
        address
        for address in recipients
        if address.partition("@")[0].endswith(("-bounces", "-confirm"))
    }
    refused = {
        address
        for address in answered
        if without_extension(_extended(address), delimiters) not in recipients
    }
    kept_whole = {address for address in answered if special and address.startswith("owner-")}
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
    """Return an address with an extension such as those of bounces and confirmations."""
    return address.replace("@", "+1a2b3c@")
