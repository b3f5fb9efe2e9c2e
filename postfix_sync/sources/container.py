"""A source on this host whose Mailman runs in a container, and whose address the engine knows.

The files are read from a volume. A container's address can change at any time without any change
of a file. So each fetch inspects the container as well, and the engine's events start another
inspection. If the container can't be inspected, the files are read all the same.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from postfix_sync.containers.engine import Engine
from postfix_sync.errors import SyncError
from postfix_sync.model.destination import Peer
from postfix_sync.model.source import Snapshot
from postfix_sync.sources.local import Volume

T = TypeVar("T")

BURST = 0.1
"""Seconds in which events count as one: an engine reports several events for each start."""

RESTART = 2.0
"""Seconds for which a container that has gone is not reported, because it may be restarting."""


@dataclass
class Contained:
    """A source: Mailman's data directory on this host, and the container that runs Mailman."""

    volume: Volume
    engine: Engine
    container: str
    peer: Peer | None = None
    """The addresses at which this host last reached the container."""
    misplaced: SyncError | None = field(default=None)
    """Why the last inspection found no address; None if it found one."""

    async def read(
        self, parse: Callable[[Snapshot], T], is_safe: Callable[[T], Awaitable[bool]]
    ) -> T:
        """Parse the files as `Volume.read` does, and set `peer` or `misplaced`."""
        try:
            self.peer, self.misplaced = await self.engine.place(self.container), None
        except SyncError as error:
            self.misplaced = error
        return await self.volume.read(parse, is_safe)

    def forget(self) -> None:
        """Do nothing: the files are read each time."""

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def changes(self) -> AsyncIterator[None]:
        """Yield when the files may have changed; see `Volume.changes`."""
        return self.volume.changes()

    async def moves(self) -> AsyncIterator[None]:
        """Yield when the container has got another address, or has lost its address.

        The engine does not report events from before this call, so the first inspection needs no
        event.

        Raises:
            OutOfReach: the engine's events have ended, as they do when the engine is restarted.
            ApplyError, ConfigError: the command that prints the events can't be run.
        """
        reported: Peer | str | None = None
        async with self.engine.events() as events:
            wait: float | None = RESTART
            while True:
                heard = await events.prints(wait)
                wait = None
                if heard:
                    await asyncio.sleep(BURST)
                known: Peer | str | None = self.misplaced.message if self.misplaced else self.peer
                now: Peer | str
                try:
                    now = await self.engine.place(self.container)
                except SyncError as error:
                    now = error.message
                    if heard and now != known:
                        wait = RESTART
                        continue
                if now == known:
                    reported = None
                elif now != reported:  # once it is reported, a fetch is under way
                    reported = now
                    yield
