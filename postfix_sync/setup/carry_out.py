"""Make the changes that `setup` proposed, step by step, and revert them if a step fails."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError, OutOfReach, SyncError
from postfix_sync.explain.explain import misrouted
from postfix_sync.explain.view import View, samples_of, view_of
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.installed import Condition
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.map_names import RECIPIENTS
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.main_cf.lookup import Tables, transport_forms
from postfix_sync.postfix.main_cf.map_type import choose_map_type, named_types
from postfix_sync.postfix.main_cf.parameter import Installation
from postfix_sync.postfix.map_directory import MapDirectory, installed_routes
from postfix_sync.reconcile.once import once
from postfix_sync.setup import others
from postfix_sync.setup.main_cf_file import MainCf, Outdated
from postfix_sync.setup.proposal import Proposal, interrupted_setup
from postfix_sync.setup.steps import ACCEPTING, Change, Step, in_order, undoing
from postfix_sync.status.file import StatusFile
from postfix_sync.status.transitions import after_sync, rankings
from postfix_sync.store.state_directory import LOCK_NAME
from postfix_sync.system.lock import lock
from postfix_sync.system.tasks import to_its_end
from postfix_sync.text import counted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.postfix.instance import Postfix

SESSION_GRACE = 2.0
"""Seconds for an SMTP session to finish a message to a list that Postfix now refuses."""

QUEUE_GRACE = 10.0
"""Seconds for mail to the lists to leave the queue before their routes are removed."""

QUEUE_POLL = 0.25

NAMED_AT_MOST = 3
"""Differences that an error names."""


async def carry_out(proposal: Proposal) -> None:
    """Build the maps, then make the changes of a proposal.

    Raises SyncError; main.cf is then unchanged. Raises Outdated if main.cf is not the text that the
    proposal was made for.
    """
    config, instance = proposal.config, proposal.main_cf.postfix
    await _build_maps(config, instance)
    async with lock(config.state_directory / LOCK_NAME):
        _check_text(proposal)
        await _check_current(config, instance)
        work = _Work(config, proposal.main_cf)
        await to_its_end(work.make(proposal.changes))


async def undo(proposal: Proposal) -> None:
    """Remove what setup has added. Raises as `carry_out` does."""
    config = proposal.config
    async with lock(config.state_directory / LOCK_NAME):
        _check_text(proposal)
        work = _Work(config, proposal.main_cf)
        await to_its_end(work.undo())


def _check_text(proposal: Proposal) -> None:
    if proposal.main_cf.read() != proposal.text:
        raise Outdated(f"{proposal.main_cf.path}: was changed meanwhile", "look again")


async def _check_current(config: "Config", instance: "Postfix") -> None:
    """Raise Outdated if a sync has changed the maps as the type that main.cf still names.

    The caller holds the lock, so no sync changes them from now on: every process of Postfix finds
    the same entries in the maps of both types.
    """
    directory = await _map_directory(config, instance)
    if {*named_types(instance, directory.path)} <= {directory.map_type}:
        return
    found = await directory.read()
    if any(installed.condition is not Condition.SOUND for installed in found.maps.values()):
        raise Outdated(f"{directory.path}: the maps were changed meanwhile", "run setup again")


async def _map_directory(config: "Config", instance: "Postfix") -> MapDirectory:
    path = config.postfix.map_directory
    map_type = choose_map_type(instance, path, config.postfix.map_type)
    return MapDirectory(path, await instance.index_type(map_type), instance)


async def _build_maps(config: "Config", instance: "Postfix") -> None:
    """Run a sync, so that each map exists. Raises SyncError if a map does not exist after it."""
    status_file = StatusFile.of(config)
    report = await once(config, rankings(status_file.read_or_new()))
    if report.installed:
        change = partial(after_sync, config=config, report=report, now=time.time())
        await status_file.update(change)
    for line in report.lines:
        LOG.info("%s", line)
    for error in report.errors:
        log_problem(error, logging.WARNING)
    directory = await _map_directory(config, instance)
    found = await directory.read()
    for name, installed in found.maps.items():
        if installed.condition is Condition.BROKEN:
            raise ApplyError(
                f"{directory.path / name}: could not be built; main.cf must not name a map that is"
                " not there, and is left as it was",
                f"see what is in the way: {config.command('--once')}",
            )


class _Work:
    """One setup, or one undoing of it, under the lock."""

    def __init__(self, config: "Config", main_cf: MainCf) -> None:
        self.config = config
        self.main_cf = main_cf
        self.postfix = main_cf.postfix
        self.view: View | None = None
        """How Postfix was before, if it ran."""
        self.before = others.Treatment({}, {})
        """What happened to mail that is not for lists."""

    async def make(self, changes: Sequence[Change]) -> None:
        """Complete an interrupted setup, then make `changes`; revert both if a step fails."""
        await self._record_state()
        kept, made = self._begun()
        confirmed = list(kept)
        try:
            if made or interrupted_setup(self.main_cf.steps()):
                await self._reload_postfix()
                confirmed += [replace(step, confirmed=True) for step in made]
                self.main_cf.remember(confirmed)
            for part in in_order(changes):
                accepting = any(change.parameter in ACCEPTING for change in part)
                if accepting:
                    await self._check_routes(before=True)
                text = self.main_cf.read()
                step = Step(text, await self.main_cf.edited(text, part), part)
                self.main_cf.remember([*confirmed, step])
                await self.main_cf.replace(step.before, step.after)
                made.append(step)
                LOG.info("%s: %s", self.main_cf.path, _named(part))
                await self._reload_postfix()
                if accepting:
                    await self._check_routes(before=False)
                confirmed.append(replace(step, confirmed=True))
                self.main_cf.remember(confirmed)
        except SyncError:
            await self._revert(made, kept)
            raise

    def _begun(self) -> tuple[list[Step], list[Step]]:
        """Return the completed steps, and the interrupted step to complete, if any."""
        done = list(self.main_cf.steps())
        if not interrupted_setup(done):
            return done, []
        last = done.pop()
        text = self.main_cf.read()
        if text == last.after:
            return done, [last]
        if text != last.before:  # another program or the operator has edited main.cf since
            done.append(replace(last, confirmed=True))
        return done, []

    async def undo(self) -> None:
        """Undo all steps, the last step first."""
        await self._record_state(undoing=True)
        steps = self.main_cf.steps()
        for number in reversed(range(len(steps))):
            await self._undo(steps[number], steps[:number])

    async def _undo(self, step: Step, others: Sequence[Step]) -> None:
        text = self.main_cf.read()
        target = await self._without(step, text)
        if target != text and any(change.parameter == "transport_maps" for change in step.changes):
            await self._wait_for_queue(step)
        if target != text or not step.confirmed:
            self.main_cf.remember([*others, replace(step, confirmed=False)])
            await self.main_cf.replace(text, target)
            LOG.info("%s: taken out: %s", self.main_cf.path, _named(step.changes))
            try:
                await self._reload_postfix()
            except SyncError:
                await self._revert([replace(step, before=text, after=target)], [*others, step])
                raise
        self.main_cf.remember(others)

    async def _without(self, step: Step, text: str) -> str:
        """Return main.cf's text without a step."""
        present = await self.main_cf.values()
        back = undoing([step], present)
        if text == step.after:
            return step.before
        return await self.main_cf.edited(text, back) if back else text

    async def _wait_for_queue(self, step: Step) -> None:
        """Wait until no mail in the queue needs the routes.

        Raises OutOfReach if some still does after QUEUE_GRACE seconds.
        """
        if self.postfix.processes.master:
            await asyncio.sleep(SESSION_GRACE)
        value = await self._transport_maps_without(step)
        others = Tables(self.postfix, Installation(self.config.postfix.map_directory, ""), {})
        now = time.time()
        while stranded := await self._stranded(others, value, now):
            if time.time() > now + QUEUE_GRACE:
                raise OutOfReach(
                    f"{counted(len(stranded), 'address')} of lists: mail in the queue would lose"
                    " its way without these routes, so transport_maps still names them; no"
                    " parameter names the other maps any more",
                    "see it: postqueue -p; when it is delivered, or deleted with postsuper -d:"
                    f" {self.config.command('setup', '--undo')}",
                )
            await asyncio.sleep(QUEUE_POLL)

    async def _transport_maps_without(self, step: Step) -> str:
        """Return the value that transport_maps has without a step, $names expanded."""
        values = await self.main_cf.values()
        value: str | None = values.get("transport_maps")
        for change in undoing([step], values):
            if change.parameter == "transport_maps":
                value = change.default if change.after is None else change.after
        return (await self.postfix.expanded({"transport_maps": value or ""}))["transport_maps"]

    async def _stranded(self, others: Tables, value: str, before: float) -> set[str]:
        """Return the recipients of queued mail that only the installed routes lead anywhere.

        `value` are the tables that stay in transport_maps; one that does not answer counts as
        without a route. Only mail that arrived by `before`, in seconds since the epoch, counts.
        """
        routes = installed_routes(self.config.postfix.map_directory)
        queued = routes.keys() & await self.postfix.queue.recipients(before)
        forms = {address: transport_forms(self.postfix, address) for address in queued}
        led = {address for address, _ in await others.find_all(value, forms)}
        return {*queued} - led

    async def _record_state(self, *, undoing: bool = False) -> None:
        """Record what Postfix does with mail that is not for lists, before any change."""
        if self.postfix.processes.master is not None:
            self.view = await view_of(self.config, self.postfix)
            addresses = await others.sample(self.view, undoing=undoing)
            self.before = await others.treatment(self.view, addresses)

    async def _check_routes(self, *, before: bool) -> None:
        """Raise ApplyError if mail for a list would not go to its Mailman, once it is accepted.

        `before` the step that accepts it, virtual aliases and virtual alias domains are not as they
        will be.
        """
        if not self.view:
            return
        view = await view_of(self.config, await inspect(self.config.postfix.config_directory))
        samples = samples_of(view.installed[RECIPIENTS])
        addresses = [address for name in samples for address in addresses_of(name)]
        if wrong := await misrouted(view, addresses, aliased=not before):
            step = wrong[0]
            raise ApplyError(
                f"postfix: mail to {step.asked} would go to {step.found} ({step.by}), not to the"
                " list's Mailman, so it is not accepted yet",
                f"see why: {self.config.command('explain', step.asked)}",
            )

    async def _reload_postfix(self) -> None:
        """Have Postfix use main.cf as it is now. Raises ApplyError if it then replies worse."""
        if not self.postfix.processes.master:
            if self.view:
                raise ApplyError("postfix: has stopped")
            LOG.info("postfix: not running, so not reloaded; it will start with this main.cf")
            return
        await self.postfix.processes.reload()
        LOG.info("postfix: reloaded")
        if self.view and (worse := await others.worse_than(self.before, self.view)):
            more = f"; and {len(worse) - NAMED_AT_MOST} more" if worse[NAMED_AT_MOST:] else ""
            named = "; ".join(worse[:NAMED_AT_MOST])
            raise ApplyError(f"postfix: after the reload, {named}{more}")

    async def _revert(self, made: Sequence[Step], kept: Sequence[Step]) -> None:
        """Restore main.cf as it was before the steps in `made`; keep a record of `kept`."""
        try:
            if made:
                await self.main_cf.replace(made[-1].after, made[0].before)
                LOG.error("%s: is put back to what it was", self.main_cf.path)
            self.main_cf.remember(kept)
            if made:
                if self.view and not self.postfix.processes.master:
                    await self.postfix.processes.start()
                await self._reload_postfix()
        except SyncError as error:
            log_problem(error)
            LOG.error(
                "postfix: does not do yet what it did before",
                extra={"hint": f"see its log, and: {command(self.postfix, 'postfix', 'check')}"},
            )


def _named(changes: Sequence[Change]) -> str:
    return ", ".join(change.parameter for change in changes)
