"""Mailman is down for a while and comes back, under a steady load: what became of every message.

Postfix is as it is shipped in what counts here: it waits five minutes before it tries again.
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
"""Seconds that no message takes unless it had to wait."""


@dataclass(frozen=True)
class Figures(Tally):
    """One outage in numbers."""

    sent: int
    accepted: int
    delivered: int
    twice: int
    bounced: int
    waited: int
    """Messages that had come when Mailman's LMTP server answered again, and were not delivered."""
    first: float
    """Seconds from then until the first of these was delivered."""
    seconds: float
    """Until the last of these was."""
    held_up: int
    """Messages that came after it answered, and were not delivered within SOON seconds."""

    def __str__(self) -> str:
        """A line of words."""
        return (
            f"sent {self.sent}, accepted {self.accepted}, delivered {self.delivered},"
            f" twice {self.twice}, bounced {self.bounced}; {self.waited} waited, the first of them"
            f" delivered {self.first:.1f} s after LMTP answered, the last {self.seconds:.1f} s;"
            f" {self.held_up} that came later were held up"
        )


class Outage:
    """A world in which Mailman will be down, with a message for elsewhere that waits all along."""

    def __init__(self, directory: Path, *, flush: bool, probe_interval: str = "60s") -> None:
        """Write every configuration."""
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
        """Start all, with one list that gets mail, and the message for elsewhere."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.world)
            self.world.mailman.create_list(LIST)
            self.world.wait_until_received(self.world.wait_until_accepted(LIST))
            self.world.wait_until_destination(up=True)
            assert send(self.world.postfix.port, ELSEWHERE).accepted
            deferred = self.world.postfix.queue_directory / "deferred"
            wait_for(
                lambda: any(one.is_file() for one in deferred.rglob("*")), 30, "a try elsewhere"
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop all."""
        self._stack.close()

    def tries(self, recipient: str) -> list[Outcome]:
        """All tries to deliver to this address."""
        return [one for one in self.world.postfix.outcomes() if one.recipient == recipient]

    def elsewhere(self) -> tuple[Path, int, int]:
        """The queue file of the message for elsewhere; its time is when it will be tried next."""
        [queue_id] = {one.queue_id for one in self.tries(ELSEWHERE)}
        [file] = (self.world.postfix.queue_directory / "deferred").rglob(queue_id)
        found = file.stat()
        return file, found.st_ino, found.st_mtime_ns

    def run(self, *, down: float, after: float, patience: float) -> Figures:
        """Have Mailman down so many seconds, and send until so many seconds after that."""
        world = self.world
        seconds = FLOWING + down + after
        load = Load(world.postfix.port, [LIST], per_second=PER_SECOND, seconds=seconds)
        with load:
            _sleep_until(load, FLOWING)
            world.mailman.stop()
            _sleep_until(load, FLOWING + down)
            answered = _start(world.mailman)
        accepted = {f"{one.load_id}@load.example": one for one in load.sent if one.accepted}

        def all_delivered() -> bool:
            waiting = world.postfix.queue()
            return not any(LIST in str(one["recipients"]) for one in waiting)

        wait_for(all_delivered, patience, "a queue without mail for the list")
        return self._figures(load, accepted, answered)

    def _figures(self, load: Load, accepted: dict[str, Sent], answered: float) -> Figures:
        taken = [one for one in self.world.mailman.accepted() if one.message_id in accepted]
        delivered = {one.message_id: one.time for one in taken}
        came = {name: accepted[name].last.time for name in delivered}
        waited = [at for name, at in delivered.items() if came[name] < answered < at]
        later = [at - came[name] for name, at in delivered.items() if came[name] >= answered]
        return Figures(
            sent=len(load.sent),
            accepted=len(accepted),
            delivered=len(delivered),
            twice=sum(n > 1 for n in Counter(one.message_id for one in taken).values()),
            bounced=len(self.world.postfix.bounces()),
            waited=len(waited),
            first=round(min(waited, default=answered) - answered, 2),
            seconds=round(max(waited, default=answered) - answered, 2),
            held_up=sum(seconds > SOON for seconds in later),
        )


def _sleep_until(load: Load, seconds: float) -> None:
    """Wait until so many seconds' worth of the load is sent."""
    enough = int(seconds * PER_SECOND)
    wait_for(lambda: len(load.sent) >= enough, seconds + 60, "mail flowing")


def _start(mailman: Mailman) -> float:
    """Start Mailman; when its LMTP server answered for the first time."""
    with ThreadPoolExecutor(1) as pool:
        starting: Future[None] = pool.submit(mailman.start)
        wait_for(mailman.greets, 90, "a greeting of Mailman's LMTP server")
        answered = time.time()
        starting.result()
    return answered


def side_by_side(
    directories: tuple[Path, Path], *, down: float, after: float, patience: float
) -> tuple[Figures, Figures]:
    """The same outage at the same time, with what waited being delivered and without."""
    with_flush, without = (
        Outage(directory, flush=flush)
        for directory, flush in zip(directories, (True, False), strict=True)
    )
    with with_flush, without, ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(one.run, down=down, after=after, patience=patience)
            for one in (with_flush, without)
        ]
        first, second = (run.result() for run in runs)
    return first, second
