"""What this Postfix does with mail that is not for lists, before and after a change of main.cf.

A sample of addresses is asked about: users, aliases, recipients found in tables, unknown addresses
in each domain, and an outside address. setup must change none of these answers.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from postfix_sync.errors import SyncError
from postfix_sync.explain import paths
from postfix_sync.explain.explain import Asked, ask_listeners
from postfix_sync.explain.sessions import Reply
from postfix_sync.explain.view import View
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.model.map_names import ALIASES, DOMAINS, INDEX_SUFFIX, RECIPIENTS
from postfix_sync.postfix.main_cf.classes import CLASSES
from postfix_sync.postfix.main_cf.parameter import path_of, type_of
from postfix_sync.postfix.main_cf.unknown_recipients import NO_SUCH_USER
from postfix_sync.postfix.match_list import items, unproxied
from postfix_sync.postfix.trivial_rewrite import Resolved, resolve

RECIPIENT_PARAMETERS = (
    "relay_recipient_maps",
    "virtual_alias_maps",
    "virtual_mailbox_maps",
)
"""The parameters whose tables have addresses of recipients."""

EACH = 2
"""Addresses to take from each table."""

UNKNOWN_AT_MOST = 8
"""Unknown addresses: after ten errors in a session, smtpd(8) delays each reply by a second
(smtpd_soft_error_limit)."""

OUTSIDE = "someone@example.org"

RECOVERY_TIMEOUT = 20.0
"""Seconds within which the answers must be as before; a reload takes two or three."""

POLL = 0.25


@dataclass(frozen=True)
class Treatment:
    """What happens to mail for the sample."""

    replies: Mapping[tuple[str, str, str], Reply]
    """By listener, source address and recipient."""
    routes: Mapping[str, str]
    """By recipient, `transport:nexthop`."""


async def sample(view: View, *, undoing: bool = False) -> list[str]:
    """Choose addresses that are not lists', those that exist first.

    An undo gives domains up that the maps alone name, so it has none of lists' domains.
    """
    postfix = view.postfix
    values = await postfix.values("myhostname", "myorigin", *CLASSES)
    known = [f"postmaster@{values['myhostname']}", f"root@{values['myorigin']}"]
    for parameter in RECIPIENT_PARAMETERS:
        for table in items(postfix.parameters[parameter]):
            known += await _some_keys(view, table)
    domains = dict.fromkeys(
        item.lower()
        for parameter in CLASSES
        for item in items(values[parameter])
        if not {":", "/", "!"} & {*item}
    )
    unknown = [f"{NO_SUCH_USER}@{domain}" for domain in domains]
    # verify(8) would remember for hours that these do not exist.
    harmless = not any(
        paths.verifies(paths.effective(listener, view.services, view.parameters))
        for listener in view.listeners
    )
    asked = [*known, OUTSIDE, *(unknown[:UNKNOWN_AT_MOST] if harmless else [])]
    folded = dict.fromkeys(postfix.fold(address) for address in asked)
    others = [address for address in folded if not _is_ours(view, address)]
    if undoing:
        return [address for address in others if domain_of(address) not in view.installed[DOMAINS]]
    return await _without_new_domains(view, others)


async def _without_new_domains(view: View, addresses: Sequence[str]) -> list[str]:
    """Leave out addresses in domains of lists that this host was not responsible for so far.

    Trusted clients could send to them, as to any other host; now only the lists exist there.
    """
    found = await _resolved(view, addresses)
    ours = view.installed[DOMAINS]
    new = {a for a, one in found.items() if one.is_of_others and domain_of(a) in ours}
    return [address for address in addresses if address not in new]


async def _resolved(view: View, addresses: Sequence[str]) -> Mapping[str, Resolved]:
    """Ask trivial-rewrite(8) about addresses; return nothing if it can't be asked."""
    with contextlib.suppress(SyncError):
        return await resolve(view.rewrite_socket, addresses)
    return {}


def _is_ours(view: View, address: str) -> bool:
    return address in view.installed[RECIPIENTS] or address in view.installed[ALIASES]


async def _some_keys(view: View, table: str) -> list[str]:
    """Return a few full addresses of an indexed table; none of a table of another type."""
    if type_of(table) not in INDEX_SUFFIX or path_of(table).startswith(
        str(view.config.postfix.map_directory)
    ):
        return []
    try:
        keys = await view.postfix.postmap.keys(unproxied(table), EACH * 20)
    except SyncError:
        return []
    found = [key for key in keys if key.find("@") > 0 and not _is_ours(view, key)]
    return found[:EACH]


async def treatment(view: View, addresses: Sequence[str]) -> Treatment:
    """Ask Postfix what happens to mail for addresses; what can't be asked is left out."""
    asked = await ask_listeners(view, addresses)
    found = await _resolved(view, addresses)
    routes = {address: one.route for address, one in found.items() if not one.is_aliased}
    return Treatment(dict(_replies(asked)), routes)


def _replies(asked: Iterable[Asked]) -> Iterator[tuple[tuple[str, str, str], Reply]]:
    for one in asked:
        for address, reply in one.session.replies.items():
            yield (one.listener.endpoint, one.source, address), reply


def differences(before: Treatment, after: Treatment) -> list[str]:
    """Return what is worse after a change, in words; empty if nothing is."""
    found = []
    accepted = set()
    for question, was in before.replies.items():
        endpoint, source, address = question
        accepted |= {address} if was.accepted else set()
        now = after.replies.get(question)
        if now is None or now.accepted != was.accepted:
            place = f"{endpoint} (from {source})" if source else endpoint
            found.append(
                f"{place} says {now or 'nothing'} to RCPT TO:<{address}>, where it said {was}"
            )
    for address in sorted(accepted & before.routes.keys()):
        old, new = before.routes.get(address), after.routes.get(address)
        if old != new:
            found.append(f"mail to {address} goes to {new}, where it went to {old}")
    return found


async def worse_than(before: Treatment, view: View) -> list[str]:
    """Return what is worse than before, once it is the same again or RECOVERY_TIMEOUT is over."""
    give_up = time.monotonic() + RECOVERY_TIMEOUT
    addresses = list(dict.fromkeys([*(key[2] for key in before.replies), *before.routes]))
    while True:
        worse = differences(before, await treatment(view, addresses))
        if not worse or time.monotonic() > give_up:
            return worse
        await asyncio.sleep(POLL)
