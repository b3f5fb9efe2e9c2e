"""Resolve host names as this instance's lmtp(8) does, which often differs from ping(8).

lmtp(8) runs as another user, on Debian in a chroot, and follows lmtp_host_lookup: it queries the
DNS with a client of its own that ignores the hosts file, or calls getaddrinfo(3) with the chroot's
files, or does the first and then the second. A lookup outside of that environment may have another
result, so each lookup runs in a process with lmtp(8)'s user and root (name_lookup.py).
"""

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.errors import SyncError
from postfix_sync.system.commands import run

DNS, NATIVE = "dns", "native"

TIMEOUT = 15.0
"""Seconds for one lookup. libc queries a name server that does not answer twice, for 5 s each."""

AT_ONCE = 8
"""Lookups under way at the same time, each a process."""

_PROGRAM = Path(__file__).with_name("name_lookup.py")


@dataclass(frozen=True)
class Answer:
    """The result of a lookup of a host name."""

    addresses: tuple[str, ...] = ()
    unanswered: bool = False
    """Whether no name server has answered: Postfix then defers the mail. If the answer is that
    there is no such name, the mail bounces."""
    said: str = ""
    """Why there is no address."""
    denied: str = ""
    """Why the lookup is not possible here; the name's addresses are then unknown."""


@dataclass(frozen=True)
class Resolver:
    """How lmtp(8) looks names up: its mechanisms, its user, and its root directory."""

    mechanisms: tuple[str, ...] = (NATIVE,)
    """"dns" always comes before "native" (postconf(5), smtp_host_lookup)."""
    user: str | None = None
    root: Path | None = None
    family: int = 0
    search: bool = False

    async def look_up(self, name: str) -> Answer:
        """Look a name up by one mechanism after the other, as smtp_addr.c does.

        The next mechanism is used if the answer is that there is no such name, but not if there is
        no answer.
        """
        answer = Answer(denied="lmtp_host_lookup names neither dns nor native")
        for mechanism in self.mechanisms:
            answer = await self._look_up_by(mechanism, name)
            if answer.addresses or answer.unanswered or answer.denied:
                break
        return answer

    async def _look_up_by(self, mechanism: str, name: str) -> Answer:
        request = {
            "name": name,
            "dns": mechanism == DNS,
            "search": self.search,
            "family": self.family,
            "user": self.user,
            "root": str(self.root) if self.root else None,
        }
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), json.dumps(request)]
        try:
            done = await run(argv, timeout=TIMEOUT)
        except SyncError:
            return Answer(unanswered=True, said=f"no answer within {TIMEOUT:g} s")
        if done.status:
            return Answer(denied=done.complaint.rpartition("; ")[2])
        found = json.loads(done.stdout)
        return Answer(**{**found, "addresses": tuple(found.get("addresses", ()))})


async def look_up_all(by: Resolver, names: Iterable[str]) -> dict[str, Answer]:
    """Look up all names, AT_ONCE of them at the same time; return the answers by name."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(name: str) -> tuple[str, Answer]:
        async with turn:
            return name, await by.look_up(name)

    return dict(await asyncio.gather(*map(in_turn, sorted(names))))
