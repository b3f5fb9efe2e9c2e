"""From what is installed and what is wanted to the ordered steps between them. Pure.

The order is make before break. Routes are widened first, and Postfix is made to see them; only then
does any map accept more mail; only when nothing accepts mail for a removed list any more, and what
was accepted has left the queue, are its routes taken out. Every state between two steps is one that
Postfix can live with for as long as it likes: each address that is accepted has a route.

A new mail domain goes in with the routes: whether it is relayed to is trivial-rewrite(8)'s answer
as well, and the recipients still keep its mail out. It takes a reload for any map type, because
each smtpd(8) remembers, for as long as it runs, which addresses it may not relay to.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeAlias

from postfix_sync.errors import Refused
from postfix_sync.model import (
    ALIASES,
    DOMAINS,
    MAP_NAMES,
    RECIPIENTS,
    ROUTES,
    Condition,
    Diff,
    Installed,
    Maps,
    Policy,
    Table,
)

FEW_LISTS = 10
"""So few lists may go in one pass, whatever part of all lists they are."""

SEEN_AT_ONCE = frozenset({"lmdb"})
"""Map types that every Postfix process sees change at once, rebuilt in place (LMDB_README)."""


@dataclass(frozen=True)
class Publish:
    """Build, check and publish one map. `fresh`: no reader can have its index open."""

    name: str
    table: Table
    fresh: bool = False


@dataclass(frozen=True)
class MakeVisible:
    """Wait until no trivial-rewrite(8) works with routes from before; reload Postfix for it."""

    reload: bool


@dataclass(frozen=True)
class Narrow:
    """Take out the routes of removed addresses, once no accepted mail needs them."""

    wanted: Table
    removed: Table


Step: TypeAlias = Publish | MakeVisible | Narrow


@dataclass(frozen=True)
class Plan:
    """The steps of one apply, what they change, by map, and what they lead to."""

    steps: tuple[Step, ...]
    changes: dict[str, Diff]
    wanted: Maps


def plan(installed: Installed, wanted: Maps, map_type: str, reload: str) -> Plan:
    """The steps from `installed` to `wanted`; none where nothing needs to be done.

    `reload` is the configuration's postfix.reload: auto, always or never.
    """
    changes = {name: Diff.between(installed.table(name), wanted[name]) for name in MAP_NAMES}
    widened = {**installed.table(ROUTES), **wanted[ROUTES]}
    removed = changes[ROUTES].removed
    steps: list[Step] = []

    broken = [name for name in MAP_NAMES if installed.maps[name].condition is Condition.BROKEN]
    for name in broken:
        known = installed.maps[name].table
        if known is not None:
            steps.append(Publish(name, known, fresh=True))

    rerouted = widened != installed.table(ROUTES) or _is_in_doubt(installed, ROUTES)
    if rerouted:
        steps.append(Publish(ROUTES, widened, fresh=_is_lost(installed, ROUTES)))
    new_domains = bool(changes[DOMAINS].added)
    if new_domains:
        domains = {**installed.table(DOMAINS), **wanted[DOMAINS]}
        steps.append(Publish(DOMAINS, domains, fresh=_is_lost(installed, DOMAINS)))
    unseen = rerouted and map_type not in SEEN_AT_ONCE
    needs_reload = new_domains or broken or installed.reload_owed
    if unseen or (needs_reload and reload != "never"):
        steps.append(MakeVisible(reload=reload != "never"))

    for name in (RECIPIENTS, ALIASES, DOMAINS):
        done = name == DOMAINS and new_domains and not changes[name].removed
        if not done and (changes[name] or _is_in_doubt(installed, name)):
            fresh = _is_lost(installed, name) and not (name == DOMAINS and new_domains)
            steps.append(Publish(name, wanted[name], fresh=fresh))
    if removed:
        steps.append(Narrow(wanted[ROUTES], removed))
    kinds = {type(step) for step in steps}
    if reload == "always" and Publish in kinds and MakeVisible not in kinds:
        steps.append(MakeVisible(reload=True))
    return Plan(tuple(steps), changes, wanted)


def _is_in_doubt(installed: Installed, name: str) -> bool:
    """Whether the index may hold something else than the text says, or nothing at all."""
    return installed.maps[name].condition is Condition.STALE or _is_lost(installed, name)


def _is_lost(installed: Installed, name: str) -> bool:
    """Whether neither index nor text can be read: there is nothing to begin with."""
    one = installed.maps[name]
    return one.condition is Condition.BROKEN and one.table is None


def guard(
    source: str, installed: AbstractSet[str], wanted: AbstractSet[str], policy: Policy
) -> None:
    """Raises `Refused` where more lists would go than the configuration allows in one pass."""
    gone = len(installed - wanted)
    if installed and not wanted:
        if not policy.allow_empty:
            raise Refused(
                f"{source}: names no list at all, {len(installed)} are installed;"
                " refused, Postfix keeps the last good maps",
                f"if all lists were really removed: {policy.override}, or set guard.allow_empty",
            )
    elif gone > FEW_LISTS and gone > policy.max_removed * len(installed):
        raise Refused(
            f"{source}: {gone} of {len(installed)} lists are gone, more than guard.max_removed"
            f" ({policy.max_removed:.0%}) allows; refused, Postfix keeps the last good maps",
            f"if they were really removed: {policy.override}",
        )
