"""A Mailman's container restarts with another address under load: the outcome of each message.

An LMTP sink stands for Mailman, in a container of the real podman. It writes what it takes into a
volume, so that no record is lost with the container.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.parts.common import wait_for
from tests.parts.contained_sink import deliveries
from tests.parts.daemon import RunningDaemon
from tests.parts.lmtp_sink import Delivery
from tests.parts.load import Load, Sent
from tests.parts.podman import Podman
from tests.parts.postfix_instance import Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site

# Two lists, because qmgr(8) caches for 30 s the lookup of the last address.
LISTS = ("ants@lists.example.net", "bees@lists.example.net")
CONTAINER, HOST, PORT = "mailman-core", "mailman", 8024
PATIENCE = 60.0

PER_SECOND = 40.0
SECONDS = 12.0


@dataclass(frozen=True)
class Moved:
    """The result, after the last message has left the queue."""

    addresses: list[str]
    """The container's addresses, in order."""
    began: float
    """The time of its start with the last address (seconds since the epoch)."""
    sent: list[Sent]
    taken: list[Delivery]
    bounces: list[Outcome]

    @property
    def accepted(self) -> set[str]:
        """The X-Load-Id of each message that Postfix accepted."""
        return {message.load_id for message in self.sent if message.accepted}

    @property
    def copies(self) -> Counter[str]:
        """The number of deliveries of each message."""
        return Counter(delivery.load_id for delivery in self.taken)

    @property
    def until_delivered(self) -> float:
        """The seconds from the last start of the container to its first delivery."""
        after = (delivery.time for delivery in self.taken if delivery.time > self.began)
        return min(after, default=math.inf) - self.began


class Scenario:
    """Podman, a Postfix on its host, and postfix-sync between them."""

    def __init__(self, directory: Path, podman: Podman, map_type: str, hop: str) -> None:
        """Write all configurations; `hop` is Mailman's next hop, with its first address."""
        self.podman = podman
        self.mail = directory / "mail"
        self.mail.mkdir()
        self.site = Site(
            directory,
            directory / "postfix/etc",
            map_type,
            source={"address": f"podman:{CONTAINER}"},
            options={"probe": {"level": "rcpt"}},
        )
        self.site.hosts.write_text("127.0.0.1 localhost\n")
        self.site.files.write(*LISTS, hop=hop)
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=self.site.hosts,
            main_cf={
                "enable_long_queue_ids": "yes",
                **mailman_parameters(self.site.maps, map_type),
            },
        )
        self.addresses: list[str] = []
        self.starts: list[float] = []

    def run_sink(self, boot: float = 0) -> None:
        """Start a container with the sink, which listens after `boot` seconds."""
        file = "/mail/deliveries"
        module = ("-m", "tests.parts.contained_sink", str(PORT), file, str(boot))
        options = (f"--volume={self.mail}:/mail", f"--hostname={HOST}")
        self.podman.run(CONTAINER, *options, command=(sys.executable, *module))

    def note(self) -> None:
        """Record the container's start time and address."""
        started = self.podman.inspect(CONTAINER)["State"]["StartedAt"]
        # fromisoformat() does not accept nanoseconds.
        second, _, rest = started.partition(".")
        offset = rest.lstrip("0123456789").replace("Z", "+00:00")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))][:6].ljust(6, "0")
        self.starts.append(datetime.fromisoformat(f"{second}.{digits}{offset}").timestamp())
        self.addresses.append(self.podman.address(CONTAINER))

    def load(self, move: Callable[[], None]) -> Moved:
        """Send load on podman's host, and call `move` meanwhile; return the result."""
        load = Load(self.postfix.port, LISTS, per_second=PER_SECOND, seconds=SECONDS)
        with RunningDaemon(self.site) as daemon:
            daemon.wait_for_passes(2, PATIENCE)
            with self.postfix:
                with load:
                    wait_for(lambda: len(load.sent) > load.count / 4, PATIENCE, "mail flowing")
                    move()
                    self.note()
                self._wait_for_empty_queue(daemon)
                bounces = self.postfix.bounces()
            assert daemon.stop() == 0
        taken = deliveries(self.mail / "deliveries")
        return Moved(self.addresses, self.starts[-1], load.sent, taken, bounces)

    def _wait_for_empty_queue(self, daemon: RunningDaemon) -> None:
        try:
            self.postfix.wait_for_empty_queue(PATIENCE)
        except TimeoutError as error:
            some = "\n".join(str(message) for message in self.postfix.queue()[:5])
            log = f"postfix-sync:\n{daemon.log[-8000:]}\nmaillog:\n{self.postfix.log[-4000:]}"
            raise AssertionError(f"{error}\nqueue:\n{some}\n{log}") from None
