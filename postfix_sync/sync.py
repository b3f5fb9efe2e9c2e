"""One pass, from top to bottom: read what is installed, fetch what is wanted, plan, apply, report.

A pass is level-triggered: it acts on the difference between the disk and the source, and why it was
started plays no part. So a pass that was killed is completed by the next one, and a daemon and a
`--once` beside it agree.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from postfix_sync import changes, postfix, wiring
from postfix_sync.apply import Apply
from postfix_sync.errors import ApplyError, Exit, HalfWritten, SyncError, why, worst
from postfix_sync.hosts_files import HostsFiles
from postfix_sync.maps import MapDirectory
from postfix_sync.model import (
    DOMAINS,
    RECIPIENTS,
    ROUTES,
    Installed,
    MailmanTables,
    Maps,
    Notice,
    Table,
)
from postfix_sync.plan import Plan, guard, plan
from postfix_sync.sources.volume import SETTLE_AT_MOST, Volume
from postfix_sync.system import lock
from postfix_sync.tables import lists_of, next_hops_of, read_tables

if TYPE_CHECKING:
    from postfix_sync.config import Config

LOCK_NAME = "lock"
HALF_WRITTEN_POLL = 0.2


@dataclass(frozen=True)
class Report:
    """What a pass found and did."""

    errors: tuple[SyncError, ...] = ()
    notices: tuple[Notice, ...] = ()
    lines: tuple[str, ...] = ()
    """What changed, for the log."""
    preview: tuple[str, ...] = ()
    """What a pass that is no dry run would change."""
    map_type: str = ""
    installed: Maps | None = None
    """What Postfix works with after the pass; None where that can't be known."""
    updated: Mapping[str, float] = field(default_factory=dict)
    """When each map was last published, in seconds since the epoch."""
    known_hosts: Mapping[str, str] = field(default_factory=dict)
    """Host names with the addresses that the hosts file gives them."""

    @property
    def changed(self) -> bool:
        """Whether anything was changed, or had to be made anew."""
        return bool(self.lines)

    @property
    def status(self) -> Exit:
        """The exit status of the pass, without that of the probes after it."""
        return worst(error.status for error in self.errors)


async def make_pass(config: "Config", *, force: bool = False, dry_run: bool = False) -> Report:
    """Makes one pass. What an operator can mend is in the report's errors, not raised.

    `force` overrides the guards; `dry_run` writes nothing at all.
    """
    try:
        instance = await postfix.inspect(config.postfix.config_directory)
        map_directory = config.postfix.map_directory
        map_type = wiring.choose_map_type(instance, map_directory, config.postfix.map_type)
        async with lock(config.state_directory / LOCK_NAME, create=not dry_run) as held:
            directory = MapDirectory(map_directory, map_type, instance)
            one = _Pass(config, directory, _hosts_files(config, instance), held)
            return await one.make(force=force, dry_run=dry_run)
    except SyncError as error:
        return Report(errors=(error,))
    except OSError as error:
        # What no step foresaw, such as a file that somebody removes while it is looked at.
        failed = ApplyError(f"{error.filename or 'the pass'}: {why(error)}")
        return Report(errors=(failed,))


def _hosts_files(config: "Config", instance: postfix.Postfix) -> HostsFiles:
    chrooted = config.hosts.chroot == "auto" and instance.lmtp_chrooted
    return HostsFiles(
        config.hosts.file, instance.queue_directory / "etc/hosts" if chrooted else None
    )


