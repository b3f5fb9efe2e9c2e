"""Make the changes that `setup` proposed, step by step, and take them back if one fails."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError, OutOfReach, SyncError
from postfix_sync.log import LOG, log_problem
from postfix_sync.model import Condition, domain_of
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.main_cf.lookup import TIMEOUT
from postfix_sync.postfix.main_cf.map_type import choose_map_type, named_types
from postfix_sync.postfix.map_directory import MapDirectory, installed_routes
from postfix_sync.postfix.match_list import items, unproxied
from postfix_sync.reconcile.once import once
from postfix_sync.setup import smtpd
from postfix_sync.setup.main_cf_file import MainCf, Outdated
from postfix_sync.setup.proposal import Proposal, interrupted_setup
from postfix_sync.setup.steps import Change, Step, in_order, undoing
from postfix_sync.status.file import StatusFile
from postfix_sync.status.transitions import after_pass, rankings
from postfix_sync.store.state_directory import LOCK_NAME
from postfix_sync.system.lock import lock
from postfix_sync.system.tasks import to_its_end
from postfix_sync.text import counted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.postfix.instance import Postfix

SESSION_GRACE = 2.0
"""Seconds that an SMTP session gets to end its message to a list that is refused now."""

QUEUE_GRACE = 10.0
"""Seconds for mail to the lists to leave the queue before their routes go."""

QUEUE_POLL = 0.25


async def carry_out(proposal: Proposal) -> None:
    """Builds the maps, then makes the changes.

    Raises SyncError; main.cf is then as it was. Raises Outdated where it is not the one that the
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
    """Takes out what setup has added. Raises as `carry_out` does."""
    config = proposal.config
    async with lock(config.state_directory / LOCK_NAME):
        _check_text(proposal)
        work = _Work(config, proposal.main_cf)
        await to_its_end(work.take_out())


def _check_text(proposal: Proposal) -> None:
    if proposal.main_cf.read() != proposal.text:
        raise Outdated(f"{proposal.main_cf.path}: was changed meanwhile", "look again")


async def _check_current(config: "Config", instance: "Postfix") -> None:
    """Raises Outdated if a sync has changed the maps as the type that main.cf still names.

    The lock is held, so none does from now on: every process of Postfix finds the same entries,
    whichever of the two types it reads.
    """
    directory = await _map_directory(config, instance)
    if {*named_types(instance, directory.path)} <= {directory.map_type}:
        return
    found = await directory.read()
    if any(one.condition is not Condition.SOUND for one in found.maps.values()):
        raise Outdated(f"{directory.path}: the maps were changed meanwhile", "run setup again")


async def _map_directory(config: "Config", instance: "Postfix") -> MapDirectory:
    path = config.postfix.map_directory
    map_type = choose_map_type(instance, path, config.postfix.map_type)
    return MapDirectory(path, await instance.index_type(map_type), instance)


async def _build_maps(config: "Config", instance: "Postfix") -> None:
    """Makes a pass, so that each map is there. Raises SyncError where one is not, even so."""
    status_file = StatusFile.of(config)
    report = await once(config, rankings(status_file.read_or_new()))
    if report.installed:
        note = partial(after_pass, config=config, report=report, now=time.time())
        await status_file.update(note)
    for line in report.lines:
        LOG.info("%s", line)
    for error in report.errors:
        log_problem(error, logging.WARNING)
    directory = await _map_directory(config, instance)
    found = await directory.read()
    for name, one in found.maps.items():
        if one.condition is Condition.BROKEN:
            raise ApplyError(
                f"{directory.path / name}: could not be built; main.cf must not name a map that is"
                " not there, and is left as it was",
                f"see what is in the way: {config.command('--once')}",
            )


