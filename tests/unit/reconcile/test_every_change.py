"""Every change of one list's state, interrupted at every step, and once more at every step.

The same pairs as those of `make matrix`, with a Postfix that remembers the worst (tests/parts/
remembering_postfix.py) in place of a real one.
"""

from copy import deepcopy

import pytest

from postfix_sync.model.installed import Desired
from postfix_sync.model.map_names import ALIASES, RECIPIENTS
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.reconcile.plan import Plan, plan
from postfix_sync.reconcile.visibility import Reading
from tests.parts.remembering_postfix import Machine
from tests.scenarios.list_states import DOGS, Change, Mailman, State, changes

ADDRESSES = {"A": "192.0.2.1", "B": "192.0.2.2", "C": "192.0.2.3"}


def desired(state: State, before: State) -> Desired:
    """What a sync derives from what Mailman and the configuration say in this state."""
    mailmans = state.mailmans or before.mailmans
    hops = ", ".join(f"[{_host(one)}]:24" for one in mailmans)
    lists = [address for address in (state.address, DOGS) if address]
    domain = state.alias_domain
    aliases = {one: f"{one.partition('@')[0]}@{domain}" for one in lists} if domain else {}
    routes = {aliases.get(one, one): f"lmtp:{hops}" for one in lists}
    domains = {one.rpartition("@")[2] for one in routes}
    tables = MailmanTables.of(routes, {one: one for one in domains}, aliases)
    hosts = {one.host: ADDRESSES[one.server] for one in mailmans if not one.by_address}
    return Desired(Maps.of(tables), hosts)


def _host(mailman: Mailman) -> str:
    return ADDRESSES[mailman.server] if mailman.by_address else mailman.host


def completed(machine: Machine, goal: Desired, reading: Reading) -> None:
    """Carry the rest out, and check that nobody remembers what is wrong."""
    for step in plan(machine.installed(), goal, reading).steps:
        machine.take(step)
        machine.check(set())
    machine.check_done(goal)


@pytest.mark.parametrize("at_once", [True, False], ids=["lmdb", "hash"])
@pytest.mark.parametrize("change", changes(), ids=lambda one: one.id)
def test_change_may_be_interrupted_at_any_step(change: Change, at_once: bool) -> None:
    now = Reading(at_once)
    machine = Machine(at_once)
    before = State("")
    for state in change.history:
        completed(machine, desired(state, before), now)
        before = state
    goal = desired(change.second, before)
    both = machine.accepted() & {*goal.maps[RECIPIENTS], *goal.maps[ALIASES]}

    def interrupted(made: Plan, found: Machine) -> list[Machine]:
        """The states before the plan's first step, and after each one."""
        states = [found]
        for step in made.steps:
            states.append(deepcopy(states[-1]))
            states[-1].take(step)
            states[-1].check(both)
        return states

    for reload_now in (True, False):
        first = Reading(at_once, reload_now=reload_now)
        for wreck in interrupted(plan(machine.installed(), goal, first), machine):
            for again in interrupted(plan(wreck.installed(), goal, first), wreck):
                completed(deepcopy(again), goal, now)