class _Pass:
    """One pass under the lock."""

    def __init__(
        self, config: "Config", directory: MapDirectory, hosts: HostsFiles, held: int
    ) -> None:
        self.config = config
        self.directory = directory
        self.hosts = hosts
        self.held = held
        self.errors: list[SyncError] = []
        self.notices: list[Notice] = []
        self.lines: list[str] = []
        self.preview: list[str] = []

    async def make(self, *, force: bool, dry_run: bool) -> Report:
        installed = await self.directory.read()
        wanted = await self._wanted(installed, force=force)
        if wanted:
            steps = plan(installed, wanted, self.directory.map_type, self.config.postfix.reload)
            try:
                names = self._names(wanted[ROUTES])
                if dry_run:
                    self._preview(steps, names)
                else:
                    await _to_its_end(self._apply(steps, wanted, names, installed))
            except SyncError as error:
                self.errors.append(error)
            self._check_wiring(wanted)
        return self._report()

    async def _wanted(self, installed: Installed, *, force: bool) -> Maps | None:
        """What the source asks for; where it can't be had, what is installed, if that is known."""
        try:
            tables = await self._read_source()
            if not force:
                guard(
                    self.config.source.name,
                    lists_of(installed.table(RECIPIENTS) or installed.table(ROUTES)),
                    lists_of(tables.routes),
                    self.config.policy,
                )
        except SyncError as error:
            self.errors.append(error)
            return installed.readable
        return Maps.of(tables)

    async def _read_source(self) -> MailmanTables:
        """What the source says; files that contradict each other get time to be completed."""
        source = Volume(self.config.source.path, self.config.guard.max_size)
        give_up = time.monotonic() + SETTLE_AT_MOST
        while True:
            snapshot = await source.fetch()
            try:
                return await asyncio.to_thread(
                    read_tables, snapshot, self.directory.postfix.fold, self.config.policy
                )
            except HalfWritten:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(HALF_WRITTEN_POLL)

    def _names(self, routes: Table) -> dict[str, str]:
        """The host names that the hosts file is to give the source's address."""
        address = self.config.source.address
        if not address:
            return {}
        foreign = self.hosts.read().foreign()
        names = {}
        for host in sorted(_hosts_of(routes)):
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

    def _preview(self, steps: Plan, names: Mapping[str, str]) -> None:
        if self._hosts_in_use():
            block, stale = self.hosts.read().block, self.hosts.stale(names)
            self.preview += changes.preview_hosts(self.hosts.path, block, names, stale)
        self.preview += changes.preview(steps)

    async def _apply(
        self, steps: Plan, wanted: Maps, names: Mapping[str, str], installed: Installed
    ) -> None:
        """Hosts before the routes that need them, and after the last of them."""
        in_use = self._hosts_in_use()
        if in_use:
            self._widen_hosts(names)
        if steps.steps or installed.interrupted:
            apply = Apply(self.directory, self.held, self.lines.append)
            try:
                await apply.run(steps)
            finally:
                done = apply.published_of(wanted)
                self.lines += changes.log_lines(self.config.source.name, steps, installed, done)
        if in_use:
            self._narrow_hosts(names)

    def _hosts_in_use(self) -> bool:
        """Whether the hosts file concerns this pass: names are wanted there, or were once."""
        try:
            return bool(self.hosts.read().block) or bool(self.config.source.address)
        except SyncError as error:
            if self.config.source.address:
                raise
            self.notices.append(Notice(error.message, error.hint))
            return False

    def _widen_hosts(self, names: Mapping[str, str]) -> None:
        self.hosts.discard_staged()
        if self.hosts.write({**self.hosts.read().block, **names}):
            known = ", ".join(f"{host} is {address}" for host, address in names.items())
            self.lines.append(f"{self.hosts.path}: {known or 'the copy in the chroot was renewed'}")

    def _narrow_hosts(self, names: Mapping[str, str]) -> None:
        """Takes out what no route needs; routes of removed lists may have stayed."""
        routes = self.directory.tables()[ROUTES] or {}
        needed = _hosts_of(routes) if self.config.source.address else set()
        block = self.hosts.read().block
        self.hosts.write(
            {host: ip for host, ip in block.items() if host in names or host in needed}
        )

    def _check_wiring(self, wanted: Maps) -> None:
        needs_hosts = bool(self.config.source.address and _hosts_of(wanted[ROUTES]))
        self.notices += wiring.notices(
            self.directory.postfix,
            self.directory.path,
            self.directory.map_type,
            wanted[DOMAINS].keys(),
            hosts_used=needs_hosts,
        )

    def _report(self) -> Report:
        tables: dict[str, Table | None] = {}
        known_hosts: dict[str, str] = {}
        try:
            tables = self.directory.tables()
            known_hosts = self.hosts.read().lookup()
        except SyncError as error:
            # Damaged markers are told above, and no error where no hosts entry is wanted.
            if not tables:
                self.errors.append(error)
        readable = {name: table for name, table in tables.items() if table is not None}
        return Report(
            errors=tuple(self.errors),
            notices=tuple(self.notices),
            lines=tuple(self.lines),
            preview=tuple(self.preview),
            map_type=self.directory.map_type,
            installed=Maps(readable) if tables and len(readable) == len(tables) else None,
            updated=self.directory.updated(),
            known_hosts=known_hosts,
        )


def _hosts_of(routes: Table) -> set[str]:
    """The host names, not addresses, that routes lead to."""
    return {destination.host for destination in next_hops_of(routes) if destination.is_name}


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits `work` to its end, also when this task is cancelled meanwhile.

    The task goes on then, to tell what was done; `interrupted` says that it should end.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.result()


def interrupted() -> bool:
    """Whether this task was to end while it was applying a plan, and did not for that reason."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())