class _Work:
    """One setup, or one undoing, under the lock."""

    def __init__(self, config: "Config", main_cf: MainCf) -> None:
        self.config = config
        self.main_cf = main_cf
        self.postfix = main_cf.postfix
        self.replies: Mapping[smtpd.Listener, int] = {}
        self.ran = False

    async def make(self, changes: Sequence[Change]) -> None:
        await self._look()
        kept, made = self._begun()
        confirmed = list(kept)
        try:
            if made or interrupted_setup(self.main_cf.steps()):
                await self._tell_postfix()
                confirmed += [replace(one, confirmed=True) for one in made]
                self.main_cf.remember(confirmed)
            for part in in_order(changes):
                text = self.main_cf.read()
                step = Step(text, await self.main_cf.edited(text, part), part)
                self.main_cf.remember([*confirmed, step])
                await self.main_cf.replace(step.before, step.after)
                made.append(step)
                LOG.info("%s: %s", self.main_cf.path, _named(part))
                await self._tell_postfix()
                confirmed.append(replace(step, confirmed=True))
                self.main_cf.remember(confirmed)
        except SyncError:
            await self._take_back(made, kept)
            raise

    def _begun(self) -> tuple[list[Step], list[Step]]:
        """The steps that are done, and the one that was begun and has to be completed, if any."""
        done = list(self.main_cf.steps())
        if not interrupted_setup(done):
            return done, []
        last = done.pop()
        text = self.main_cf.read()
        if text == last.after:
            return done, [last]
        if text != last.before:  # somebody has edited it since
            done.append(replace(last, confirmed=True))
        return done, []

    async def take_out(self) -> None:
        await self._look()
        steps = self.main_cf.steps()
        for number in reversed(range(len(steps))):
            await self._take_out(steps[number], steps[:number])

    async def _take_out(self, step: Step, others: Sequence[Step]) -> None:
        text = self.main_cf.read()
        target = await self._without(step, text)
        if target != text and any(one.parameter == "transport_maps" for one in step.changes):
            await self._wait_for_queue(step)
        if target != text or not step.confirmed:
            self.main_cf.remember([*others, replace(step, confirmed=False)])
            await self.main_cf.replace(text, target)
            LOG.info("%s: taken out: %s", self.main_cf.path, _named(step.changes))
            try:
                await self._tell_postfix()
            except SyncError:
                await self._take_back([replace(step, before=text, after=target)], [*others, step])
                raise
        self.main_cf.remember(others)

    async def _without(self, step: Step, text: str) -> str:
        """main.cf's text without a step."""
        present = await self.main_cf.values()
        back = undoing([step], present)
        if text == step.after:
            return step.before
        return await self.main_cf.edited(text, back) if back else text

    async def _wait_for_queue(self, step: Step) -> None:
        """Waits until no mail in the queue needs the routes. Raises OutOfReach."""
        if self.postfix.master:
            await asyncio.sleep(SESSION_GRACE)
        now = time.time()
        while waiting := await self._stranded(step, now):
            if time.time() > now + QUEUE_GRACE:
                raise OutOfReach(
                    f"{counted(len(waiting), 'address')} of lists: mail in the queue would lose its"
                    " way without these routes, so transport_maps still names them; no parameter"
                    " names the other maps any more",
                    "see it: postqueue -p; when it is delivered, or deleted with postsuper -d:"
                    f" {self.config.command('setup', '--undo')}",
                )
            await asyncio.sleep(QUEUE_POLL)

    async def _stranded(self, step: Step, before: float) -> set[str]:
        """The addresses that mail from before this time waits for, and nothing else routes."""
        routes = installed_routes(self.config.postfix.map_directory)
        waiting = routes.keys() & await self.postfix.queued_recipients(before)
        ours = {item for one in step.changes for item in items(one.after or "")}
        others = [
            one for one in items(self.postfix.parameters["transport_maps"]) if one not in ours
        ]
        for table in others if waiting else []:
            keys = sorted({*waiting, *(domain_of(one) for one in waiting)})
            with contextlib.suppress(SyncError):  # then it can't be told that it routes them
                found = await self.postfix.look_up(unproxied(table), keys, timeout=TIMEOUT)
                waiting = {one for one in waiting if not {one, domain_of(one)} & found.keys()}
        return set(waiting)

    async def _look(self) -> None:
        """How Postfix stands before anything is changed."""
        self.ran = self.postfix.master is not None
        if self.ran:
            self.replies = await smtpd.replies(await smtpd.listeners(self.postfix))

    async def _tell_postfix(self) -> None:
        """Has Postfix work with main.cf as it is now. Raises ApplyError where it does not."""
        if not self.postfix.master:
            if self.ran:
                raise ApplyError("postfix: has stopped")
            LOG.info("postfix: not running, so not reloaded; it will start with this main.cf")
            return
        await self.postfix.reload()
        LOG.info("postfix: reloaded")
        if worse := await smtpd.worse_than(self.replies):
            raise ApplyError(f"postfix: after the reload, {'; '.join(worse)}")

    async def _take_back(self, made: Sequence[Step], kept: Sequence[Step]) -> None:
        """Puts main.cf back to what it was before the steps that were made."""
        try:
            if made:
                await self.main_cf.replace(made[-1].after, made[0].before)
                LOG.error("%s: is put back to what it was", self.main_cf.path)
            self.main_cf.remember(kept)
            if made:
                if self.ran and not self.postfix.master:
                    await self.postfix.start()
                await self._tell_postfix()
        except SyncError as error:
            log_problem(error)
            LOG.error(
                "postfix: does not do yet what it did before",
                extra={"hint": f"see its log, and: {command(self.postfix, 'postfix', 'check')}"},
            )


def _named(changes: Sequence[Change]) -> str:
    return ", ".join(one.parameter for one in changes)
