"""Large numbers: of lists that move, of active messages for other lists, and of deferred mail."""

import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.parts.common import loopback_address, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.lmtp_sink import LmtpSink, base_address
from tests.parts.load import Load, send, send_in_one_session
from tests.parts.mailman_files import MailmanFiles
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site
from tests.scenarios.tally import Tally
from tests.scenarios.under_load import final_outcomes, queue_id, wait_for_load

PORT = 2424

MANY = 10_000
"""Lists that move at the same time."""

BUSY = 50
"""The number of these lists that get mail."""

PER_SECOND, OTHER_PER_SECOND = 20.0, 10.0
"""Messages a second to the lists that move, and to the one that does not."""

BURST = 300
"""Messages to one of them right before the change, which qmgr(8) has then already resolved."""

SECONDS, AT_ONCE = 0.05, 2
"""Seconds that an LMTP server takes for a message, and its concurrent messages."""

WARM, AFTER = 6.0, 12.0
"""Seconds of load before the change and after the end of the sync."""

SETTLE = 3.0
"""Seconds after the end of the sync in which it could still affect other lists."""

LONGEST = 200.0

SLACK = 0.5
"""Seconds by which the recorded start of a delivery may be late."""

PATIENCE = 60.0

OTHER = "cats@other.example.org"

WAITING = 20_000
"""Messages in the deferred queue."""

ACTIVE = 5_000
"""Messages to another list that are being delivered when Postfix is reloaded."""

CLIENTS = 4
"""The number of concurrent clients that send them."""

THEIR_SECONDS = 0.1
"""Seconds that its LMTP server takes for each message."""

LOOK = 10.0
"""Seconds for which deliveries are counted, before the sync and from its start on."""


@dataclass(frozen=True)
class Move(Tally):
    """The figures of a move of many lists."""

    accepted: int
    refused: int
    bounced: int
    rejected: int
    """Messages refused by an LMTP server."""
    lost: int
    late: int
    """Deliveries begun at the old server after the end of the sync."""
    seconds: float
    """The duration of the sync."""
    rate_before: float
    """Deliveries a second to the list of another source, before the change."""
    rate_meanwhile: float
    """That rate during the sync and SETTLE seconds after it."""
    longest_wait: float
    """The longest time of a message to that list, in seconds."""


