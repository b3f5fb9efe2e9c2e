"""Read a source as the project does, and return its bytes instead of tables."""

from dataclasses import dataclass, field
from typing import Any

from postfix_sync.model.source import Snapshot, SourceFile
from postfix_sync.reconcile.fetch import Source


@dataclass(frozen=True)
class Content:
    """One file of a source, in memory."""

    place: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Contents:
    """The files of a source, in memory."""

    lmtp: Content
    domains: Content
    vmap: Content | None


def contents_of(snapshot: Snapshot) -> Contents:
    """Read all open files."""

    def read(file: SourceFile) -> Content:
        file.stream.seek(0)
        return Content(file.place, file.stream.read(file.size))

    vmap = read(snapshot.vmap) if snapshot.vmap else None
    return Contents(read(snapshot.lmtp), read(snapshot.domains), vmap)


async def never(_result: Any) -> bool:
    """Return false: no result counts before its files are quiet."""
    return False


async def fetch(source: Source) -> Contents | None:
    """Return the files once they are quiet; None if none of them changed since the last time."""
    return await source.read(contents_of, never)
