"""Carries out a plan, step by step. Whatever fails, or kills it, leaves a state to live with."""

import asyncio
import time
from collections.abc import Callable, Mapping

from postfix_sync.changes import counted
from postfix_sync.maps import MapDirectory
from postfix_sync.model import RECIPIENTS, ROUTES, Maps, Table
from postfix_sync.plan import MakeVisible, Narrow, Plan, Publish

SESSION_GRACE = 2.0
"""Seconds that an SMTP session gets to end its message to a list that is removed meanwhile."""

QUEUE_GRACE = 2.0
"""Seconds more for mail to removed lists to leave the queue; routes it still needs then stay."""

QUEUE_POLL = 0.25


class Apply:
    """One apply: where maps go, the lock's descriptor, whom to tell, and what was done so far."""

    def __init__(self, directory: MapDirectory, lock: int, tell: Callable[[str], None]) -> None:
        self.directory = directory
        self.lock = lock
        self.tell = tell
        self.reloads = 0
        self._published: dict[str, Table] = {}

    async def run(self, plan: Plan) -> None:
        """Makes all steps in order. Raises ApplyError or NotPermitted at the first that fails."""
        owes_reload = any(isinstance(step, MakeVisible) for step in plan.steps)
        closed = bool(plan.changes[RECIPIENTS].removed)
        with self.directory.staging(reload_owed=owes_reload):
            for step in plan.steps:
                match step:
                    case Publish(name, table, fresh):
                        await self.directory.publish(name, table, self.lock, fresh=fresh)
                        self._published[name] = table
                    case MakeVisible(reload):
                        await self._make_visible(reload=reload)
                    case Narrow():
                        await self._narrow(step, closed)

    def published_of(self, wanted: Maps) -> frozenset[str]:
        """The maps that hold what is wanted by now; of the routes, at least all that is wanted."""
        return frozenset(
            name
            for name, table in self._published.items()
            if table == wanted[name] or (name == ROUTES and table.items() >= wanted[name].items())
        )

    async def _make_visible(self, *, reload: bool) -> None:
        postfix = self.directory.postfix
        before = postfix.rewriters()
        if not postfix.master:
            self.tell("postfix: not running, so not reloaded; it will start with these maps")
        else:
            if reload:
                await postfix.reload()
                self.reloads += 1
                self.tell("postfix: reloaded")
            await postfix.turned_over(before)
        self.directory.reloaded()

    async def _narrow(self, step: Narrow, closed: bool) -> None:
        """Takes out the routes of removed addresses but those that queued mail still needs.

        `closed`: acceptance ended in this very apply, so that sessions may be under way.
        """
        kept = await self._needed(step.removed, closed)
        if kept.keys() != step.removed.keys():
            await self.directory.publish(ROUTES, {**step.wanted, **kept}, self.lock, fresh=False)
        if kept and closed:
            routes = counted(len(kept), "route")
            self.tell(f"postfix: removed lists keep {routes} while mail waits for them")

    async def _needed(self, removed: Mapping[str, str], closed: bool) -> dict[str, str]:
        postfix = self.directory.postfix
        if closed and postfix.master:
            await asyncio.sleep(SESSION_GRACE)
        give_up = time.monotonic() + (QUEUE_GRACE if closed else 0)
        while True:
            queued = await postfix.queued_recipients()
            needed = {key: hop for key, hop in removed.items() if key in queued}
            if not needed or time.monotonic() >= give_up:
                return needed
            await asyncio.sleep(QUEUE_POLL)
