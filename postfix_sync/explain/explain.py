"""Explain what this Postfix does with mail to some addresses, in Postfix's own order.

    listeners    each SMTP listener is asked for its reply to RCPT       sessions.py
    path         the services that the message passes to the queue       paths.py, ways.py
    rewriting    canonical mapping, masquerading, virtual aliases        rewriting.py
    delivery     trivial-rewrite(8), the name, the LMTP server           delivery.py
    entries      mail that arrives elsewhere, such as at submission      entries.py

Where Postfix can be asked, it is asked; each step says so. Asking sends no message, and plants no
wrong answer: verify(8) remembers that an address does not exist, so it is never made to look for
one that is not in the maps.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from postfix_sync.errors import OutOfReach, SyncError
from postfix_sync.explain import paths
from postfix_sync.explain.access_actions import action_steps
from postfix_sync.explain.delivery import (
    Delivery,
    decisive,
    delivery_of,
    expected_route,
    query_at_once,
    recipient_step,
)
from postfix_sync.explain.entries import steps_of_entries
from postfix_sync.explain.sessions import Reply, Session, ask
from postfix_sync.explain.steps import COMPUTED, Explanation, Step, Verdict, ordered
from postfix_sync.explain.view import View
from postfix_sync.explain.ways import Entry, Way, other_entries, public_ways
from postfix_sync.postfix.queue import Queued, without_extensions
from postfix_sync.postfix.smtp_listeners import Listener


async def explain(
    view: View, addresses: Sequence[str], *, probing: bool = True
) -> list[Explanation]:
    """Explain each address. Raises SyncError.

    Without `probing`, no LMTP server is asked, and the queue is not listed.
    """
    asked = [view.postfix.fold(address) for address in addresses]
    await query_at_once(view, asked)
    replies, (ways, entries) = await asyncio.gather(
        ask_listeners(view, asked), _followed(view, asked)
    )
    every = [*ways.values(), *(way for entry in entries for way in entry.ways.values())]
    finals = [final for way in every for final in way.finals]
    delivered = await delivery_of(view, dict.fromkeys(finals), probing=probing)
    recipients = {address: await _recipient(view, address, delivered) for address in asked}
    actions = await action_steps(view, [each for each in asked if view.list_entry(each)])
    queue = await _queued(view) if probing else ()
    answers = _Answers(replies, delivered, queue, recipients, actions, entries)
    return [_explanation(view, address, ways[address], answers) for address in asked]


@dataclass(frozen=True)
class Asked:
    """What one listener was asked, from where, and what it replied."""

    listener: Listener
    source: str
    """An address of this host outside mynetworks; empty if none was chosen."""
    session: Session


@dataclass(frozen=True)
class _Answers:
    """What Postfix answered, for all addresses."""

    asked: Sequence[Asked]
    delivered: Mapping[str, Delivery]
    """By final recipient."""
    queue: Sequence[Queued]
    recipients: Mapping[str, Sequence[Step]]
    """By address, the step that says which table has it as a recipient."""
    actions: Mapping[str, Sequence[Step]]
    """By address of a list, the step of an access table's action on its mail."""
    entries: Sequence[Entry] = ()
    """The other services that take mail, as far as they rewrite addresses otherwise."""


async def _followed(view: View, addresses: Sequence[str]) -> tuple[dict[str, Way], list[Entry]]:
    """Follow addresses from all services, one after the other: they may query the same tables."""
    return await public_ways(view, addresses), await other_entries(view, addresses)


async def _recipient(view: View, address: str, delivered: Mapping[str, Delivery]) -> Sequence[Step]:
    """Return the step that says which table makes an address a valid recipient, if any does."""
    found = delivered.get(address)
    if not found or not found.resolved:
        return ()
    return await recipient_step(view, address, found.resolved.address_class)


async def misrouted(view: View, addresses: Sequence[str], *, aliased: bool = True) -> list[Step]:
    """Return the steps that lead mail of lists elsewhere, once it is accepted by SMTP.

    Without `aliased`, virtual aliases and virtual alias domains are disregarded.
    No listener is asked. Raises OutOfReach if trivial-rewrite(8) can't be asked.
    """
    folded = [view.postfix.fold(address) for address in addresses]
    await query_at_once(view, folded)
    ways = await public_ways(view, folded, aliased=aliased)
    finals = [final for way in ways.values() for final in way.finals]
    delivered = await delivery_of(view, dict.fromkeys(finals), probing=False)
    if problem := next((one.problem for one in delivered.values() if one.problem), ""):
        raise OutOfReach(problem)
    answers = _Answers((), delivered, (), recipients=dict.fromkeys(folded, ()), actions={})
    left_out = {
        one.recipient
        for one in delivered.values()
        if not aliased and one.resolved and one.resolved.is_aliased
    }
    found = (
        _explanation(view, address, ways[address], answers)
        for address in folded
        if left_out.isdisjoint(ways[address].finals)
    )
    steps = (step for one in found for step in one.steps)
    return [step for step in steps if step.step == "transport" and step.outcome]


