"""A source on another host: Mailman's data directory, read by SFTP over a kept SSH connection.

The connection is kept open, so that a poll of unchanged files is three requests and three replies.
ssh_login.py logs in and ssh_session.py sends the requests; this module decides when a set of files
is complete, and whether it has changed.
"""

import asyncio
import contextlib
import hashlib
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

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
from postfix_sync.sources.ssh_session import Session, State, no_copy
from postfix_sync.system.files import kind
from postfix_sync.system.threads import run_in_daemon_thread

T = TypeVar("T")

READS_AT_LEAST = 3
"""The number of reads before files that change during each read are an error."""

COARSE = 2.0
"""Seconds: SFTP reports times of change in whole seconds, so a file that is written twice within
one second, with the same size, has the same state. What was read is certain only if its state was
first seen this long before: by then that second is over, on any clock."""


class _Copy(NamedTuple):
    """Copies of the files, and the state that the files have had since before they were copied."""

    snapshot: Snapshot
    state: State
    certain: bool
    """Whether another version of a file would have another state."""


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

    async def read(
        self, parse: Callable[[Snapshot], T], _is_safe: Callable[[T], Awaitable[bool]]
    ) -> T | None:
        """Parse all files, once they are quiet; return None if they equal those parsed last.

        Raises what `parse` raises, and:
            OutOfReach: the host is unreachable, or the files change too fast.
            Missing: a file does not exist.
            NotPermitted: a key or the login is not accepted, or the user is not permitted to read
                the files.
            Refused: a file is not a regular file, or is too large.
        """
        with contextlib.ExitStack() as opened:
            copy = await self._copied(opened)
            if copy is None:
                return None
            files = opened.pop_all()  # the thread closes them, so not before it has read them
        known = self._digest
        digest, result = await run_in_daemon_thread(_parsed, parse, copy.snapshot, files, known)
        self._taken, self._certain, self._digest = copy.state, copy.certain, digest
        return result

    async def _copied(self, files: contextlib.ExitStack) -> "_Copy | None":
        """Copy the files to temporary files, which `files` closes; None if none has changed."""
        try:
            session, state = await self._connected()
            return await self._settled(session, state, files)
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

    async def _settled(
        self, session: "Session", state: State, files: contextlib.ExitStack
    ) -> "_Copy | None":
        """Copy the files once two states agree, and again if one was replaced meanwhile."""
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
            files.close()
            snapshot = await self._read(session, state, files)
            reads += 1
            again = await self._check_state(session)
            if snapshot and again == state:
                return _Copy(snapshot, state, certain)
            if reads >= READS_AT_LEAST and _now() > settled:
                raise restless(self._place(), self._directory / ROUTES)
            state, quiet = again, False

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

    async def _read(
        self, session: "Session", state: State, files: contextlib.ExitStack
    ) -> Snapshot | None:
        """Copy the files; return None if one of them differs from `state`."""
        copies = await session.read(state, files)
        lmtp, domains, vmap = (
            SourceFile(self._place(name), copy, found.size) if copy and found else None
            for name, copy, found in zip(NAMES, copies, state, strict=True)
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


def _parsed(
    parse: Callable[[Snapshot], T], snapshot: Snapshot, files: contextlib.ExitStack, known: bytes
) -> tuple[bytes, T | None]:
    """Return the digest of the files, and what `parse` returns; None if the digest is `known`."""
    with files:
        try:
            digest = _digest(snapshot)
            return digest, None if digest == known else parse(snapshot)
        except OSError as error:
            raise no_copy(error) from None


def _digest(snapshot: Snapshot) -> bytes:
    """Return a digest of the files' content."""
    found = hashlib.blake2b()
    for file in (snapshot.lmtp, snapshot.domains, snapshot.vmap):
        found.update(b"-" if file is None else b"%d:" % file.size)
        while file and (piece := file.stream.read(file.piece)):
            found.update(piece)
    return found.digest()
