"""setup: has main.cf name the maps, and takes that back.

It goes in steps, routes before acceptance, the other way round for taking back, and Postfix works
with each before the next is made: main.cf is read by every process when it starts, so without that
one of them would take mail that another one can't route yet. Where Postfix does not come through,
main.cf is put back.

What is about to be done is written down first, as the whole text of main.cf before and after. So
whoever interrupts setup finds main.cf as one of the two; the next setup completes what was begun,
and `--undo` knows what to take out.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync import as_lmtp, doctor, postfix, state, sync
from postfix_sync.changes import counted
from postfix_sync.checks import Check, Host, instance, lookups, names
from postfix_sync.checks.main_cf import lacking, rerouted
from postfix_sync.errors import ApplyError, OutOfReach, SyncError
from postfix_sync.log import LOG, tell
from postfix_sync.main_cf import smtpd, wiring
from postfix_sync.main_cf.edit import MainCf, Outdated
from postfix_sync.main_cf.lookup import TIMEOUT
from postfix_sync.main_cf.match_list import items, unproxied
from postfix_sync.main_cf.parameter import path_of, type_of
from postfix_sync.main_cf.setup_steps import (
    ACCEPTING,
    Change,
    Step,
    in_order,
    overwritten,
    undoing,
)
from postfix_sync.maps import MapDirectory, installed_routes
from postfix_sync.model import INDEX_SUFFIX, Condition, Finding, Verdict
from postfix_sync.system import lock
from postfix_sync.tables import domain_of

if TYPE_CHECKING:
    from postfix_sync.config import Config
    from postfix_sync.postfix import Postfix

DIRECTORY = "setup"
"""Where in the state directory main.cf's texts are."""

SESSION_GRACE = 2.0
"""Seconds that an SMTP session gets to end its message to a list that is refused now."""

QUEUE_GRACE = 10.0
"""Seconds for mail to the lists to leave the queue before their routes go."""

QUEUE_POLL = 0.25


@dataclass(frozen=True)
class Proposal:
    """What is to be done to the main.cf that has this text."""

    config: "Config"
    main_cf: MainCf
    text: str
    changes: tuple[Change, ...]
    left: tuple[Change, ...] = ()
    """What an undoing can't take out."""
    interrupted: bool = False
    """Postfix may not know yet of what an earlier one has done."""
    notes: tuple[str, ...] = ()
    """What is left as it is, and why: it is the operator's decision."""
    blocked: tuple[Finding, ...] = ()
    """Why none of the changes may be made: mail that they accept would not get to Mailman."""

    @property
    def is_empty(self) -> bool:
        """Nothing is to be done."""
        return not (self.changes or self.interrupted)


ROUTE_CHECKS: Sequence[Check] = (
    instance.transport,
    rerouted,
    lookups.routes,
    lookups.aliases,
    instance.lmtp_parameters,
    names.resolved,
)
"""The checks of doctor that say whether mail to a list that is accepted gets to Mailman's host."""


async def propose(config: "Config") -> Proposal:
    """Finds what main.cf lacks. Reads only.

    Raises:
        OutOfReach: a table that decides what main.cf lacks can't be asked.
        SyncError: Postfix can't be asked.
    """
    found = await postfix.inspect(config.postfix.config_directory)
    config = await _changing_over(config, found)
    host = await doctor.look(config, found)
    main_cf = _main_cf(config, found)
    text, present, steps = main_cf.read(), await main_cf.values(), main_cf.steps()
    settings = {one.parameter: one for one in lacking(host)}
    if first := await lookups.order(host):
        settings[first.parameter] = first
    if any(one.cluster for one in config.sources):
        settings |= {one.parameter: one for one in wiring.cluster_settings(found)}
    blocked = await _misrouted(await _as_set_up(host, settings.values()))
    if host.tables.unreadable:
        table, error = min(host.tables.unreadable.items(), key=lambda one: one[0])
        raise OutOfReach(
            f"{error.message}; what main.cf has to say depends on the content of {table}, so"
            " nothing was changed",
            f"start what serves it, or make the file readable; see {config.command('doctor')};"
            f" then: {config.command('setup')}",
        )
    changes = tuple(
        Change(
            one.parameter,
            present.get(one.parameter),
            one.wanted,
            default=one.present,
            why=one.problem,
        )
        for one in settings.values()
    )
    accepts = any(one.parameter in ACCEPTING for one in changes)
    return Proposal(
        config,
        main_cf,
        text,
        changes,
        interrupted=_interrupted(steps),
        notes=tuple(wiring.left_open(found, host.classes).values()),
        blocked=tuple(blocked) if accepts else (),
    )


