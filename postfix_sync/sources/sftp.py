"""A source on another host: Mailman's data directory, read by SFTP over a kept SSH connection.

The connection is kept open, so that a fetch of unchanged files is three requests and three replies.
ssh_login.py logs in and ssh_session.py sends the requests; this module decides when a set of files
is complete, and whether it has changed.
"""

import asyncio
import contextlib
import hashlib
import stat
import time
from pathlib import PurePosixPath

from postfix_sync.errors import Missing, OutOfReach, Refused
from postfix_sync.model.destination import Peer
from postfix_sync.model.map_names import ALIASES, ROUTES
from postfix_sync.model.source import Snapshot, SourceFile
from postfix_sync.sources import ssh_errors
from postfix_sync.sources.mailman_files import (
    NAMES,
    QUIET,
    SETTLE_AT_MOST,
    not_regular,
    restless,
    too_large,
)
from postfix_sync.sources.ssh_login import Login, connect
from postfix_sync.sources.ssh_session import Session, State
from postfix_sync.system.files import kind
from postfix_sync.system.threads import run_in_daemon_thread

READS_AT_LEAST = 3
"""The number of reads before files that change during each read are an error."""

COARSE = 2.0
"""Seconds: SFTP reports times of change in whole seconds, so a file that is written twice within
one second, with the same size, has the same state. What was read is certain only if its state was
first seen this long before: by then that second is over, on any clock."""


class Ssh:
    """A source: Mailman's data directory on another host."""

    def __init__(self, login: Login, directory: PurePosixPath, max_size: int) -> None:
        self._login = login
        self._directory = directory
        self._max_size = max_size
        self._session: Session | None = None
        self._peer: Peer | None = None
        self._seen: tuple[State, float] = ((), 0.0)
        self._taken: State | None = None
        self._certain = False
        self._digest = b""

    @property
    def peer(self) -> Peer | None:
        """Return the address of the last connection; None without one, and through a bastion."""
        return self._peer

    @property
    def misplaced(self) -> None:
        """Return None: the address is that of the connection, so no lookup can fail."""

    def forget(self) -> None:
        """Make the next fetch read the files and return them, changed or not."""
        self._taken = None
        self._digest = b""

    async def fetch(self) -> Snapshot | None:
        """Read all files, once they are quiet; return None if they equal those returned last.

        Raises:
            OutOfReach: the host is unreachable, or the files change too fast.
            Missing: a file does not exist.
            NotPermitted: a key or the login is not accepted, or the user is not permitted to read
                the files.
            Refused: a file is not a regular file, or is too large.
        """
        try:
            session, state = await self._connected()
            return await self._settled(session, state)
        except (Missing, Refused):
            raise
        except BaseException:
            # The server would answer pending requests later; and a user who has joined a group has
            # its permissions only after another login.
            await self._hang_up()
            raise

    async def close(self) -> None:
        """Close the connection in order, within CLOSE_TIMEOUT."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _connected(self) -> tuple["Session", State]:
        """Return a session and the files' state; log in again if the kept connection is dead."""
        if self._session and self._session.is_up:
            with contextlib.suppress(OutOfReach):
                return self._session, await self._check_state(self._session)
        await self._hang_up()
        self._session = await connect(self._login, self._directory)
        self._peer = Peer((self._session.peer,)) if self._session.peer else None
        return self._session, await self._check_state(self._session)

    async def _check_state(self, session: "Session") -> State:
        """Return the files' state, and note when this state was first seen."""
        state = await session.state()
        if state != self._seen[0]:
            self._seen = (state, _now())
        return state

    async def _settled(self, session: "Session", state: State) -> Snapshot | None:
        """Read the files once two states agree, and again if they were replaced during the read."""
        settled = _now() + SETTLE_AT_MOST
        quiet = state == self._taken
        if quiet and self._certain:
            return None
        reads = 0
        while True:
            await self._check(session, state)
            if not quiet and _now() < settled:
                await asyncio.sleep(QUIET)
                again = await self._check_state(session)
                state, quiet = again, again == state
                continue
            certain = _now() - self._seen[1] >= COARSE
            snapshot = await self._read(session, state)
            reads += 1
            again = await self._check_state(session)
            if snapshot and again == state:
                return await self._take(state, snapshot, certain=certain)
            if reads >= READS_AT_LEAST and _now() > settled:
                raise restless(self._place(), self._directory / ROUTES)
            state, quiet = again, False

    async def _take(self, state: State, snapshot: Snapshot, *, certain: bool) -> Snapshot | None:
        digest = await run_in_daemon_thread(_digest, snapshot)
        changed = digest != self._digest
        self._taken, self._certain, self._digest = state, certain, digest
        return snapshot if changed else None

    async def _check(self, session: "Session", state: State) -> None:
        """Check that the files exist, and their type, mode and size.

        Raises Missing, NotPermitted or Refused.
        """
        for name, found in zip(NAMES, state, strict=True):
            path = self._directory / name
            if found is None:
                if name != ALIASES:
                    there = await session.has_directory()
                    raise ssh_errors.missing(
                        self._place(name), session.server, self._directory, there=there
                    )
                continue
            if not stat.S_ISREG(found.mode):
                raise not_regular(self._place(name), kind(found.mode), self._directory)
            if not found.mode & 0o444:
                # root could read it, but an administrator has removed every read permission.
                raise ssh_errors.denied(self._place(name), session.server, path, found.owner, None)
            if found.size > self._max_size:
                raise too_large(self._place(name), found.size, self._max_size)

    async def _read(self, session: "Session", state: State) -> Snapshot | None:
        """Read the files' content; return None if one of them differs from `state`."""
        contents = await session.read(state)
        lmtp, domains, vmap = (
            None if content is None else SourceFile(self._place(name), content)
            for name, content in zip(NAMES, contents, strict=True)
        )
        if lmtp is None or domains is None or (vmap is None and state[-1] is not None):
            return None
        return Snapshot(lmtp, domains, vmap)

    def _place(self, name: str = "") -> str:
        """Return the place of a file as scp(1) writes it, HOST:PATH."""
        host = f"[{self._login.host}]" if ":" in self._login.host else self._login.host
        return f"{host}:{self._directory / name}"

    async def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session:
            await session.abort()


def _now() -> float:
    """Return seconds of a clock that is never set."""
    return time.monotonic()


def _digest(snapshot: Snapshot) -> bytes:
    """Return a digest of the files' content."""
    found = hashlib.sha256()
    for file in (snapshot.lmtp, snapshot.domains, snapshot.vmap):
        found.update(b"-" if file is None else b"%d:" % len(file.content))
        found.update(file.content if file else b"")
    return found.digest()
