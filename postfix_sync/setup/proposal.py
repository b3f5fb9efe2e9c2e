"""Compute what `setup`, or `setup --undo`, would change in main.cf. Changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.doctor import examination
from postfix_sync.doctor.checks import instance, lookups, names
from postfix_sync.doctor.checks.main_cf import lacking, rerouted
from postfix_sync.doctor.findings import Check
from postfix_sync.doctor.host import Host
from postfix_sync.errors import ApplyError, OutOfReach
from postfix_sync.model.finding import Finding, Verdict
from postfix_sync.model.map_names import INDEX_SUFFIX
from postfix_sync.postfix import lmtp_resolver
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.main_cf.advice import unknown_accepted
from postfix_sync.postfix.main_cf.fixes import Setting, command
from postfix_sync.postfix.main_cf.map_type import choose_map_type
from postfix_sync.postfix.main_cf.parameter import path_of, type_of
from postfix_sync.postfix.main_cf.relay_recipients import left_open
from postfix_sync.postfix.main_cf.requirements import cluster_settings
from postfix_sync.postfix.main_cf.unknown_recipients import accepting_tables
from postfix_sync.postfix.match_list import items, unproxied
from postfix_sync.setup.main_cf_file import MainCf
from postfix_sync.setup.steps import ACCEPTING, Change, Step, overwritten, undoing

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.postfix.instance import Postfix

DIRECTORY = "setup"
"""The directory in the state directory that has the record of setup."""


@dataclass(frozen=True)
class Proposal:
    """The changes that setup would make to the main.cf that has this text."""

    config: "Config"
    main_cf: MainCf
    text: str
    changes: tuple[Change, ...]
    left: tuple[Change, ...] = ()
    """The changes of setup that `--undo` cannot undo."""
    interrupted: bool = False
    """Whether an earlier setup was interrupted before Postfix was reloaded."""
    notes: tuple[str, ...] = ()
    """What setup does not change, and why: only the operator can decide on it."""
    blocked: tuple[Finding, ...] = ()
    """Why no change can be made: Postfix would accept mail that does not get to Mailman."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.changes or self.interrupted)


ROUTE_CHECKS: Sequence[Check] = (
    instance.transport,
    rerouted,
    lookups.routes,
    lookups.aliases,
    instance.lmtp_parameters,
    names.resolved,
)
"""The checks of doctor that decide whether accepted mail to a list gets to Mailman's host."""


async def propose(config: "Config") -> Proposal:
    """Propose the changes that main.cf needs. Reads only.

    Raises:
        OutOfReach: a table that decides what main.cf lacks cannot be queried.
        SyncError: the configuration of Postfix cannot be read.
    """
    found = await inspect(config.postfix.config_directory)
    config = await _changing_over(config, found)
    host = await examination.gather(config, found)
    main_cf = _main_cf(config, found)
    text, present, steps = main_cf.read(), await main_cf.values(), main_cf.steps()
    settings = {setting.parameter: setting for setting in lacking(host)}
    for first in (await lookups.order(host), await lookups.taken_by_catch_all(host)):
        if first:
            settings[first.parameter] = first
    if any(source.cluster for source in config.sources):
        settings |= {setting.parameter: setting for setting in cluster_settings(found)}
    changed = await _as_set_up(host, settings.values())
    # What only these changes require: aliases that lead to themselves must keep extensions.
    settings |= {one.parameter: one for one in lacking(changed) if one.parameter not in settings}
    blocked = await _misrouted(await _as_set_up(host, settings.values()))
    if host.tables.unreadable:
        table, error = min(host.tables.unreadable.items(), key=lambda item: item[0])
        raise OutOfReach(
            f"{error.message}; what main.cf has to say depends on the content of {table}, so"
            " nothing was changed",
            f"start what serves it, or make the file readable; see {config.command('doctor')};"
            f" then: {config.command('setup')}",
        )
    changes = tuple(
        Change(
            setting.parameter,
            present.get(setting.parameter),
            setting.wanted,
            default=setting.present,
            why=setting.problem,
        )
        for setting in settings.values()
    )
    accepts = any(change.parameter in ACCEPTING for change in changes)
    return Proposal(
        config,
        main_cf,
        text,
        changes,
        interrupted=interrupted_setup(steps),
        notes=tuple(await _decisions(host)),
        blocked=tuple(blocked) if accepts else (),
    )


