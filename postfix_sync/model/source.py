"""What a source says: its files, its lists, the last good ones, and what it is permitted. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.destination import Destination, Peer
from postfix_sync.model.table import Table

PIECE = 2**18
"""Bytes of a file that are read at once. As so many blank lines, each of which is a tile
(mailman/tiles.py), they take 50 MB; any piece holds the interpreter's lock for less than 0.1 s."""


class Stream(Protocol):
    """The content of an open file; see BinaryIO."""

    def seek(self, offset: int, /) -> int:
        """Go to a position."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes."""


@dataclass(frozen=True)
class SourceFile:
    """One open file of a source: its place, for messages, and its bytes, which are not in memory.

    It has `size` bytes. The source that opened it closes it, and checks that it did not change.
    """

    place: str
    stream: Stream
    size: int
    piece: int = PIECE
    """Bytes that are read at once."""


@dataclass(frozen=True)
class Snapshot:
    """The files of one source at one moment; `vmap` is None if Mailman has no alias domain."""

    lmtp: SourceFile
    domains: SourceFile
    vmap: SourceFile | None


class Block(NamedTuple):
    """A part of a file between two lists, which begins with a list (mailman/blocks.py)."""

    size: int
    """In bytes."""
    digest: str
    lists: int
    """The number of its lists."""
    others: int
    """The number of its comments and blank lines."""


class Blocks(NamedTuple):
    """The blocks of a file, without its header, in order."""

    regex: bool
    """Whether its keys are regular expressions."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Origin:
    """What tables were read from, so that only what has changed of it need be parsed again."""

    reader: str
    """How the files were read: by which version, and within which limits."""
    read_at: float
    """When the files were read as a whole last, in seconds since the epoch."""
    files: Mapping[str, Blocks]
    """By name, the files whose lists the tables have in order."""


@dataclass(frozen=True)
class MailmanTables:
    """The tables of one Mailman: routes, aliases, and its mail domains with their mail hosts."""

    routes: Table[str]
    domains: Mapping[str, str]
    aliases: Aliases
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls, routes: Mapping[str, str], domains: Mapping[str, str], aliases: Mapping[str, str]
    ) -> "MailmanTables":
        """Return the tables with these entries by address or domain."""
        return cls(Table.of(routes), domains, Aliases.of(aliases))

    def names(self, key: str) -> bool:
        """Return whether one of the tables has this key."""
        return key in self.routes or key in self.aliases or key in self.domains


@dataclass(frozen=True)
class Record:
    """The last good lists of one source."""

    tables: MailmanTables
    peer: Peer | None = None
    """The addresses at which this host last reached the source."""
    left_out: frozenset[str] = frozenset()
    """The source's lists that are not served, because another source had one of their addresses
    first."""


@dataclass(frozen=True)
class Policy:
    """The limits that the configuration sets for a source's content, and its guards."""

    domains: frozenset[str] = frozenset()
    destination: Destination | None = None
    is_placed: bool = False
    """Whether an engine gives the address, so that the host that Mailman wrote is not checked."""
    allow_empty: bool = False
    max_removed: float = 0.5
    override: str = "postfix-sync --once --force"
    """The command that makes a sync without the guards, as an operator types it."""

    def unguarded(self) -> "Policy":
        """Return the policy without its guards."""
        return replace(self, allow_empty=True, max_removed=1.0)