async def _as_set_up(host: Host, settings: Iterable[wiring.Setting]) -> Host:
    """The host as it will be with these settings, for checks of what becomes of mail then."""
    wanted = {one.parameter: one.wanted for one in settings}
    expanded = await host.postfix.expanded(wanted) if wanted else {}
    changed = replace(
        host.postfix,
        parameters={**host.postfix.parameters, **expanded},
        unexpanded={**host.postfix.unexpanded, **wanted},
    )
    resolver, answers = host.resolver, host.lookups
    if resolver and (asked := wanted.get("lmtp_host_lookup")):
        resolver = replace(resolver, mechanisms=tuple(items(asked)))
        answers = await as_lmtp.look_up_all(resolver, host.host_names)
    return replace(host, postfix=changed, resolver=resolver, lookups=answers)


async def _misrouted(host: Host) -> list[Finding]:
    """What keeps mail to lists from Mailman's host.

    Names with an address in the configuration are left out: a pass enters them first. So are those
    that no name server answers for: their mail waits.
    """
    answers = {
        name: answer
        for name, answer in host.lookups.items()
        if name not in host.addresses and not answer.unanswered
    }
    judged = replace(host, lookups=answers)
    return [
        finding
        for check in ROUTE_CHECKS
        async for finding in check(judged)
        if finding.verdict is Verdict.FAILURE
    ]


async def _changing_over(config: "Config", instance: "Postfix") -> "Config":
    """Choose another map type than main.cf names where Postfix warns of that.

    With `auto` only, which follows main.cf: as soon as that names the maps as another type, every
    sync builds them so.
    """
    if config.postfix.map_type != "auto":
        return config
    name = wiring.choose_map_type(instance, config.postfix.map_directory, "auto")
    successor = await instance.successor(await instance.index_type(name))
    return config.with_map_type(successor) if successor else config


async def propose_undoing(config: "Config") -> Proposal:
    """What setup has added to main.cf. Reads only. Raises SyncError where it can't be told."""
    main_cf = _main_cf(config, await postfix.inspect(config.postfix.config_directory))
    text, present, steps = main_cf.read(), await main_cf.values(), main_cf.steps()
    changes = undoing(steps, present)
    # main.cf comes to be what it was before each of them.
    states = [undoing(steps[number:], present) for number in reversed(range(len(steps)))]
    await _check_built(config, main_cf, states)
    return Proposal(
        config,
        main_cf,
        text,
        tuple(changes),
        left=tuple(overwritten(steps, present)),
        interrupted=_interrupted(steps),
    )


def _main_cf(config: "Config", instance: "Postfix") -> MainCf:
    return MainCf(instance, config.state_directory / DIRECTORY, config.command("doctor"))


async def _check_built(
    config: "Config", main_cf: MainCf, states: Sequence[Sequence[Change]]
) -> None:
    """Raises ApplyError where a map that main.cf would name again is not there, or outdated.

    `states` are what leads from main.cf as it is to what it will be, in between and at the end.
    """
    problems: dict[str, str] = {}
    for changes in states:
        problems |= await _unbuilt(config, main_cf, changes)
    if problems:
        raise ApplyError(
            f"{main_cf.path}: {next(iter(problems.values()))}; nothing was done",
            " && ".join([*problems, config.command("setup", "--undo")]),
        )


