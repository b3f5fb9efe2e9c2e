"""What `setup` would change in main.cf, and what taking it back would. Changes nothing."""

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
from postfix_sync.model import INDEX_SUFFIX, Finding, Verdict
from postfix_sync.postfix import lmtp_resolver
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.main_cf.fixes import Setting, command
from postfix_sync.postfix.main_cf.map_type import choose_map_type
from postfix_sync.postfix.main_cf.parameter import path_of, type_of
from postfix_sync.postfix.main_cf.requirements import cluster_settings, left_open
from postfix_sync.postfix.match_list import items, unproxied
from postfix_sync.setup.main_cf_file import MainCf
from postfix_sync.setup.steps import ACCEPTING, Change, Step, overwritten, undoing

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.postfix.instance import Postfix

DIRECTORY = "setup"
"""Where in the state directory main.cf's texts are."""


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
    found = await inspect(config.postfix.config_directory)
    config = await _changing_over(config, found)
    host = await examination.gather(config, found)
    main_cf = _main_cf(config, found)
    text, present, steps = main_cf.read(), await main_cf.values(), main_cf.steps()
    settings = {setting.parameter: setting for setting in lacking(host)}
    if first := await lookups.order(host):
        settings[first.parameter] = first
    if any(source.cluster for source in config.sources):
        settings |= {setting.parameter: setting for setting in cluster_settings(found)}
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
        notes=tuple(left_open(found, host.classes).values()),
        blocked=tuple(blocked) if accepts else (),
    )


async def _as_set_up(host: Host, settings: Iterable[Setting]) -> Host:
    """The host as it will be with these settings, for checks of what becomes of mail then."""
    wanted = {setting.parameter: setting.wanted for setting in settings}
    expanded = await host.postfix.expanded(wanted) if wanted else {}
    changed = replace(
        host.postfix,
        parameters={**host.postfix.parameters, **expanded},
        unexpanded={**host.postfix.unexpanded, **wanted},
    )
    resolver, answers = host.resolver, host.lookups
    if resolver and (asked := wanted.get("lmtp_host_lookup")):
        resolver = replace(resolver, mechanisms=tuple(items(asked)))
        answers = await lmtp_resolver.look_up_all(resolver, host.host_names)
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
    name = choose_map_type(instance, config.postfix.map_directory, "auto")
    successor = await instance.successor(await instance.index_type(name))
    return config.with_map_type(successor) if successor else config


async def propose_undoing(config: "Config") -> Proposal:
    """What setup has added to main.cf. Reads only. Raises SyncError where it can't be told."""
    main_cf = _main_cf(config, await inspect(config.postfix.config_directory))
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
        interrupted=interrupted_setup(steps),
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
    """Say why main.cf must not come to name a map; `is_named`: it does already."""
    if not index.exists():
        return f"there is no {index} any more: Postfix would defer all mail"
    if not is_named and index.stat().st_mtime_ns < text.stat().st_mtime_ns:
        return f"{index} is older than its text: Postfix would refuse mail to new lists"
    return ""


def interrupted_setup(steps: Sequence[Step]) -> bool:
    return bool(steps) and not steps[-1].confirmed
