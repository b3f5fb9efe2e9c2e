"""A source on this host whose Mailman runs in a container: its address is the engine's to say.

The files are those of a volume. Where the container is can change at any moment, and without any
change of a file: so it is asked for with the files each time, and the engine's events tell when it
is worth asking again. What can't be found out keeps nobody from reading the files.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from postfix_sync.containers.engine import Engine
from postfix_sync.errors import SyncError
from postfix_sync.model import Peer, Snapshot
from postfix_sync.sources.local import Volume

TOGETHER = 0.1
"""Seconds in which events count as one: an engine tells several of each start."""

RESTART = 2.0
"""Seconds that a container may be gone without a word about it: it may be starting anew."""


@dataclass
class Contained:
    """Mailman's data directory on this host, and the container in which Mailman runs."""

    volume: Volume
    engine: Engine
    container: str
    peer: Peer | None = None
    """Where this host reached it last."""
    misplaced: SyncError | None = field(default=None)
    """Why that could not be found out the last time."""

    async def fetch(self) -> Snapshot:
        """The files, as the volume has them; and where the container is.

        Raises what the volume raises.
        """
        try:
            self.peer, self.misplaced = await self.engine.place(self.container), None
        except SyncError as error:
            self.misplaced = error
        return await self.volume.fetch()

    def forget(self) -> None:
        """Nothing is remembered but where it was: each fetch reads the files."""

    async def close(self) -> None:
        """Nothing is open."""

    def changes(self) -> AsyncIterator[None]:
        """Yields when the files may have changed; see Volume."""
        return self.volume.changes()

    async def moves(self) -> AsyncIterator[None]:
        """Yields when the container has got another address, or has lost it.

        It ends only with an error: OutOfReach where the engine's events have come to an end, as
        they do when it is restarted; ApplyError or ConfigError where it can't be asked for them.
        What happened until the events arrive, they do not tell: so it is looked at then as well.
        """
        told: Peer | str | None = None
        async with self.engine.events() as events:
            wait: float | None = RESTART
            while True:
                heard = await events.prints(wait)
                wait = None
                if heard:
                    await asyncio.sleep(TOGETHER)
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
                    told = None
                elif now != told:  # told once, it is being asked for
                    told = now
                    yield