async def _unbuilt(
    config: "Config", main_cf: MainCf, changes: Sequence[Change]
) -> Mapping[str, str]:
    """What is wrong with maps that main.cf would name, by the command that builds each."""
    back = {one.parameter: one.after for one in changes if one.after}
    values = await main_cf.postfix.expanded(back) if back else {}
    problems: dict[str, str] = {}
    for parameter, value in values.items():
        named = items(main_cf.postfix.parameters.get(parameter, ""))
        for item in items(value):
            path = Path(path_of(item))
            if path.parent != config.postfix.map_directory or type_of(item) not in INDEX_SUFFIX:
                continue
            index = (await main_cf.postfix.index_type(type_of(item))).index(path)
            if problem := _unfit(index, path, is_named=item in named):
                build = wiring.command(main_cf.postfix, "postmap", unproxied(item))
                problems[build] = f"{parameter} was {back[parameter]}, but {problem}"
    return problems


def _unfit(index: Path, text: Path, *, is_named: bool) -> str:
    """Say why main.cf must not come to name a map; `is_named`: it does already."""
    if not index.exists():
        return f"there is no {index} any more: Postfix would defer all mail"
    if not is_named and index.stat().st_mtime_ns < text.stat().st_mtime_ns:
        return f"{index} is older than its text: Postfix would refuse mail to new lists"
    return ""


def _interrupted(steps: Sequence[Step]) -> bool:
    return bool(steps) and not steps[-1].confirmed


async def carry_out(proposal: Proposal) -> None:
    """Builds the maps, then makes the changes.

    Raises SyncError; main.cf is then as it was. Raises Outdated where it is not the one that the
    proposal was made for.
    """
    config, instance = proposal.config, proposal.main_cf.postfix
    await _build_maps(config, instance)
    async with lock(config.state_directory / sync.LOCK_NAME):
        _check_text(proposal)
        await _check_current(config, instance)
        work = _Work(config, proposal.main_cf)
        await sync.to_its_end(work.make(proposal.changes))


async def undo(proposal: Proposal) -> None:
    """Takes out what setup has added. Raises as `carry_out` does."""
    config = proposal.config
    async with lock(config.state_directory / sync.LOCK_NAME):
        _check_text(proposal)
        work = _Work(config, proposal.main_cf)
        await sync.to_its_end(work.take_out())


def _check_text(proposal: Proposal) -> None:
    if proposal.main_cf.read() != proposal.text:
        raise Outdated(f"{proposal.main_cf.path}: was changed meanwhile", "look again")


async def _check_current(config: "Config", instance: "Postfix") -> None:
    """Raises Outdated if a sync has changed the maps as the type that main.cf still names.

    The lock is held, so none does from now on: every process of Postfix finds the same entries,
    whichever of the two types it reads.
    """
    directory = await _map_directory(config, instance)
    if {*wiring.named_types(instance, directory.path)} <= {directory.map_type}:
        return
    found = await directory.read()
    if any(one.condition is not Condition.SOUND for one in found.maps.values()):
        raise Outdated(f"{directory.path}: the maps were changed meanwhile", "run setup again")


async def _map_directory(config: "Config", instance: "Postfix") -> MapDirectory:
    path = config.postfix.map_directory
    map_type = wiring.choose_map_type(instance, path, config.postfix.map_type)
    return MapDirectory(path, await instance.index_type(map_type), instance)


async def _build_maps(config: "Config", instance: "Postfix") -> None:
    """Makes a pass, so that each map is there. Raises SyncError where one is not, even so."""
    status_file = state.StatusFile.of(config)
    report = await sync.once(config, state.rankings(status_file.read_or_new()))
    if report.installed:
        note = partial(state.after_pass, config=config, report=report, now=time.time())
        await status_file.update(note)
    for line in report.lines:
        LOG.info("%s", line)
    for error in report.errors:
        tell(error, logging.WARNING)
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
            if made or _interrupted(self.main_cf.steps()):
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
        if not _interrupted(done):
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
            tell(error)
            LOG.error(
                "postfix: does not do yet what it did before",
                extra={
                    "hint": f"see its log, and: {wiring.command(self.postfix, 'postfix', 'check')}"
                },
            )


def _named(changes: Sequence[Change]) -> str:
    return ", ".join(one.parameter for one in changes)
