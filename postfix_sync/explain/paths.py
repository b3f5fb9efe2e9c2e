"""Find which services a message passes from an SMTP listener, or pickup(8), to the queue. Pure.

A listener's smtpd(8) may override parameters of main.cf (`-o` in master.cf), hand its mail to a
cleanup(8) service of its own, switch mappings off, or send everything through a filter, which
re-injects the mail at another smtpd(8). pickup(8), which takes the mail of sendmail(1), may do all
of that, too. Sources: smtpd(8), pickup(8), cleanup(8), FILTER_README, SMTPD_PROXY_README.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.restrictions import CLASSES, LISTS
from postfix_sync.postfix.smtp_listeners import Listener

PARAMETERS = (
    "cleanup_service_name",
    "content_filter",
    "mynetworks",
    "receive_override_options",
    "rewrite_service_name",
    "smtpd_proxy_filter",
)
"""The parameters of smtpd(8) that are used here, beside its restrictions."""

OF_USERS = frozenset({"25", "smtp", "465", "smtps", "submissions", "587", "submission"})
"""The ports to which users and other hosts send mail, in the words of master.cf (services(5)).

A filter returns mail at another one."""


@dataclass(frozen=True)
class Passage:
    """One cleanup(8) that a message passes, and whether it maps addresses there."""

    cleanup: str
    maps: bool
    overrides: Mapping[str, str]
    """The parameters of main.cf that the cleanup service overrides."""
    service: str = ""
    """The service in master.cf that hands the message to cleanup(8)."""

    def maps_like(self, other: "Passage") -> bool:
        """Return whether another passage maps addresses in the same way."""
        return (self.maps, self.overrides) == (other.maps, other.overrides)


@dataclass(frozen=True)
class Path:
    """The way of a message from a listener to the queue."""

    passages: tuple[Passage, ...]
    filter: str = ""
    """The parameter that sends the mail through a filter; empty without one."""
    leaves: bool = False
    """Whether mail from the filter comes back by no service that is known."""
    certain: bool = True
    """False if a filter may return mail at several services, which map addresses differently: the
    first of them is followed."""


def path_from(
    listener: Listener, services: Sequence[Service], parameters: Mapping[str, str]
) -> Path:
    """Return the path from a listener; `parameters` are those of main.cf."""
    own = effective(listener, services, parameters)
    return _path(listener.service.name, own, services, parameters)


def other_paths(
    listeners: Sequence[Listener], services: Sequence[Service], parameters: Mapping[str, str]
) -> dict[str, Path]:
    """Return the path from each other service that takes mail than the public listener, by name.

    Services at which a filter returns mail are left out: nobody else sends mail there, and what it
    needs was done before the filter.
    """
    first = public(listeners)
    if first is None:
        return {}
    others = {one.service.name: one for one in listeners if one.service != first.service}
    found = {name: path_from(one, services, parameters) for name, one in others.items()}
    if path_from(first, services, parameters).filter or any(one.filter for one in found.values()):
        found = {name: one for name, one in found.items() if one.filter or _is_of_users(name)}
    if pickup := _named(services, "pickup", "pickup"):
        own = {**parameters, **pickup.overrides, "smtpd_proxy_filter": ""}
        found[pickup.name] = _path(pickup.name, own, services, parameters)
    return found


def _path(
    name: str,
    own: Mapping[str, str],
    services: Sequence[Service],
    parameters: Mapping[str, str],
) -> Path:
    """Return the path from the service of this name; `own` are its parameters."""
    filters = [
        f"{each} = {own[each]}" for each in ("smtpd_proxy_filter", "content_filter") if own[each]
    ]
    first = [] if own["smtpd_proxy_filter"] else [_passage(name, own, services)]
    if not filters:
        return Path(tuple(first))
    later = [_passage(*again, services) for again in _back(services, parameters)]
    return Path(
        tuple(first + later[:1]),
        ", ".join(filters),
        leaves=not later,
        certain=all(one.maps_like(later[0]) for one in later),
    )


def effective(
    listener: Listener, services: Sequence[Service], parameters: Mapping[str, str]
) -> dict[str, str]:
    """Return the parameters of the smtpd(8) behind a listener."""
    service = listener.service
    if service.command == "postscreen":  # it passes the session to this service (postscreen(8))
        service = _named(services, "smtpd", "smtpd") or service
    return {**parameters, **service.overrides}


def _back(
    services: Sequence[Service], parameters: Mapping[str, str]
) -> list[tuple[str, Mapping[str, str]]]:
    """Return the services at which a filter may return mail, each with its parameters.

    They take mail without sending it to a filter again. Those for users, such as submission, may do
    that, too: they count only if there are no others.
    """
    found: list[tuple[str, Mapping[str, str]]] = []
    for service in services:
        own = {**parameters, **service.overrides}
        takes = service.command == "smtpd" and service.kind == "inet"
        if takes and not (own["content_filter"] or own["smtpd_proxy_filter"]):
            found.append((service.name, own))
    if not found:
        pickup = _named(services, "pickup", "pickup")
        if pickup and pickup.overrides.get("content_filter") == "":
            return [(pickup.name, {**parameters, **pickup.overrides})]
    return [one for one in found if not _is_of_users(one[0])] or found


def _is_of_users(name: str) -> bool:
    """Return whether a service of master(5), [host:]port, is at a port that users send mail to."""
    return name.rpartition(":")[2] in OF_USERS


def _passage(service: str, own: Mapping[str, str], services: Sequence[Service]) -> Passage:
    name = own["cleanup_service_name"]
    cleanup = _named(services, name, "cleanup")
    maps = "no_address_mappings" not in items(own["receive_override_options"])
    return Passage(name, maps, cleanup.overrides if cleanup else {}, service)


def _named(services: Sequence[Service], name: str, command: str) -> Service | None:
    found = (one for one in services if one.name == name and one.command == command)
    return next((one for one in found if one.kind != "inet"), None)


def public(listeners: Sequence[Listener]) -> Listener | None:
    """Return the listener for mail from other hosts: that on port 25, or else the first one."""
    plain = [listener for listener in listeners if not listener.other_protocol]
    return next((one for one in plain if one.port == 25), plain[0] if plain else None)


def access_tables(services: Sequence[Service], parameters: Mapping[str, str]) -> list[str]:
    """Return the tables of check_recipient_access in all restrictions (access(5))."""
    texts = [parameters[name] for name in _lists(parameters)]
    texts += [service.overrides.get(name, "") for service in services for name in LISTS]
    words = [word for text in texts for word in items(text)]
    return [table for word, table in pairwise(words) if word == "check_recipient_access"]


def verifies(own: Mapping[str, str]) -> bool:
    """Return whether smtpd(8) may ask verify(8) about recipients, which remembers the answer."""
    return any("reject_unverified_recipient" in own[name] for name in _lists(own))


def _lists(own: Mapping[str, str]) -> list[str]:
    """Return the parameters with restrictions: LISTS, and the restriction classes."""
    return [*LISTS, *items(own[CLASSES])]
