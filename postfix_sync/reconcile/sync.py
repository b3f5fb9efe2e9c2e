"""One pass, top to bottom: what is installed, what is wanted, the plan, the apply, the report.

A pass is level-triggered: it acts on the difference between the disk and the sources, and why it
was started plays no part. So a pass that was killed is completed by the next one, and a daemon and
a `--once` beside it agree. The sources are asked before: a pass waits for none of them.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.containers.relocate import by_address, moved
from postfix_sync.containers.routable_names import routable_names
from postfix_sync.errors import (
    ApplyError,
    Busy,
    NotPermitted,
    Refused,
    SyncError,
    is_out_of_memory,
    out_of_memory,
    why,
)
from postfix_sync.mailman.addresses import lists_of
from postfix_sync.model import (
    ALIASES,
    BOTH_FAMILIES,
    MAP_NAMES,
    MOVED_LISTS,
    RECIPIENTS,
    ROUTES,
    Condition,
    Desired,
    Destination,
    Installed,
    Maps,
    Notice,
    Peer,
    Record,
    Table,
)
from postfix_sync.postfix import lmtp_resolver
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf import requirements
from postfix_sync.postfix.main_cf.address_classes import classify
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.main_cf.map_type import type_notices
from postfix_sync.postfix.main_cf.requirements import cluster_notices
from postfix_sync.postfix.next_hop import host_names, parse_next_hops
from postfix_sync.reconcile import changes
from postfix_sync.reconcile.apply import carry_out
from postfix_sync.reconcile.changes import difference, log_lines, named
from postfix_sync.reconcile.desired import FOUND_OUT, Allowed, Asked, Wanted, decide
from postfix_sync.reconcile.fetch import Fetched, usable
from postfix_sync.reconcile.locked import Locked, installation, locked
from postfix_sync.reconcile.merge import Ranking, held_back, reordered
from postfix_sync.reconcile.plan import Plan, plan
from postfix_sync.reconcile.reload_spacing import TURN_TAKES
from postfix_sync.reconcile.report import PLAIN, Report, Request, SourceReport
from postfix_sync.reconcile.retirement import noted
from postfix_sync.reconcile.visibility import REROUTING, Reading
from postfix_sync.store.generations import Hold
from postfix_sync.store.state_directory import generations_of, records_of, retirement_record_of
from postfix_sync.system.tasks import to_its_end
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config, SourceSection
    from postfix_sync.store.records import Stamp

JUDGED_WITHIN = 2.0
"""Seconds for looking up new next hops; what is not known by then is let pass."""

SHORTEST_WAIT = 0.1


def no_turn() -> Busy:
    """What keeps a change from being seen for good."""
    return Busy(
        "Postfix is reloaded again and again by others, and some lists wait for a reload",
        "see who does: grep 'reload -- ' in Postfix's log, and the times",
    )


async def make_pass(
    config: "Config",
    answers: Mapping[str, Fetched],
    rankings: Mapping[str, Ranking],
    request: Request = PLAIN,
    instance: Postfix | None = None,
) -> Report:
    """Makes one pass. What an operator can mend is in the report's errors, not raised.

    `answers` are the sources' by name; of the others, what is recorded counts. `rankings`
    are the clusters'. `instance` is the Postfix, if it was inspected just now.
    """
    began = time.monotonic()
    report = await _make_pass(config, answers, rankings, request, instance)
    return replace(report, seconds=time.monotonic() - began)


async def _make_pass(
    config: "Config",
    answers: Mapping[str, Fetched],
    rankings: Mapping[str, Ranking],
    request: Request,
    instance: Postfix | None,
) -> Report:
    try:
        async with locked(config, instance, create=not request.dry_run) as place:
            one = _Pass(config, place, request.reload_age)
            return await one.make(answers, rankings, request)
    except SyncError as error:
        return Report(failed=(error,))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Report(failed=(out_of_memory("the pass"),))
    except OSError as error:
        # What no step foresaw, such as a file that somebody removes while it is looked at.
        failed = ApplyError(f"{error.filename or 'the pass'}: {why(error)}")
        return Report(failed=(failed,))


class _Pass:
    """One pass under the lock."""

    def __init__(self, config: "Config", place: Locked, reload_age: float) -> None:
        self.config = config
        self.reload_age = reload_age
        self.directory, self.hosts, self.lock = place
        self.by_name = routable_names(self.hosts)
        self.replaced: Mapping[Destination, Destination] = {}
        self.records = records_of(config)
        self.generations = generations_of(config)
        self.hold: Hold | None = None
        self.as_held: int | None = None
        self.waiting = ""
        self.failed: list[SyncError] = []
        self.notices: list[Notice] = []
        self.lines: list[str] = []
        self.preview: list[str] = []
        self.pending: list[str] = []
        self.recorded_before: dict[str, Record | None] = {}
        self.recorded: dict[str, Stamp | None] = {}
        self.outdated: set[str] = set()
        self.changed: set[str] = set()
        self.entries: Counter[str] = Counter()
        self.reloads = 0
        self.rerouted = False
        self.waits = 0.0
        self.is_whole = True
        """Whether the plan was carried out to its end."""

    async def make(
        self, answers: Mapping[str, Fetched], rankings: Mapping[str, Ranking], request: Request
    ) -> Report:
        installed = await self.directory.read()
        answers = usable(answers, self.directory.postfix.families)
        if damage := self.generations.damage():
            self.notices.append(damage)
        asked = [await self._asked(one, answers.get(one.name)) for one in self.config.sources]
        if request.force:
            asked = [replace(one, policy=one.policy.unguarded()) for one in asked]
        self.recorded_before = {one.name: one.recorded for one in asked}
        forgotten = await self._forgotten()
        regarded = await self._obey(request, installed)
        wanted = await run_in_daemon_thread(
            decide,
            asked,
            regarded,
            rankings,
            forgotten=forgotten,
            allowed=Allowed(self.directory.postfix.several_next_hops, self.by_name),
        )
        self.replaced = wanted.replaced
        if wanted.maps:
            self._tell_kept_out(wanted)
        goal = None
        if wanted.maps:
            maps = wanted.maps.beside(self.directory.postfix.other_domains)
            goal = Desired(maps, wanted.addresses)
        if self.hold:
            as_held = await self._as_held(self.hold, wanted, installed, rankings)
            self._tell_held(as_held, goal, request)
            goal = goal if request.dry_run else as_held
        if goal:
            goal, wanted = await self._deliverable(goal, installed, wanted)
            try:
                desired, installed = self._with_hosts(goal, installed)
                reading = self._reading()
                steps = await run_in_daemon_thread(plan, installed, desired, reading)
                whose = _whose(wanted, asked, forgotten)
                if request.dry_run:
                    self.preview += changes.preview(steps, installed, self.hosts.path)
                    told = log_lines(steps, installed, set(MAP_NAMES), whose)
                    self.pending = [line for party, line in told if party]
                else:
                    work = self._bring_about(wanted, desired, steps, installed, whose)
                    await to_its_end(work)
            except SyncError as error:
                self.failed.append(error)
            await self._check_wiring(wanted, goal)
        elif not self.hold:
            self.failed.append(self._undecided(installed, wanted))
        report = await asyncio.to_thread(self._report, wanted, answers)
        return replace(report, found=installed)

    async def _obey(self, request: Request, installed: Installed) -> Installed:
        """Sees what is held, and changes that if asked to; what is installed, as far as it counts.

        The order is on the disk before the maps change: whoever interrupts a rollback, the next
        pass completes it, and none undoes it. Raises SyncError; then nothing was done.
        """
        self.hold = self.generations.held()
        if request.resume and self.hold:
            put_back = await self.generations.restored(self.hold)
            self.generations.release()
            self.hold = None
            # What only the rollback had put back goes, though the source that dropped it be away.
            return installed.without(put_back) if put_back else installed
        if request.roll_back is not None:
            await self.generations.load(request.roll_back)
            if not self.hold:
                await self._keep_present(installed, spare=request.roll_back)
                before = self.generations.installed(self.directory.texts())
                self.hold = Hold(request.roll_back, time.time(), before)
            elif self.hold.generation != request.roll_back:
                self.hold = Hold(request.roll_back, time.time(), self.hold.before)
            self.generations.hold(self.hold)
        return installed

    async def _as_held(
        self,
        hold: Hold,
        wanted: Wanted,
        installed: Installed,
        rankings: Mapping[str, Ranking],
    ) -> Desired | None:
        """The maps of the held generation; where it can't be read, the maps as they are.

        Where the hosts of its routes are is no part of what is held: a name gets the address that
        it has today, and the one that it had only where it has none. Nor is the order of a
        cluster's members: mail would bounce if the last one's name had lost its address meanwhile.
        """
        try:
            generation = await self.generations.load_held(hold)
        except SyncError as error:
            self.failed.append(
                ApplyError(
                    f"{error.message}; the maps stay as they are",
                    f"put another one back: {self.config.command('rollback')};"
                    f" or go on: {self.config.command('resume')}",
                )
            )
            return Desired(installed.readable, {}) if installed.readable else None
        self.as_held = generation.number
        today: dict[str, str] = {}
        with contextlib.suppress(SyncError):  # what is wrong with the file is told where it counts
            hosts = self.hosts.read()
            today = {**dict.fromkeys(hosts.foreign(), ""), **hosts.block}
        known = {**generation.hosts, **today, **wanted.kept_out, **wanted.addresses}
        routes = generation.tables.routes
        found = {name: known[name] for name in host_names(routes) if known.get(name)}
        routes = by_address(routes, {k: v for k, v in found.items() if not self.by_name(k)})
        clusters = {one.name: one.replicas.keys() for one in wanted.merged.parties if one.replicas}
        routes = await asyncio.to_thread(reordered, routes, clusters, rankings)
        maps = Maps.of(replace(generation.tables, routes=routes))
        maps = maps.beside(self.directory.postfix.other_domains)
        return Desired(maps, {name: found[name] for name in found if self.by_name(name)})

    def _tell_kept_out(self, wanted: Wanted) -> None:
        """Warns once of host names that do not enter the hosts file, or leave it."""
        containers = [one.container for one in self.config.sources if one.container]
        names = " ".join(one.name for one in containers if one.engine == "podman")
        restart = f"podman restart {names or 'NAME (podman ps shows the names)'}"
        for host in sorted(wanted.newly_kept_out):
            self.notices.append(
                Notice(
                    f"{self.hosts.path}: podman copies this file into its containers, and a Mailman"
                    f" that finds its own name {host} there listens on a wrong address; the name is"
                    f" kept out of the file, and its lists are routed to {wanted.kept_out[host]}",
                    f"if Mailman was started while the name was in the file: {restart}",
                )
            )

    async def _deliverable(
        self, goal: Desired, installed: Installed, wanted: Wanted
    ) -> tuple[Desired, Wanted]:
        """The goal without any change to lists whose mail Postfix would accept and return.

        lmtp(8) does so where a route's last next hop has no address of a family that it may use; it
        passes over others. What is installed is not looked up again, in no sync without news.
        """
        postfix = self.directory.postfix
        if postfix.families == BOTH_FAMILIES:
            return goal, wanted
        routes, present = goal.maps[ROUTES], installed.table(ROUTES)
        last = {value: parse_next_hops(value)[-1:] for value in set(routes.values())}
        news = {value for key, value in routes.items() if present.get(key) != value}
        hosts = {
            hop.host
            for value, hops in last.items()
            for hop in hops
            if value in news or not hop.is_name or hop.host in goal.hosts
        }
        barred: Mapping[str, Sequence[str]] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JUDGED_WITHIN):
                barred = await lmtp_resolver.barred(postfix, hosts, goal.hosts)
        values = {value for value, hops in last.items() if any(hop.host in barred for hop in hops)}
        keys = {key for key, value in routes.items() if value in values}
        if not keys:
            return goal, wanted
        errors = {name: [*known] for name, known in wanted.errors.items()}
        if self.hold:
            self.failed.append(self._returned(f"{self.hold}", keys, barred, routes))
        else:
            for name, known in errors.items():
                if own := keys & wanted.served(name):
                    known.append(self._returned(name, own, barred, routes))
        present_maps = Maps({name: installed.table(name) for name in MAP_NAMES})
        maps = held_back(goal.maps, present_maps, keys)
        names = host_names(maps[ROUTES])
        addresses = {host: one for host, one in goal.hosts.items() if host in names}
        return Desired(maps, addresses), replace(wanted, errors=errors)

    def _returned(
        self,
        source: str,
        keys: AbstractSet[str],
        barred: Mapping[str, Sequence[str]],
        routes: Table,
    ) -> Refused:
        """A source's lists, by their addresses, lead to where Postfix must not connect."""
        postfix = self.directory.postfix
        hosts = sorted({parse_next_hops(routes[key])[-1].host for key in keys} & barred.keys())
        told = [
            host if list(barred[host]) == [host] else f"{host} ({', '.join(barred[host])})"
            for host in hosts
        ]
        family = lmtp_resolver.barred_families(postfix)
        fix = lmtp_resolver.let_use_both(postfix)
        hint = "give the source an address: or a destination: that Postfix may use"
        return Refused(
            f"{source}: {' and '.join(told)} is {family}, which inet_protocols keeps Postfix from"
            f" using, so it would accept mail and return it; refused:"
            f" {named('list', lists_of(keys))}; what is installed stays",
            f"let lmtp(8) use {family}: {fix}; or {hint}" if fix else hint,
        )

    def _tell_held(self, as_held: Desired | None, goal: Desired | None, request: Request) -> None:
        """Says what waits, for as long as something does."""
        if as_held and goal:
            self.waiting = "; ".join(difference(as_held.maps, goal.maps))
        if request.roll_back is None and (self.waiting or request.dry_run):
            self.notices.append(
                Notice(
                    f"{self.hold}; what waits: {self.waiting or 'nothing'}",
                    f"see all of it: {self.config.command('--once', '--dry-run')};"
                    f" let it happen: {self.config.command('resume')}",
                )
            )

    async def _asked(self, source: "SourceSection", answer: Fetched | None) -> Asked:
        """What is known of a source, and its answer, if it is not older than that."""
        name = source.name
        try:
            before = await self.records.read(name)
        except NotPermitted:
            raise
        except SyncError as error:
            self.notices.append(Notice(error.message, error.hint))
            before = None
        if before and before.peer:
            before = replace(before, peer=before.peer.usable(self.directory.postfix.families))
        current = self.records.stamp(name)
        fixed = source.fixed_address
        address = fixed or (FOUND_OUT if source.address else None)
        asked = Asked(name, self.config.policy(source), source.cluster, address, before)
        if fixed:
            # Remembered too: it is the last known one if it is to be found out some day.
            asked = replace(asked, peer=Peer((fixed,)))
        if answer is None:
            return asked
        if answer.error is None and (
            answer.seen != current or (answer.tables is None and before is None)
        ):
            self.outdated.add(name)
            return asked
        return replace(
            asked,
            tables=answer.tables,
            peer=answer.peer or asked.peer,
            misplaced=answer.misplaced,
            error=answer.error,
            has_answered=answer.error is None,
        )

    async def _forgotten(self) -> dict[str, Record]:
        """What is known of sources that are not configured any more."""
        found = {}
        for name in self._unconfigured():
            with contextlib.suppress(SyncError):  # then nobody is known to have its lists
                if record := await self.records.read(name):
                    found[name] = record
        return found

    def _unconfigured(self) -> list[str]:
        """The sources that there is a record of, and that are not configured any more."""
        return sorted(self.records.sources() - {one.name for one in self.config.sources})

    def _names(self, addresses: Mapping[str, str], foreign: Mapping[str, str]) -> dict[str, str]:
        """The host names that the hosts file is to give an address, and no other line has."""
        names = {}
        for host, address in sorted(addresses.items()):
            if host not in foreign:
                names[host] = address
            elif foreign[host] != address:
                self.notices.append(
                    Notice(
                        f"{self.hosts.path}: {host} has the address {foreign[host]} on a line that"
                        f" is not postfix-sync's, {address} is configured; that line stays",
                        f"remove {host} from that line, or make sources.address {foreign[host]}",
                    )
                )
        return names

    def _with_hosts(self, goal: Desired, installed: Installed) -> tuple[Desired, Installed]:
        """What is desired of the hosts file and what is there, if it concerns this sync at all.

        It does if names are to be there, or were once. Raises ApplyError or NotPermitted.
        """
        concerned = bool(goal.hosts) or self._has_addresses
        try:
            found = self.hosts.read()
        except SyncError as error:
            if concerned:
                raise
            self.notices.append(Notice(error.message, error.hint))
            return goal, installed
        foreign = found.foreign()
        names = self._names(goal.hosts, foreign)
        used = host_names(goal.maps[ROUTES]) & found.block.keys() - names.keys()
        dropped = used if not self._has_addresses else used & foreign.keys()
        copied = self.hosts.copy_is_current() if concerned or found.block else True
        return (
            replace(goal, hosts=names, dropped=frozenset(dropped)),
            replace(installed, hosts=found.block, hosts_copied=copied),
        )

    @property
    def _has_addresses(self) -> bool:
        return any(one.address for one in self.config.sources)

    def _reading(self) -> Reading:
        """How this Postfix reads the maps, and whether it may be reloaded now."""
        instance = self.directory.postfix
        return Reading(
            at_once=self.directory.is_seen_at_once,
            default_refuses=instance.default_refuses,
            reload=self.config.postfix.reload,
            reload_now=instance.reload_age >= self.reload_age,
        )

    async def _bring_about(
        self,
        wanted: Wanted,
        desired: Desired,
        steps: Plan,
        installed: Installed,
        whose: Callable[[str], str],
    ) -> None:
        """What is known is on the disk before what is made of it."""
        self.generations.discard_staged()
        self.hosts.discard_staged()
        if not self.hold:  # nothing of what the sources say is let through then
            await self._record(wanted)
            if any(steps.changes.values()):
                await self._keep_present(installed)
        await self._note_retiring(steps, desired, installed)
        waits = steps.waits
        if steps.steps or installed.interrupted:
            waits = await self._apply(steps, desired, installed, whose)
        if steps.changes[RECIPIENTS].removed or steps.changes[ALIASES].removed:
            # A session that began during the sync may still accept what was removed.
            await self._note_retiring(steps, desired, installed)
        if waits:  # also where another sync has made all steps that come before the reload
            self.is_whole = False
            if self.directory.owed_for() > TURN_TAKES:
                self.failed.append(no_turn())
            self.waits = max(self.reload_age - self.directory.postfix.reload_age, SHORTEST_WAIT)
        if self.is_whole and (not self.hold or self.as_held):
            await self._keep(desired.maps)
        if not self.hold and len(wanted.records) == len(self.config.sources):
            for name in self._unconfigured():
                self.records.remove(name)

    async def _note_retiring(self, steps: Plan, desired: Desired, installed: Installed) -> None:
        """Notes what is not needed from now on; what can't be noted is told, and stays longer."""
        record = retirement_record_of(self.config)
        old = record.read()
        new = await run_in_daemon_thread(noted, old, steps, installed, desired, time.time())
        try:
            if new != old:
                record.write(new)
        except SyncError as error:
            self.failed.append(error)

    async def _record(self, wanted: Wanted) -> None:
        self.records.discard_staged()
        for name, record in wanted.records.items():
            try:
                if record != self.recorded_before.get(name):
                    await self.records.write(name, record)
            except SyncError as error:
                # No list has to wait for that: see `decide` for what is not in any record.
                self.failed.append(error)
            else:
                if name in wanted.let_through:
                    self.recorded[name] = self.records.stamp(name)

    async def _keep_present(self, installed: Installed, spare: int | None = None) -> None:
        """Keeps what is about to change, where no pass has: an older version's, or a killed one.

        `spare` is the generation that it changes to, and must not go for it.
        """
        present = installed.readable
        in_doubt = installed.interrupted or any(
            one.condition is Condition.STALE for one in installed.maps.values()
        )
        if present and not in_doubt and self.directory.texts():
            await self._keep(present, spare)

    async def _keep(self, maps: Maps, spare: int | None = None) -> None:
        """Keeps what is installed as a generation; of a held one, notes that it is installed.

        A generation has host names where routes have their addresses instead, so that it is the
        same one after a container has moved, and leads to where that is when it is put back.
        """
        texts = self.directory.texts()
        noted = self.generations.installed(texts)
        try:
            if self.as_held:
                if noted != self.as_held:
                    self.generations.note(self.as_held, texts)
            elif not noted:
                tables = maps.served()
                tables = replace(tables, routes=moved(tables.routes, self.replaced))
                names = host_names(tables.routes)
                kept_out = {hop.host: there.host for there, hop in self.replaced.items()}
                known = {**self.hosts.read().block, **kept_out}
                hosts = {name: known[name] for name in sorted(names & known.keys())}
                await self.generations.keep(tables, hosts, texts, spare=spare)
        except SyncError as error:
            self.notices.append(Notice(error.message, error.hint))  # no list waits for that

    async def _apply(
        self,
        steps: Plan,
        desired: Desired,
        installed: Installed,
        whose: Callable[[str], str],
    ) -> bool:
        """Carry the plan out; whether the rest of it waits for a reload."""
        outcome = await carry_out(steps, installed, self.directory, self.hosts, self.lock)
        if outcome.without_hosts:
            self.is_whole = False
            desired = self._without_names(outcome.without_hosts, desired, installed)
            installed = replace(installed, hosts_copied=True)  # it can't be, and is no reason
            steps = await run_in_daemon_thread(plan, installed, desired, self._reading())
            outcome = await carry_out(steps, installed, self.directory, self.hosts, self.lock)
        self.reloads = outcome.reloads
        self.lines += outcome.lines
        self.is_whole &= not outcome.error
        rerouted = MOVED_LISTS in installed.unseen or not REROUTING.isdisjoint(steps.kinds)
        self.rerouted = rerouted and not steps.waits
        for diff in (steps.changes[name] for name in outcome.published):
            self.entries["added"] += len(diff.added)
            self.entries["removed"] += len(diff.removed)
            self.entries["changed"] += len(diff.changed)
        for party, line in log_lines(steps, installed, outcome.published, whose):
            self.changed.add(party)
            self.lines.append(line)
        if outcome.error:
            self.failed.append(outcome.error)
        return steps.waits and not outcome.error

    def _without_names(self, error: SyncError, desired: Desired, installed: Installed) -> Desired:
        """What can be brought about where the hosts file could not be written.

        A name that it lacks costs the lists that are routed to it, and no others. Raises `error`
        where it is not known what to keep.
        """
        present = installed.readable
        if not present:
            raise error
        lacking = self.hosts.lacking(desired.hosts)
        keys = {
            key
            for key, value in desired.maps[ROUTES].items()
            if any(hop.host in lacking for hop in parse_next_hops(value))
        }
        told = error
        if keys:
            needed = f"held back, for want of {' and '.join(sorted(lacking))} there"
            left = named("list", lists_of(keys))
            told = type(error)(
                f"{error.message}; {needed}: {left}; every other list goes in", error.hint
            )
        self.failed.append(told)
        return Desired(held_back(desired.maps, present, keys), installed.hosts)

    async def _check_wiring(self, wanted: Wanted, goal: Desired) -> None:
        postfix = self.directory.postfix
        ours = installation(self.config, self.directory.map_type, bool(goal.hosts))
        classes = await classify(Tables(postfix, ours, goal.maps.tables, asks_others=False))
        built = self.directory.is_built  # always, but in a dry run before the first pass
        first = "" if built else self.config.command("--once")
        self.notices += requirements.notices(postfix, ours, classes, first)
        self.notices += type_notices(self.directory.kind, self.config.command("doctor"))
        if any(party.replicas for party in wanted.merged.parties):
            self.notices += cluster_notices(postfix)

    def _undecided(self, installed: Installed, wanted: Wanted) -> SyncError:
        """What to tell where nothing can be done for want of knowledge."""
        broken = ", ".join(
            str(self.directory.path / name)
            for name, one in installed.maps.items()
            if one.table is None
        )
        unknown = ", ".join(
            one.name for one in self.config.sources if one.name not in wanted.records
        )
        return ApplyError(
            f"{broken}: can't be read, and nothing is known of {unknown}: what has to stay can't be"
            " told; the maps are left as they are",
            f"mend what keeps {unknown} from answering; or remove {broken}, and its lists with it",
        )

    def _report(self, wanted: Wanted, answers: Mapping[str, Fetched]) -> Report:
        tables: dict[str, Table | None] = {}
        known_hosts: dict[str, str] = {}
        try:
            tables = self.directory.tables()
            known_hosts = self.hosts.read().lookup()
        except SyncError as error:
            # Damaged markers are told above, and no error where no hosts entry is wanted.
            if not tables:
                self.failed.append(error)
        readable = {name: table for name, table in tables.items() if table is not None}
        installed = Maps(readable) if tables and len(readable) == len(tables) else None
        return Report(
            failed=tuple(self.failed),
            sources={
                one.name: self._source_report(one, wanted, installed, answers.get(one.name))
                for one in self.config.sources
            },
            notices=tuple(self.notices),
            lines=tuple(self.lines),
            preview=tuple(self.preview),
            pending=tuple(self.pending),
            map_type=self.directory.map_type,
            installed=installed,
            updated=self.directory.updated(),
            known_hosts=known_hosts,
            clusters={
                party.name: party.replicas for party in wanted.merged.parties if party.replicas
            },
            entries=self.entries,
            reloads=self.reloads,
            rerouted=self.rerouted,
            waits=self.waits,
            generation=self.generations.installed(self.directory.texts()),
            held=self.hold,
            waiting=self.waiting,
            families=self.directory.postfix.families,
        )

    def _source_report(
        self,
        source: "SourceSection",
        wanted: Wanted,
        installed: Maps | None,
        answer: Fetched | None,
    ) -> SourceReport:
        name = source.name
        at = answer.at if answer and name not in self.outdated else None
        has_failed = answer is not None and answer.error is not None
        served: AbstractSet[str] = frozenset()
        if installed:
            served = wanted.served(name) & installed[RECIPIENTS].keys()
        return SourceReport(
            errors=tuple(wanted.errors[name]),
            lists=len(lists_of(served)),
            entries=len(served),
            changed=(source.cluster or name) in self.changed,
            stamp=self.recorded.get(name),
            answered_at=None if has_failed else at,
            failed_at=at if has_failed else None,
            outdated=name in self.outdated,
        )


def _whose(
    wanted: Wanted, asked: Sequence[Asked], forgotten: Mapping[str, Record]
) -> Callable[[str], str]:
    """Names the party that a key is, or was, served for."""
    owners = [(party.name, party.tables) for party in wanted.merged.parties]
    owners += [(one.party, one.recorded.tables) for one in asked if one.recorded]
    owners += [(name, record.tables) for name, record in forgotten.items()]
    unknown = ", ".join(dict.fromkeys(one.party for one in asked))
    return lambda key: next((name for name, tables in owners if tables.names(key)), unknown)
