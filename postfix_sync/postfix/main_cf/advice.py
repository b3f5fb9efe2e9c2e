"""Settings of main.cf beside the maps that keep list mail from flowing. Pure."""

import shlex
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from postfix_sync.model import RECIPIENTS, Verdict
from postfix_sync.postfix.main_cf.classes import Classes
from postfix_sync.postfix.main_cf.fixes import Setting
from postfix_sync.postfix.main_cf.parameter import Edit, Installation
from postfix_sync.postfix.main_cf.requirements import (
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
        restriction
        for name in ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
        for restriction in items(parameters[name])
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
    others = [item for item in others_relayed(postfix, ours, classes) if item.lower() not in named]
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
    if classes.only_lists and not others_can_be_kept(postfix, ours, classes):
        first, table = _others_anywhere(postfix, classes.only_lists)
        wanted = f"{ours.reference(RECIPIENTS)}, {table}"
        why = f"{name} is empty: {every_address(classes.only_lists)}"
        yield Setting(name, "", wanted, why, Verdict.WARNING, first)


def _others_anywhere(postfix: "Postfix", closed: AbstractSet[str]) -> tuple[str, str]:
    """The same as `others` for any Postfix: where it has to be a file, the command that makes it
    comes first, else nothing."""
    table = others(closed)
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
    """An address to which bounces and confirmations come."""
    return address.replace("@", "+1a2b3c@")
