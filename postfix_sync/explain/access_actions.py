"""Find entries of access tables that act on messages for a list, though RCPT is accepted.

The reply to RCPT says nothing of such an action, and no message is sent to see it, so it is
computed from the tables of check_recipient_access, in smtpd(8)'s order. Source: access(5).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from postfix_sync.explain import paths
from postfix_sync.explain.steps import COMPUTED, Step, Verdict
from postfix_sync.explain.view import View
from postfix_sync.postfix.main_cf.lookup import Found, access_forms
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.restrictions import CLASSES, LISTS

_OUTCOMES: Mapping[str, Verdict] = {
    "DISCARD": Verdict.DIVERTED,
    "FILTER": Verdict.UNKNOWN,  # a filter may send the mail on, or not
    "HOLD": Verdict.DEFERRED,
    "REDIRECT": Verdict.DIVERTED,
}
"""What becomes of a message by each action."""

_PERMITTING = frozenset({"permit", "permit_auth_destination"})
"""The restrictions that permit mail for a list's address from every client (postconf(5))."""


async def action_steps(view: View, addresses: Sequence[str]) -> Mapping[str, list[Step]]:
    """Return by address the step of the first action on its mail at the public listener, if any.

    Restrictions that permit some clients only are disregarded: an action counts for the others.
    """
    forms = {address: access_forms(view.postfix, address) for address in addresses}
    listener = paths.public(view.listeners)
    if listener is None:
        return {address: [] for address in addresses}
    own = paths.effective(listener, view.services, view.parameters)
    every = {form for several in forms.values() for form in several}
    for table in paths.access_tables([], own):  # at once: each query is a process
        await view.tables.query(table, every)
    return {address: await _steps(view, own, address, forms[address]) for address in addresses}


async def _steps(
    view: View, own: Mapping[str, str], address: str, forms: Sequence[str]
) -> list[Step]:
    for parameter in LISTS:
        found = await _deciding(view, own, items(own[parameter]), forms)
        if found and (outcome := _OUTCOMES.get(_word(found.value))):
            entry = f"{found.key} {found.value}"
            by = f"{found.table} in {view.place(parameter)}"
            return [Step("smtpd", address, entry, by, COMPUTED, ok=False, outcome=outcome)]
    return []


async def _deciding(
    view: View, own: Mapping[str, str], restrictions: Sequence[str], forms: Sequence[str]
) -> Found | None:
    """Return the entry with the first action on mail for an address, or that permits it.

    None if some restrictions have neither. Later restrictions do not count once one permits it.
    """
    classes = items(own[CLASSES])
    for name, argument in pairwise([*restrictions, ""]):
        if name in _PERMITTING:
            return Found("", name, "OK")
        further = items(own[name]) if name in classes else []
        if name == "check_recipient_access" and (found := await view.tables.find(argument, forms)):
            if _word(found.value) in {*_OUTCOMES, "OK", "PERMIT"}:
                return found
            further = [each for each in items(found.value) if each in classes]
        if further and (nested := await _deciding(view, own, further, forms)):
            return nested
    return None


def _word(value: str) -> str:
    return value.split(maxsplit=1)[0].upper() if value.strip() else ""
