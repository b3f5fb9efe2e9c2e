"""Much at once: lists that move, mail that is being delivered to others, and mail that waits."""

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
"""Lists that move, all at once."""

BUSY = 50
"""So many of them get mail."""

PER_SECOND, OTHER_PER_SECOND = 20.0, 10.0
"""Messages a second to the lists that move, and to the one that does not."""

BURST = 300
"""Messages to one of them, right before the change, so that qmgr(8) has resolved them already."""

SECONDS, AT_ONCE = 0.05, 2
"""How long an LMTP server takes for a message, and how many it is given at a time."""

WARM, AFTER = 6.0, 12.0
"""Seconds of load before the change and after the end of the sync."""

SETTLE = 3.0
"""Seconds after the end of the sync in which its effect on other lists would show."""

LONGEST = 200.0

SLACK = 0.5
"""Seconds between the moment when a delivery is begun and our noticing it."""

PATIENCE = 60.0

OTHER = "cats@other.example.org"

WAITING = 20_000
"""Messages in the deferred queue."""

ACTIVE = 5_000
"""Messages to another list that are being delivered when Postfix is reloaded."""

CLIENTS = 4
"""So many at a time bring them."""

THEIR_SECONDS = 0.1
"""How long its LMTP server takes for each."""

LOOK = 10.0
"""Seconds for which deliveries are counted, before the sync and from its start on."""


@dataclass(frozen=True)
class Move(Tally):
    """The move of many lists in numbers."""

    accepted: int
    refused: int
    bounced: int
    rejected: int
    """Refused by an LMTP server."""
    lost: int
    late: int
    """Deliveries begun at the old server after the end of the sync."""
    seconds: float
    """How long the sync took."""
    rate_before: float
    """Deliveries a second to the list of another source, before the change."""
    rate_meanwhile: float
    """The same during the sync and SETTLE seconds after it."""
    longest_wait: float
    """Seconds that a message to that list took at most."""


def move_many(directory: Path, map_type: str) -> Move:
    """Move MANY lists from one server to another, under load to some of them and to another's."""
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
        came = {one.load_id: one.time for sink in (old, new, other) for one in sink.deliveries()}
    accepted = [one for one in sent if one.accepted]
    bounced = [one for one in ends.values() if one.status == "bounced"]
    theirs = [came[one.load_id] for one in steady.sent if one.load_id in came]

    def rate(since: float, until: float) -> float:
        return round(sum(since <= moment < until for moment in theirs) / (until - since), 2)

    return Move(
        accepted=len(accepted),
        refused=len(sent) - len(accepted),
        bounced=sum(not one.refused_by_server for one in bounced),
        rejected=sum(one.refused_by_server for one in bounced),
        lost=sum(
            one.load_id not in came and ends.get(queue_id(one)) not in bounced for one in accepted
        ),
        late=sum(
            offer.time > ended + SLACK and base_address(offer.recipient) in busy
            for offer in old.offers()
        ),
        seconds=round(ended - began, 1),
        rate_before=rate(start + 1, began),
        rate_meanwhile=rate(began, ended + SETTLE),
        longest_wait=round(
            max(came.get(one.load_id, math.inf) - one.started for one in steady.sent), 2
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
    """What a reload does to mail for another list that is being delivered."""

    active: int
    """Messages in the active queue when the sync began."""
    bounced: int
    lost: int
    twice: int
    rate_before: float
    """Deliveries a second in LOOK seconds before the sync."""
    rate_meanwhile: float
    """The same from its start on."""


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
            sent = [one for client in running for one in client.result()]
        began = time.time() + LOOK
        wait_for(lambda: time.time() >= began, 2 * LOOK, "deliveries to count")
        active = sum(one.is_file() for one in (postfix.queue_directory / "active").rglob("*"))
        mover.write("ants@lists.example.net", hop=f"lmtp:[127.0.0.1]:{PORT + 1}")
        began, before = time.time(), postfix.reloads
        site.once()
        assert postfix.reloads == before + 1
        wait_for(lambda: time.time() >= began + LOOK, 2 * LOOK, "deliveries to count")
        other.slow(0)
        ends = final_outcomes(postfix, sent, 2 * PATIENCE)
        came = other.deliveries()
    times = [one.time for one in came]
    known = {one.load_id for one in came}
    return Reload(
        active=active,
        bounced=sum(one.status == "bounced" for one in ends.values()),
        lost=sum(one.load_id not in known for one in sent),
        twice=len(came) - len(known),
        rate_before=sum(began - LOOK <= one < began for one in times) / LOOK,
        rate_meanwhile=sum(began <= one < began + LOOK for one in times) / LOOK,
    )


@dataclass(frozen=True)
class Creations(Tally):
    """How long lists took to be accepted, in seconds: each the median of several."""

    alone: float
    """With an empty queue, and nothing else going on."""
    behind_removal: float
    """With an empty queue, right after another list was removed."""
    behind_crowd: float
    """The same with WAITING messages in the deferred queue, all to removed lists."""


def create_behind_removals(directory: Path, map_type: str, times: int = 3) -> Creations:
    """Create lists while a daemon is at work on other lists' removal."""
    down = f"lmtp:[{loopback_address()}]:{PORT}"
    site, postfix = _parts(directory, map_type)
    kept = "kept@lists.example.net"
    gone = [f"gone{number}@lists.example.net" for number in range(2 * times)]
    there = [kept, *gone]
    names = iter(f"new{number}@lists.example.net" for number in range(3 * times))
    site.files.write(*there, hop=down)
    site.once()

    def create(removed: str = "") -> float:
        """Create a list, right after another one is refused; the seconds until it is accepted."""
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
            assert sum(one.is_file() for one in deferred) >= WAITING
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
    """Send a message that can't be delivered; its queue file, and no other's."""
    sent = send(postfix.port, recipient)
    assert sent.accepted
    queue = postfix.queue_directory / "deferred"

    def files() -> list[Path]:
        return list(queue.rglob(queue_id(sent)))

    wait_for(files, PATIENCE, "a deferred message")
    return files()


def _fill(postfix: PostfixInstance, template: Path, count: int) -> None:
    """Have so many copies of a message in the deferred queue of a stopped Postfix.

    A long queue id ends in z and the number of the inode, which Postfix corrects when it starts. It
    tries the copies in an hour.
    """
    later = time.time() + 3600
    for number in range(count):
        copy = template.with_name(f"{template.name.partition('z')[0]}z1{number:05}")
        shutil.copy(template, copy)
        shutil.chown(copy, "postfix", "postfix")
        os.utime(copy, (later, later))