def move_many(directory: Path, map_type: str) -> Move:
    """Move MANY lists to another server, under load to some of them and to another list."""
    old, new, other = (LmtpSink(host=loopback_address(), port=PORT) for _ in range(3))
    lists = [f"list{number}@lists.example.net" for number in range(MANY)]
    busy = lists[:: MANY // BUSY]
    site, postfix = _parts(directory, map_type)
    many, few = MailmanFiles(directory / "many"), MailmanFiles(directory / "few")

    def put(host: str, sink: LmtpSink) -> None:
        many.write(*lists, hop=f"lmtp:[{host}]:{PORT}")
        site.configure(
            sources=[
                {"name": "many", "path": str(many.directory), "address": sink.host},
                {"name": "few", "path": str(few.directory), "address": other.host},
            ]
        )

    few.write(OTHER, hop=f"lmtp:[mailman-other]:{PORT}")
    put("mailman-old", old)
    site.once()
    old.accept(busy)
    other.accept([OTHER])
    with old, new, other, postfix:
        for sink in (old, new):
            sink.slow(SECONDS)
        load = Load(postfix.port, busy, per_second=PER_SECOND, seconds=LONGEST)
        steady = Load(postfix.port, [OTHER], per_second=OTHER_PER_SECOND, seconds=LONGEST)
        with load, steady, ExitStack() as flow:
            flow.callback(load.stop)
            flow.callback(steady.stop)
            start = time.time()
            wait_for_load(steady, start + WARM)
            burst = send_in_one_session(postfix.port, busy[0], BURST)
            new.accept(busy)
            put("mailman-new", new)
            began = time.time()
            done = site.run("--once", timeout=120)
            assert done.returncode == 0, done
            ended = time.time()
            old.accept([])
            wait_for_load(steady, ended + AFTER)
        sent = [*load.sent, *steady.sent, *burst]
        ends = final_outcomes(postfix, sent, PATIENCE)
        came = {
            delivery.load_id: delivery.time
            for sink in (old, new, other)
            for delivery in sink.deliveries()
        }
    accepted = [message for message in sent if message.accepted]
    bounced = [outcome for outcome in ends.values() if outcome.status == "bounced"]
    theirs = [came[message.load_id] for message in steady.sent if message.load_id in came]

    def rate(since: float, until: float) -> float:
        return round(sum(since <= moment < until for moment in theirs) / (until - since), 2)

    return Move(
        accepted=len(accepted),
        refused=len(sent) - len(accepted),
        bounced=sum(not outcome.refused_by_server for outcome in bounced),
        rejected=sum(outcome.refused_by_server for outcome in bounced),
        lost=sum(
            message.load_id not in came and ends.get(queue_id(message)) not in bounced
            for message in accepted
        ),
        late=sum(
            offer.time > ended + SLACK and base_address(offer.recipient) in busy
            for offer in old.offers()
        ),
        seconds=round(ended - began, 1),
        rate_before=rate(start + 1, began),
        rate_meanwhile=rate(began, ended + SETTLE),
        longest_wait=round(
            max(came.get(message.load_id, math.inf) - message.started for message in steady.sent), 2
        ),
    )


def _parts(directory: Path, map_type: str) -> tuple[Site, PostfixInstance]:
    (directory / "hosts").write_text("127.0.0.1 localhost\n")
    postfix = PostfixInstance(
        directory / "postfix",
        hosts=directory / "hosts",
        main_cf={
            **mailman_parameters(directory / "maps", map_type),
            "enable_long_queue_ids": "yes",
            "lmtp_destination_concurrency_limit": str(AT_ONCE),
        },
    )
    return Site(directory, postfix.config_directory, map_type), postfix


@dataclass(frozen=True)
class Reload(Tally):
    """The figures of a reload during the delivery of mail for another list."""

    active: int
    """Messages in the active queue when the sync began."""
    bounced: int
    lost: int
    twice: int
    rate_before: float
    """Deliveries a second in LOOK seconds before the sync."""
    rate_meanwhile: float
    """That rate in LOOK seconds from the start of the sync on."""


def reload_with_many_active(directory: Path, map_type: str) -> Reload:
    """Move one list, with ACTIVE messages for another one in the active queue."""
    site, postfix = _parts(directory, map_type)
    mover, theirs = MailmanFiles(directory / "mover"), MailmanFiles(directory / "theirs")
    other = LmtpSink([OTHER], host=loopback_address(), port=PORT)
    site.configure(
        sources=[
            {"name": "mover", "path": str(mover.directory)},
            {"name": "theirs", "path": str(theirs.directory), "address": other.host},
        ]
    )
    mover.write("ants@lists.example.net", hop=f"lmtp:[127.0.0.1]:{PORT}")
    theirs.write(OTHER, hop=f"lmtp:[mailman-other]:{PORT}")
    site.once()
    with other, postfix:
        other.slow(THEIR_SECONDS)
        with ThreadPoolExecutor(CLIENTS) as pool:
            each = (ACTIVE + ACTIVE // 2) // CLIENTS
            running = [
                pool.submit(send_in_one_session, postfix.port, OTHER, each) for _ in range(CLIENTS)
            ]
            sent = [message for client in running for message in client.result()]
        began = time.time() + LOOK
        wait_for(lambda: time.time() >= began, 2 * LOOK, "deliveries to count")
        active = sum(path.is_file() for path in (postfix.queue_directory / "active").rglob("*"))
        mover.write("ants@lists.example.net", hop=f"lmtp:[127.0.0.1]:{PORT + 1}")
        began, before = time.time(), postfix.reloads
        site.once()
        assert postfix.reloads == before + 1
        wait_for(lambda: time.time() >= began + LOOK, 2 * LOOK, "deliveries to count")
        other.slow(0)
        ends = final_outcomes(postfix, sent, 2 * PATIENCE)
        came = other.deliveries()
    times = [delivery.time for delivery in came]
    known = {delivery.load_id for delivery in came}
    return Reload(
        active=active,
        bounced=sum(outcome.status == "bounced" for outcome in ends.values()),
        lost=sum(message.load_id not in known for message in sent),
        twice=len(came) - len(known),
        rate_before=sum(began - LOOK <= moment < began for moment in times) / LOOK,
        rate_meanwhile=sum(began <= moment < began + LOOK for moment in times) / LOOK,
    )


@dataclass(frozen=True)
class Creations(Tally):
    """The seconds until new lists were accepted: each figure is the median of several."""

    alone: float
    """With an empty queue, and without other changes."""
    behind_removal: float
    """With an empty queue, right after another list was removed."""
    behind_crowd: float
    """Right after a removal, with WAITING deferred messages, all to removed lists."""


def create_behind_removals(directory: Path, map_type: str, times: int = 3) -> Creations:
    """Create lists while a daemon is removing other lists."""
    down = f"lmtp:[{loopback_address()}]:{PORT}"
    site, postfix = _parts(directory, map_type)
    kept = "kept@lists.example.net"
    gone = [f"gone{number}@lists.example.net" for number in range(2 * times)]
    there = [kept, *gone]
    names = iter(f"new{number}@lists.example.net" for number in range(3 * times))
    site.files.write(*there, hop=down)
    site.once()

    def create(removed: str = "") -> float:
        """Create a list once `removed` is refused; return the seconds until it is accepted."""
        if removed:
            there.remove(removed)
            site.files.write(*there, hop=down)
            _wait_until(postfix, removed, accepted=False)
        name = next(names)
        there.append(name)
        began = time.time()
        site.files.write(*there, hop=down)
        _wait_until(postfix, name, accepted=True)
        seconds = time.time() - began
        daemon.rest()
        return seconds

    with RunningDaemon(site) as daemon:
        daemon.wait_until_it_watches()
        with postfix:
            alone = [create() for _ in range(times)]
            behind_removal = [create(name) for name in gone[:times]]
            [template] = _deferred(postfix, gone[-1])
        _fill(postfix, template, WAITING)
        with postfix:
            deferred = (postfix.queue_directory / "deferred").rglob("*")
            assert sum(path.is_file() for path in deferred) >= WAITING
            behind_crowd = [create(name) for name in gone[times:]]
        assert daemon.stop(timeout=PATIENCE) == 0
    return Creations(*(round(median(found), 2) for found in (alone, behind_removal, behind_crowd)))


def _wait_until(postfix: PostfixInstance, recipient: str, *, accepted: bool) -> None:
    wait_for(
        lambda: send(postfix.port, recipient).accepted is accepted,
        PATIENCE,
        f"{recipient} {'accepted' if accepted else 'refused'}",
    )


def _deferred(postfix: PostfixInstance, recipient: str) -> list[Path]:
    """Send a message that can't be delivered; return the queue files, of which there is one."""
    sent = send(postfix.port, recipient)
    assert sent.accepted
    queue = postfix.queue_directory / "deferred"

    def files() -> list[Path]:
        return list(queue.rglob(queue_id(sent)))

    wait_for(files, PATIENCE, "a deferred message")
    return files()


def _fill(postfix: PostfixInstance, template: Path, count: int) -> None:
    """Put `count` copies of a message into the deferred queue of a stopped Postfix.

    A long queue id ends in z and the number of the inode, which Postfix corrects when it starts (a
    z may stand in the time before it, too). It tries the copies in an hour.
    """
    later = time.time() + 3600
    for number in range(count):
        copy = template.with_name(f"{template.name.rpartition('z')[0]}z1{number:05}")
        shutil.copy(template, copy)
        shutil.chown(copy, "postfix", "postfix")
        os.utime(copy, (later, later))
