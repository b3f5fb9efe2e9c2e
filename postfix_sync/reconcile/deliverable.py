"""Hold back the lists whose mail Postfix would accept and return at once.

lmtp(8) returns mail if the last next hop of a route has no address of a family that inet_protocols
permits it to use; it passes over other next hops.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postfix_sync.errors import Refused, SyncError
from postfix_sync.model.destination import BOTH_FAMILIES, Destination
from postfix_sync.model.installed import Desired, Installed
from postfix_sync.model.map_names import MAP_NAMES, ROUTES
from postfix_sync.model.maps import Diff, Maps
from postfix_sync.model.table import Table
from postfix_sync.postfix import lmtp_families
from postfix_sync.postfix.next_hop import host_names, parse_next_hops
from postfix_sync.reconcile.changes import named
from postfix_sync.reconcile.partial_maps import held_back

if TYPE_CHECKING:
    from postfix_sync.postfix.instance import Postfix
    from postfix_sync.reconcile.decide import Decision
    from postfix_sync.reconcile.inputs import Inputs
    from postfix_sync.reconcile.locked import Locked
    from postfix_sync.store.hold import Hold

JUDGED_WITHIN = 2.0
"""Seconds for looking up new next hops; a name that is unknown by then is accepted."""


@dataclass(frozen=True)
class Checked:
    """The desired state without lists that can't be delivered to, and the sources' errors."""

    desired: Desired
    errors: Mapping[str, Sequence[SyncError]]
    """By source."""
    failed: tuple[SyncError, ...] = ()
    """Of a held generation, which belongs to no source."""


async def without_undeliverable(
    place: "Locked", inputs: "Inputs", hold: "Hold | None", goal: Desired, decision: "Decision"
) -> Checked:
    """Leave every list as it is installed whose new route leads where lmtp(8) must not connect.

    What is installed is not looked up again in a sync without news.
    """
    postfix = place.directory.postfix
    if postfix.families == BOTH_FAMILIES:
        return Checked(goal, decision.errors)
    routes = goal.maps[ROUTES]
    last = {value: parse_next_hops(value)[-1:] for value in routes.distinct_values()}
    hosts = _to_look_up(goal, last, inputs.installed.table(ROUTES))
    barred: Mapping[str, Sequence[str]] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(JUDGED_WITHIN):
            barred = await lmtp_families.barred(postfix, hosts, goal.hosts)
    values = {value for value, hops in last.items() if any(hop.host in barred for hop in hops)}
    held = routes.with_values_in(values)
    if not held:
        return Checked(goal, decision.errors)
    desired = _without(goal, inputs.installed, held)
    if hold:
        error = _refusal(postfix, f"{hold}", held, barred)
        return Checked(desired, decision.errors, (error,))
    errors = {
        name: (*known, _refusal(postfix, name, own, barred))
        if (own := held.common(decision.served(name)))
        else known
        for name, known in decision.errors.items()
    }
    return Checked(desired, errors)


def _to_look_up(
    goal: Desired, last: Mapping[str, Sequence[Destination]], present: Table[str]
) -> set[str]:
    """Choose the hosts whose addresses decide: those of new routes, literals, and our own names."""
    diff = Diff.between(present, goal.maps[ROUTES])
    new = {change.new for change in diff.changed.distinct_values()}
    news = diff.added.distinct_values() | new
    return {
        hop.host
        for value, hops in last.items()
        for hop in hops
        if value in news or not hop.is_name or hop.host in goal.hosts
    }


def _without(goal: Desired, installed: Installed, held: Table[str]) -> Desired:
    present = Maps({name: installed.table(name) for name in MAP_NAMES})
    maps = held_back(goal.maps, present, held)
    names = host_names(maps[ROUTES])
    return Desired(maps, {host: ip for host, ip in goal.hosts.items() if host in names})


def _refusal(
    postfix: "Postfix",
    source: str,
    held: Table[str],
    barred: Mapping[str, Sequence[str]],
) -> Refused:
    """Report the lists of a source that lead to where lmtp(8) must not connect."""
    hops = map(parse_next_hops, held.distinct_values())
    hosts = sorted({several[-1].host for several in hops} & barred.keys())
    places = [
        host if list(barred[host]) == [host] else f"{host} ({', '.join(barred[host])})"
        for host in hosts
    ]
    family = lmtp_families.barred_families(postfix)
    fix = lmtp_families.permit_both_families(postfix)
    hint = "give the source an address: or a destination: that Postfix may use"
    return Refused(
        f"{source}: {' and '.join(places)} is {family}, which inet_protocols keeps Postfix from"
        f" using, so it would accept mail and return it; refused:"
        f" {named('list', held.names())}; what is installed stays",
        f"let lmtp(8) use {family}: {fix}; or {hint}" if fix else hint,
    )
