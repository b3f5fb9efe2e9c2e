"""Judge mail that arrives at another service than the public listener, such as submission.

That service may have a cleanup(8) of its own, which rewrites the address of a list, while mail from
other hosts gets to Mailman. A step is made only if the mail ends elsewhere than the public path's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from postfix_sync.explain.delivery import Delivery, decisive, expected_route
from postfix_sync.explain.steps import COMPUTED, REWRITING, Step, Verdict
from postfix_sync.explain.view import View
from postfix_sync.explain.ways import Entry, Way


def steps_of_entries(
    view: View,
    address: str,
    public: Way,
    entries: Sequence[Entry],
    delivered: Mapping[str, Delivery],
) -> Iterator[Step]:
    """Yield a step for each entry by which mail for an address ends elsewhere.

    Only for an address of a list does the step have an outcome: any other address may be rewritten.
    Nor does it have one if the path is uncertain because several filters return mail.
    """
    is_list = view.list_entry(address) is not None
    for entry in entries:
        way = entry.ways[address]
        if entry.path.leaves:
            yield _step_of_filter(entry, address)
            continue
        own = [step for step in way.steps if step.step in REWRITING and step not in public.steps]
        failed = next((step for step in own if step.outcome), None)
        if not failed and {*way.finals} == {*public.finals}:
            continue
        ends = [*_judged(view, address, way, delivered)]
        end = failed or next((step for step in ends if step.outcome), None)
        if end and end.outcome is Verdict.UNKNOWN:
            continue  # trivial-rewrite(8) can't be asked; the steps of the public path say so
        shown = end or next(reversed(ends), None)  # None if aliases lead in a circle
        if shown and (end or not is_list):
            step = _step(entry, address, own, shown)
            yield step if is_list and entry.path.certain else _informing(entry, step)


def _judged(
    view: View, address: str, way: Way, delivered: Mapping[str, Delivery]
) -> Iterator[Step]:
    """Yield the steps of the recipients that decide."""
    found = [delivered[final] for final in way.finals]
    for one in decisive(view, address, found):
        yield from one.judged(expected_route(view, address, one))


def _informing(entry: Entry, step: Step) -> Step:
    """Return a step that does not count for the verdict."""
    return replace(step, ok=step.ok if entry.path.certain else None, outcome=None)


def _step(entry: Entry, address: str, own: Sequence[Step], end: Step) -> Step:
    """Return the step that shows how mail ends, by the last rewriting that only this entry has."""
    cause = end if end in own or not own else own[-1]
    differing = "" if own else ", ".join(entry.differences)
    return Step(
        cause.step,
        f"{address} at {entry.name}",
        cause.found if cause is end else f"{cause.found}, so {end.step}: {end.found}",
        differing or cause.by,
        cause.how,
        ok=not end.outcome,
        outcome=end.outcome,
        service=entry.name,
    )


def _step_of_filter(entry: Entry, address: str) -> Step:
    """Return the step of a filter whose mail comes back at no known service."""
    asked = f"{address} at {entry.name}"
    by = "main.cf or master.cf"
    return Step("filter", asked, entry.path.filter, by, COMPUTED, ok=None, service=entry.name)
