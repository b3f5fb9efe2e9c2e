"""A source on another host: Mailman's data directory, read by SFTP over a kept SSH connection.

The connection stays open, so that a fetch of an unchanged set is three questions and three answers.
Logging in, and asking, is ssh_connection.py's; here is when a set of files counts as complete, and
as unchanged.
"""

import asyncio
import contextlib
import hashlib
import stat
import time
from pathlib import PurePosixPath

from postfix_sync.errors import Missing, OutOfReach, Refused
from postfix_sync.model import ALIASES, ROUTES, Peer, Snapshot, SourceFile
from postfix_sync.sources import ssh_errors as say
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
"""How often files are read that change meanwhile, however long one read takes."""

COARSE = 2.0
"""Seconds: SFTP's times of change are whole ones. A file may be written twice within one second, to
the same size; so what was read says nothing about that second until it is over, on any clock."""


class Ssh:
    """Mailman's data directory on another host."""

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
        """The address that was connected to last; None before, and through a bastion."""
        return self._peer

    @property
    def misplaced(self) -> None:
        """None: where its files are read, there it is."""

    def forget(self) -> None:
        """The next fetch reads the files and returns them, changed or not."""
        self._taken = None
        self._digest = b""

    async def fetch(self) -> Snapshot | None:
        """The files, whole, once they are quiet; None if they are those returned last.

        Raises:
            OutOfReach: the host is not there, or the files do not come to rest; Missing: a file
                is not there.
            NotPermitted: a key or the login is not accepted, or the user may not read the files.
            Refused: a file isn't a regular one, or is too large.
        """
        try:
            session, state = await self._reached()
            return await self._settled(session, state)
        except (Missing, Refused):
            raise
        except BaseException:
            # What is under way would be answered later, and a user's groups are those of its login.
            await self._hang_up()
            raise

    async def close(self) -> None:
        """Says goodbye, within two seconds."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _reached(self) -> tuple["Session", State]:
        """The first look. A kept connection may have died meanwhile: then a new one is made."""
        if self._session and self._session.is_up:
            with contextlib.suppress(OutOfReach):
                return self._session, await self._look(self._session)
        await self._hang_up()
        self._session = await connect(self._login, self._directory)
        self._peer = Peer((self._session.peer,)) if self._session.peer else None
        return self._session, await self._look(self._session)

    async def _look(self, session: "Session") -> State:
        """The files' state; notes when it was seen first."""
        state = await session.look()
        if state != self._seen[0]:
            self._seen = (state, _now())
        return state

    async def _settled(self, session: "Session", state: State) -> Snapshot | None:
        """Reads the files once two looks agree, and again if they were replaced meanwhile."""
        settled = _now() + SETTLE_AT_MOST
        quiet = state == self._taken
        if quiet and self._certain:
            return None
        reads = 0
        while True:
            await self._check(session, state)
            if not quiet and _now() < settled:
                await asyncio.sleep(QUIET)
                again = await self._look(session)
                state, quiet = again, again == state
                continue
            certain = _now() - self._seen[1] >= COARSE
            snapshot = await self._read(session, state)
            reads += 1
            again = await self._look(session)
            if snapshot and again == state:
                return await self._take(state, snapshot, certain=certain)
            if reads >= READS_AT_LEAST and _now() > settled:
                raise restless(self._place(), self._directory / ROUTES)
            state, quiet = again, False

    async def _take(self, state: State, snapshot: Snapshot, *, certain: bool) -> Snapshot | None:
        digest = await run_in_daemon_thread(_digest, snapshot)
        news = digest != self._digest
        self._taken, self._certain, self._digest = state, certain, digest
        return snapshot if news else None

    async def _check(self, session: "Session", state: State) -> None:
        """Raises what is wrong with files that Mailman would not have written like that."""
        for name, found in zip(NAMES, state, strict=True):
            path = self._directory / name
            if found is None:
                if name != ALIASES:
                    there = await session.has_directory()
                    raise say.missing(
                        self._place(name), session.server, self._directory, there=there
                    )
                continue
            if not stat.S_ISREG(found.mode):
                raise not_regular(self._place(name), kind(found.mode), self._directory)
            if not found.mode & 0o444:
                # root could read it, but whoever took the bits meant it
                raise say.denied(self._place(name), session.server, path, found.owner, None)
            if found.size > self._max_size:
                raise too_large(self._place(name), found.size, self._max_size)

    async def _read(self, session: "Session", state: State) -> Snapshot | None:
        """The files' content; None if one of them is no longer what it was."""
        contents = await session.read(state)
        lmtp, domains, vmap = (
            None if content is None else SourceFile(self._place(name), content)
            for name, content in zip(NAMES, contents, strict=True)
        )
        if lmtp is None or domains is None or (vmap is None and state[-1] is not None):
            return None
        return Snapshot(lmtp, domains, vmap)

    def _place(self, name: str = "") -> str:
        """As scp(1) writes it."""
        host = f"[{self._login.host}]" if ":" in self._login.host else self._login.host
        return f"{host}:{self._directory / name}"

    async def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session:
            await session.abort()


def _now() -> float:
    """Seconds, on a clock that nobody sets."""
    return time.monotonic()


def _digest(snapshot: Snapshot) -> bytes:
    """Tells one set of contents from another."""
    found = hashlib.sha256()
    for file in (snapshot.lmtp, snapshot.domains, snapshot.vmap):
        found.update(b"-" if file is None else b"%d:" % len(file.content))
        found.update(file.content if file else b"")
    return found.digest()