async def _decisions(host: Host) -> list[str]:
    """Return why Postfix will accept addresses of list domains that do not exist."""
    accepting = await accepting_tables(host.tables, host.classes)
    left = unknown_accepted(host.postfix, host.tables.ours, host.classes, accepting)
    return [
        *left_open(host.postfix, host.classes).values(),
        *(setting.problem for setting in left),
    ]


async def _as_set_up(host: Host, settings: Iterable[Setting]) -> Host:
    """Return the host as it will be with these settings, to check where mail is routed then."""
    wanted = {setting.parameter: setting.wanted for setting in settings}
    expanded = await host.postfix.expanded(wanted) if wanted else {}
    changed = replace(
        host.postfix,
        parameters={**host.postfix.parameters, **expanded},
        unexpanded={**host.postfix.unexpanded, **wanted},
    )
    answers = host.lookups
    if mechanisms := wanted.get("lmtp_host_lookup"):
        resolver = replace(host.postfix.lmtp.resolver, mechanisms=tuple(items(mechanisms)))
        changed = replace(changed, lmtp=replace(changed.lmtp, resolver=resolver))
        answers = await lmtp_resolver.look_up_all(resolver, host.host_names)
    return replace(host, postfix=changed, lookups=answers)


async def _misrouted(host: Host) -> list[Finding]:
    """Return the failures that keep mail to lists from Mailman's host.

    Names with an address in the configuration are left out, because a sync enters them first. So
    are names for which no name server answers, because their mail is only deferred.
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
    """Choose another map type if Postfix warns of the type that main.cf names.

    Only `auto` is changed, because it follows main.cf: as soon as main.cf names the maps as another
    type, every sync builds that type.
    """
    if config.postfix.map_type != "auto":
        return config
    name = choose_map_type(instance, config.postfix.map_directory, "auto")
    successor = await instance.successor(await instance.index_type(name))
    return config.with_map_type(successor) if successor else config


async def propose_undoing(config: "Config") -> Proposal:
    """Propose to remove what setup has added to main.cf. Reads only.

    Raises SyncError if that is unknown, or if main.cf would name a map that is not built.
    """
    main_cf = _main_cf(config, await inspect(config.postfix.config_directory))
    text, present, steps = main_cf.read(), await main_cf.values(), main_cf.steps()
    changes = undoing(steps, present)
    # Undone step by step, main.cf has each of these states.
    states = [undoing(steps[number:], present) for number in reversed(range(len(steps)))]
    await _check_built(config, main_cf, states)
    return Proposal(
        config,
        main_cf,
        text,
        tuple(changes),
        left=tuple(overwritten(steps, present)),
        interrupted=interrupted_setup(steps),
    )


def _main_cf(config: "Config", instance: "Postfix") -> MainCf:
    return MainCf(instance, config.state_directory / DIRECTORY, config.command("doctor"))


async def _check_built(
    config: "Config", main_cf: MainCf, states: Sequence[Sequence[Change]]
) -> None:
    """Raise ApplyError if a map that main.cf would name again does not exist, or is outdated.

    `states` are the changes from the current main.cf to each intermediate state and to the last.
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
    """Return what is wrong with maps that main.cf would name, by the command that builds each."""
    back = {change.parameter: change.after for change in changes if change.after}
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
                build = command(main_cf.postfix, "postmap", unproxied(item))
                problems[build] = f"{parameter} was {back[parameter]}, but {problem}"
    return problems


def _unfit(index: Path, text: Path, *, is_named: bool) -> str:
    """Return why main.cf must not name a map, empty if it may; `is_named`: it does already."""
    if not index.exists():
        return f"there is no {index} any more: Postfix would defer all mail"
    if not is_named and index.stat().st_mtime_ns < text.stat().st_mtime_ns:
        return f"{index} is older than its text: Postfix would refuse mail to new lists"
    return ""


def interrupted_setup(steps: Sequence[Step]) -> bool:
    """Return whether setup was interrupted in its last step."""
    return bool(steps) and not steps[-1].confirmed