async def ask_listeners(view: View, addresses: Sequence[str]) -> list[Asked]:
    """Ask all listeners; each of them by one session after the other."""

    async def each(places: Sequence[tuple[Listener, str]]) -> list[Asked]:
        found = []
        for place, source in places:
            own = paths.effective(place, view.services, view.parameters)
            harmless = addresses
            if paths.verifies(own):
                harmless = [address for address in addresses if view.list_entry(address)]
            found.append(Asked(place, source, await ask(place, harmless, source or None)))
        return found

    if not view.postfix.processes.master:
        return []
    found = await asyncio.gather(*map(each, await _places(view)))
    return [asked for group in found for asked in group]


async def _places(view: View) -> list[list[tuple[Listener, str]]]:
    """Return where and from which address to ask, in groups for one session after the other."""
    groups = []
    seen = set()
    for listener in view.listeners:
        group = [(listener, "")]
        stranger = await view.stranger(listener)
        if stranger and (stranger[0].endpoint, stranger[1]) not in seen:
            seen.add((stranger[0].endpoint, stranger[1]))
            group.append(stranger)
        groups.append(group)
    return groups


async def _queued(view: View) -> Sequence[Queued]:
    try:
        return await view.postfix.queue.messages()
    except SyncError:
        return ()


def _explanation(view: View, address: str, way: Way, answers: _Answers) -> Explanation:
    asked = answers.asked
    deliveries = [answers.delivered[final] for final in way.finals]
    judged = decisive(view, address, deliveries)
    rest = [one for one in deliveries if one not in judged]
    steps = [
        *_smtpd(view, address, asked, deliveries),
        *answers.actions.get(address, ()),
        *way.steps,
        *answers.recipients[address],
        *(step for one in judged for step in one.judged(expected_route(view, address, one))),
        *(step for one in rest for step in one.informing()),
        *steps_of_entries(view, address, way, answers.entries, answers.delivered),
    ]
    public = _public_reply(view, address, asked)
    delimiters = view.postfix.parameters["recipient_delimiter"]
    return Explanation(
        address=address,
        steps=tuple(ordered(steps)),
        reply=str(public) if public else "",
        destination=", ".join(dict.fromkeys(one.route for one in judged if one.route)),
        queued=sum(_is_for(message, address, view, delimiters) for message in answers.queue),
    )


def _is_for(message: Queued, address: str, view: View, delimiters: str) -> bool:
    return any(
        address in without_extensions(view.postfix.fold(recipient), delimiters)
        for recipient, _ in message.recipients
    )


def _public_reply(view: View, address: str, asked: Sequence[Asked]) -> Reply | None:
    """Return the reply of the public listener, to a stranger if one could be asked for."""
    public = paths.public(view.listeners)
    found = [
        (one.source, one.session.replies[address])
        for one in asked
        if public and one.listener.service == public.service and address in one.session.replies
    ]
    return max(found, key=lambda one: bool(one[0]))[1] if found else None


def _smtpd(
    view: View, address: str, asked: Sequence[Asked], deliveries: Sequence[Delivery]
) -> list[Step]:
    """Return a step for each listener; the public one decides."""
    public = paths.public(view.listeners)
    steps = []
    decided = strange = False
    for one in asked:
        is_public = public is not None and one.listener.service == public.service
        by = f"{one.listener.service.name} in master.cf"
        question = f"RCPT at {one.listener.endpoint}"
        if one.source:
            question += f" from {one.source}, an address outside mynetworks"
        reply = one.session.replies.get(address)
        if reply is None:
            said = one.session.problem or "not asked: verify(8) would remember that it is unknown"
            steps.append(Step("smtpd", question, said, by, ok=None))
            continue
        decided |= is_public
        strange |= is_public and bool(one.source)
        ends = None
        if is_public and not reply.accepted and not _is_outgoing(view, address, asked, deliveries):
            ends = Verdict.REFUSED if reply.code >= 500 else Verdict.DEFERRED
        steps.append(Step("smtpd", question, str(reply), by, ok=reply.accepted, outcome=ends))
    if not decided:
        why = "Postfix is not running" if not asked else "no listener could be asked"
        said = f"{why}: its reply is unknown"
        steps.append(Step("smtpd", "RCPT", said, ok=None, outcome=Verdict.UNKNOWN))
    elif not strange and view.list_entry(address) and _is_default(deliveries):
        steps.append(
            Step(
                "smtpd",
                "RCPT from an address outside mynetworks",
                "Relay access denied",
                "the domain is in no address class, so mail to it is accepted from mynetworks only",
                COMPUTED,
                ok=False,
                outcome=Verdict.REFUSED,
            )
        )
    return steps


def _is_default(deliveries: Sequence[Delivery]) -> bool:
    return any(one.resolved is not None and one.resolved.is_of_others for one in deliveries)


def _is_outgoing(
    view: View, address: str, asked: Sequence[Asked], deliveries: Sequence[Delivery]
) -> bool:
    """Return whether it is another host's address, to which only trusted clients may send."""
    replies = (one.session.replies.get(address) for one in asked)
    relayed = any(reply.accepted for reply in replies if reply)
    return relayed and view.list_entry(address) is None and _is_default(deliveries)
