"""Hold the lock, and open what a sync changes under it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.map_type import choose_map_type
from postfix_sync.postfix.main_cf.parameter import Installation
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.store.generations import Generations
from postfix_sync.store.hold import HoldFile
from postfix_sync.store.known_texts import KnownTexts
from postfix_sync.store.records import Records
from postfix_sync.store.retirement_record import RetirementRecord
from postfix_sync.store.state_directory import (
    LOCK_NAME,
    generations_of,
    hold_file_of,
    known_texts_of,
    records_of,
    retirement_record_of,
)
from postfix_sync.system.lock import lock

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


@dataclass(frozen=True)
class Locked:
    """What a sync reads and changes, while no other process does."""

    config: "Config"
    directory: MapDirectory
    hosts: HostsFiles
    lock: int
    """The lock's descriptor, for commands to inherit."""

    @property
    def records(self) -> Records:
        """The last good lists of each source."""
        return records_of(self.config)

    @property
    def generations(self) -> Generations:
        """The last states of the maps."""
        return generations_of(self.config)

    @property
    def hold_file(self) -> HoldFile:
        """The file of the hold."""
        return hold_file_of(self.config)

    @property
    def known_texts(self) -> KnownTexts:
        """The entries of the installed texts."""
        return known_texts_of(self.config)

    @property
    def retirement(self) -> RetirementRecord:
        """What is kept for a while, and removed later."""
        return retirement_record_of(self.config)

    def unconfigured(self) -> list[str]:
        """List the sources that have a record and are no longer configured."""
        return sorted(self.records.sources() - {source.name for source in self.config.sources})


@contextlib.asynccontextmanager
async def locked(
    config: "Config", inspector: Inspector | None = None, *, create: bool = True
) -> AsyncIterator[Locked]:
    """Hold the lock; `create` makes its file if there is none.

    Postfix is inspected under the lock, since the previous holder may have changed main.cf, and the
    type of the maps with it. `inspector` has inspected it before.

    Raises:
        ConfigError: no map can be built.
        Busy: another process holds the lock for too long.
    """
    map_directory = config.postfix.map_directory
    async with lock(config.state_directory / LOCK_NAME, create=create) as held:
        instance = await (inspector or Inspector(config.postfix.config_directory)).inspect()
        map_type = choose_map_type(instance, map_directory, config.postfix.map_type)
        kind = await instance.index_type(map_type)
        directory = MapDirectory(map_directory, kind, instance)
        yield Locked(config, directory, _hosts_files(config, instance), held)


def installation(config: "Config", map_type: str, hosts_used: bool) -> Installation:
    """The maps, as main.cf should name them."""
    volumes = tuple(one.path for one in config.sources if one.ssh is None)
    return Installation(config.postfix.map_directory, map_type, volumes, hosts_used)


def _hosts_files(config: "Config", instance: Postfix) -> HostsFiles:
    chrooted = config.hosts.chroot == "auto" and instance.lmtp.is_chrooted
    return HostsFiles(
        config.hosts.file, instance.queue_directory / "etc/hosts" if chrooted else None
    )
