"""Decide which relay domains keep accepting every address, in relay_recipient_maps. Pure.

If relay_recipient_maps is empty, Postfix accepts every address in all relay domains; if it names
only the map of list addresses, Postfix refuses all others. So if main.cf names other relay domains,
a table beside that map has every address that is outside of the domains that have only lists.
"""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from postfix_sync.model.finding import Verdict
from postfix_sync.postfix.main_cf.classes import Classes
from postfix_sync.postfix.main_cf.parameter import Edit, Installation
from postfix_sync.postfix.match_list import items

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix


def others_relayed(postfix: "Postfix", ours: Installation, classes: Classes) -> list[str]:
    """Return the items of relay_domains other than the maps and domains of only lists."""
    return [
        item
        for item in items(postfix.parameters["relay_domains"])
        if not (ours.named(item) or ours.of_mailman(item))
        if item.lower() not in classes.domains - classes.shared
        if not item.startswith("!")
    ]


def others_can_be_kept(postfix: "Postfix", ours: Installation, classes: Classes) -> bool:
    """Return whether relay_recipient_maps can name the map without refusing other domains' mail.

    If there are other domains, that takes a table within main.cf, which needs Postfix 3.7, and
    which excludes the domains that have only lists.
    """
    return (
        bool(postfix.parameters["relay_recipient_maps"])
        or not others_relayed(postfix, ours, classes)
        or (bool(classes.only_lists) and postfix.at_least(3, 7))
    )


def put_others(edit: Edit, ours: Installation, classes: Classes) -> None:
    """Keep accepting what an empty relay_recipient_maps accepted in other relay domains.

    These domains cannot be enumerated: relay_domains may name tables, and match subdomains.
    """
    present = next((item for item in items(edit.text) if item.startswith(_OTHERS)), "")
    # A domain that an earlier setup has closed is not opened again if main.cf names it since.
    closed = classes.only_lists | (_closed_by(present) & (classes.relayed | classes.mail_hosts))
    wanted = others(closed)
    if not edit.items and edit.text and others_relayed(edit.postfix, ours, classes):
        edit.append(wanted)
    elif present and present != wanted and closed:
        edit.replace(present, wanted)
        edit.because(
            f"names {present}, which has every address of other domains; the domains that have"
            f" only lists are now {', '.join(sorted(closed))}",
            Verdict.WARNING,
        )


def others(closed: AbstractSet[str]) -> str:
    """Return a table that has every address that is in none of these domains."""
    domains = "|".join(domain.replace(".", r"\.") for domain in sorted(closed))
    return f"{_OTHERS}({domains})$$/ OK}}}}"


def _closed_by(table: str) -> AbstractSet[str]:
    """Return the domains in which a table of `others` has no address."""
    domains = table.removeprefix(f"{_OTHERS}(").partition(")")[0].replace("\\", "")
    return frozenset(filter(None, domains.split("|")))


_OTHERS = "regexp:{{!/@"
"""The beginning of a table of `others`, as an item of a parameter."""


def left_open(postfix: "Postfix", classes: Classes) -> dict[str, str]:
    """Return the list domains in which every address is still accepted, each with the reason.

    Only the operator knows whether addresses other than those of lists exist there.
    """
    present = items(postfix.parameters["relay_recipient_maps"])
    tables = [item for item in present if item.startswith(_OTHERS)]
    if present and not tables:
        return {}
    return {
        domain: f"relay_domains also names {domain} without postfix_domains, so it may have"
        " addresses other than those of lists. Every address of it is still accepted, even if it"
        " does not exist; to refuse those, relay_recipient_maps must list all that exist"
        for domain in sorted(classes.shared)
        if all(domain not in _closed_by(table) for table in tables)
    }


def every_address(domains: AbstractSet[str]) -> str:
    """Describe the consequence if every address of list domains is accepted."""
    named = ", ".join(sorted(domains)) or "a list domain"
    return (
        f"mail to any address in {named} is accepted, and returned to the apparent sender where"
        " there is no such list"
    )
