"""The installed state and the desired state. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from postfix_sync.model.destination import Destination
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.model.maps import Maps, table_of
from postfix_sync.model.table import Table


class Condition(Enum):
    """The state of an installed map's index."""

    SOUND = "sound"
    STALE = "stale"
    """The index may differ from the text: it is older, or a sync was interrupted."""
    BROKEN = "broken"
    """Postfix can't read the index: the sync makes a new file, which needs a reload."""


class TextVersion(NamedTuple):
    """What tells the text of a map from other versions; root writes them all, so a sum will do."""

    size: int
    """In bytes."""
    checksum: int
    """Its CRC-32."""


@dataclass(frozen=True)
class KnownText:
    """The text of a map, with its entries."""

    version: TextVersion
    table: Table[str]


@dataclass(frozen=True)
class InstalledMap:
    """One map in map_directory; `table` is None if its text can't be read."""

    table: Table[str] | None
    condition: Condition
    version: TextVersion | None = None
    """The version of its text; None if it has none."""


EVERY_DOMAIN = "*"
"""All mail domains, as a member of `Installed.unseen`."""

MOVED_LISTS = "@"
"""Lists whose next hop has changed, as a member of `Installed.unseen`; not a valid domain."""


@dataclass(frozen=True)
class Installed:
    """The installed state: the maps, the hosts file, and the work that earlier syncs left."""

    maps: Mapping[str, InstalledMap]
    interrupted: bool = False
    """Whether an earlier sync was interrupted and left staged files."""
    reload_owed: bool = False
    """Whether an earlier sync published changes for which Postfix has not been reloaded yet."""
    unseen: frozenset[str] = frozenset()
    """The changes that must wait for the reload: new addresses in these domains, EVERY_DOMAIN,
    MOVED_LISTS."""
    left: frozenset[Destination] = frozenset()
    """The previous destinations of hosts that got another IP address, until Postfix is reloaded."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Our block of the hosts file: host names with their IP addresses."""
    hosts_copied: bool = True
    """Whether the chroot's copy equals the hosts file, or none is needed."""

    def table(self, name: str) -> Table[str]:
        """Return the entries of a map; none if its text can't be read."""
        return self.maps[name].table or table_of(name, {})

    @property
    def readable(self) -> Maps | None:
        """Return all four tables; None if the text of one can't be read."""
        if any(installed.table is None for installed in self.maps.values()):
            return None
        return Maps({name: self.table(name) for name in MAP_NAMES})

    @property
    def texts(self) -> dict[str, KnownText]:
        """Return the texts whose entries are known."""
        return {
            name: KnownText(one.version, one.table)
            for name, one in self.maps.items()
            if one.version and one.table is not None
        }

    def after(self, published: Mapping[str, KnownText]) -> "Installed":
        """Return the installed state after some texts have been published."""
        new = {
            name: replace(self.maps[name], table=text.table, version=text.version)
            for name, text in published.items()
        }
        return replace(self, maps={**self.maps, **new})

    def without(self, entries: Maps) -> "Installed":
        """Return the installed state without the keys of `entries`."""
        return replace(
            self,
            maps={
                name: InstalledMap(old.table.without(entries[name]), old.condition)
                if old.table
                else old
                for name, old in self.maps.items()
            },
        )


@dataclass(frozen=True)
class Desired:
    """The desired state: the maps, and the host names that need an IP address."""

    maps: Maps
    hosts: Mapping[str, str]
    """Names with their IP addresses for our block of the hosts file; empty if no source has an
    `address:`."""
    dropped: frozenset[str] = frozenset()
    """Names that routes still have, but that must leave our block of the hosts file."""
