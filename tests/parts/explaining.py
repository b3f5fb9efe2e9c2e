"""A host with two lists, what explain says of an address there, and what happens to its mail."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .common import PATIENCE, wait_for
from .load import send
from .mail_host import Host, started_host
from .mailman_files import nine

ANTS, BEES = "ants@example.net", "bees@example.net"
ELSEWHERE = "someone@elsewhere.example"


@contextmanager
def explaining_host() -> Iterator[Host]:
    """Start a host with two lists, set up."""
    with started_host() as host:
        host.site.configure(probe={"level": "rcpt", "timeout": "5s"})
        host.begin(ANTS, BEES)
        host.setup("--yes")
        host.files = {path: path.read_text() for path in host.files}
        yield host


@contextmanager
def restored(started: Host) -> Iterator[None]:
    """Revert the changes of a test to main.cf and master.cf after it."""
    started.sink.accept([*nine(ANTS), *nine(BEES)])
    yield
    changed = {path: text for path, text in started.files.items() if path.read_text() != text}
    for path, text in changed.items():
        path.write_text(text)
    if changed:
        started.postfix.age()
        started.postfix.reload()


@dataclass(frozen=True)
class Answer:
    """What explain printed as JSON."""

    document: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The verdict."""
        return str(self.document["verdict"])

    def step(self, name: str) -> dict[str, Any]:
        """Return the last step of this name."""
        return next(s for s in reversed(self.document["steps"]) if s["step"] == name)


def explained(host: Host, address: str, *, expect: int = 0) -> Answer:
    done = host.site.call("explain", address, "--json")
    assert done.returncode == expect, done
    return Answer(json.loads(done.stdout))


def happens(host: Host, address: str, port: int = 0) -> str:
    """Send a message, and return what happens to it, as explain calls it.

    Without a port, it is sent to the public listener.
    """
    before = len(host.postfix.outcomes())
    sent = send(port or host.postfix.port, address)
    if not sent.accepted:
        return "refused" if sent.last.code >= 500 else "deferred"
    wait_for(lambda: host.postfix.outcomes()[before:], PATIENCE, f"an outcome of {address}")
    outcomes = host.postfix.outcomes()[before:]
    if any(one.daemon.endswith("lmtp") and one.status == "sent" for one in outcomes):
        return "delivered"
    return {"sent": "diverted", "bounced": "refused", "deferred": "deferred"}[outcomes[0].status]
