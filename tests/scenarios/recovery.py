"""Mailman goes down and up again under a steady load: the outcome of every message.

Postfix has its default settings for retries: it waits five minutes before the next try.
"""

import contextlib
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.parts.common import free_port, wait_for
from tests.parts.load import Load, Sent, send
from tests.parts.mailman import Mailman
from tests.parts.postfix_instance import Outcome, mailman_parameters
from tests.scenarios.tally import Tally
from tests.scenarios.world import World

LIST = "ants@lists.example.net"
ELSEWHERE = "someone@elsewhere.example"
"""Mail for another destination, which is down all the time."""

PER_SECOND = 5.0
FLOWING = 3.0
"""Seconds of load before Mailman goes down."""

SOON = 5.0
"""Seconds: a message that is not deferred takes less."""


@dataclass(frozen=True)
class Figures(Tally):
    """The figures of one outage."""

    sent: int
    accepted: int
    delivered: int
    twice: int
    bounced: int
    waited: int
    """Messages not yet delivered when Mailman's LMTP server answered again."""
    first: float
    """Seconds from that moment to the first delivery of these messages."""
    seconds: float
    """Seconds from that moment to their last delivery."""
    held_up: int
    """Messages that were accepted after it answered and took longer than SOON."""

    def __str__(self) -> str:
        """Return the figures as one line."""
        return (
            f"sent {self.sent}, accepted {self.accepted}, delivered {self.delivered},"
            f" twice {self.twice}, bounced {self.bounced}; {self.waited} waited, the first of them"
            f" delivered {self.first:.1f} s after LMTP answered, the last {self.seconds:.1f} s;"
            f" {self.held_up} that came later were held up"
        )


class Outage:
    """A world for an outage of Mailman, with a deferred message for another destination."""

    def __init__(self, directory: Path, *, flush: bool, probe_interval: str = "60s") -> None:
        """Write all configurations."""
        own = mailman_parameters(directory / "maps", "lmdb")
        address, domain = ELSEWHERE, ELSEWHERE.partition("@")[2]
        hop = f"lmtp:[127.0.0.1]:{free_port()}"
        self.world = World(
            directory,
            map_type="lmdb",
            main_cf={
                "enable_long_queue_ids": "yes",
                "transport_maps": f"{own['transport_maps']}, inline:{{{address}={hop}}}",
                "relay_domains": f"{own['relay_domains']}, {domain}",
                "relay_recipient_maps": f"{own['relay_recipient_maps']}, inline:{{{address}=ok}}",
            },
            probe_interval=probe_interval,
            flush=flush,
        )

    def __enter__(self) -> "Outage":
        """Start all parts, create a list, and send the message for the other destination."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.world)
            self.world.mailman.create_list(LIST)
            self.world.wait_until_received(self.world.wait_until_accepted(LIST))
            self.world.wait_until_destination(up=True)
            assert send(self.world.postfix.port, ELSEWHERE).accepted
            deferred = self.world.postfix.queue_directory / "deferred"
            wait_for(
                lambda: any(path.is_file() for path in deferred.rglob("*")), 30, "a try elsewhere"
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop all parts."""
        self._stack.close()

    def tries(self, recipient: str) -> list[Outcome]:
        """Return all tries to deliver to this address."""
        return [
            outcome for outcome in self.world.postfix.outcomes() if outcome.recipient == recipient
        ]

    def elsewhere(self) -> tuple[Path, int, int]:
        """Return the queue file of the other message, its inode, and its mtime: the next try."""
        [queue_id] = {outcome.queue_id for outcome in self.tries(ELSEWHERE)}
        [file] = (self.world.postfix.queue_directory / "deferred").rglob(queue_id)
        found = file.stat()
        return file, found.st_ino, found.st_mtime_ns

    def run(self, *, down: float, after: float, patience: float) -> Figures:
        """Stop Mailman for `down` seconds, and send until `after` seconds after that."""
        world = self.world
        seconds = FLOWING + down + after
        load = Load(world.postfix.port, [LIST], per_second=PER_SECOND, seconds=seconds)
        with load:
            _sleep_until(load, FLOWING)
            world.mailman.stop()
            _sleep_until(load, FLOWING + down)
            answered = _start(world.mailman)
        accepted = {
            f"{message.load_id}@load.example": message for message in load.sent if message.accepted
        }

        def all_delivered() -> bool:
            waiting = world.postfix.queue()
            return not any(LIST in str(entry["recipients"]) for entry in waiting)

        wait_for(all_delivered, patience, "a queue without mail for the list")
        return self._figures(load, accepted, answered)

    def _figures(self, load: Load, accepted: dict[str, Sent], answered: float) -> Figures:
        taken = [
            message for message in self.world.mailman.accepted() if message.message_id in accepted
        ]
        delivered = {message.message_id: message.time for message in taken}
        came = {name: accepted[name].last.time for name in delivered}
        waited = [at for name, at in delivered.items() if came[name] < answered < at]
        later = [at - came[name] for name, at in delivered.items() if came[name] >= answered]
        return Figures(
            sent=len(load.sent),
            accepted=len(accepted),
            delivered=len(delivered),
            twice=sum(n > 1 for n in Counter(message.message_id for message in taken).values()),
            bounced=len(self.world.postfix.bounces()),
            waited=len(waited),
            first=round(min(waited, default=answered) - answered, 2),
            seconds=round(max(waited, default=answered) - answered, 2),
            held_up=sum(seconds > SOON for seconds in later),
        )


def _sleep_until(load: Load, seconds: float) -> None:
    """Wait until the load of so many seconds is sent."""
    enough = int(seconds * PER_SECOND)
    wait_for(lambda: len(load.sent) >= enough, seconds + 60, "mail flowing")


def _start(mailman: Mailman) -> float:
    """Start Mailman; return the time of its LMTP server's first answer."""
    with ThreadPoolExecutor(1) as pool:
        starting: Future[None] = pool.submit(mailman.start)
        wait_for(mailman.greets, 90, "a greeting of Mailman's LMTP server")
        answered = time.time()
        starting.result()
    return answered


def side_by_side(
    directories: tuple[Path, Path], *, down: float, after: float, patience: float
) -> tuple[Figures, Figures]:
    """Run the same outage twice at the same time, with and without a flush of deferred mail."""
    with_flush, without = (
        Outage(directory, flush=flush)
        for directory, flush in zip(directories, (True, False), strict=True)
    )
    with with_flush, without, ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(outage.run, down=down, after=after, patience=patience)
            for outage in (with_flush, without)
        ]
        first, second = (run.result() for run in runs)
    return first, second
