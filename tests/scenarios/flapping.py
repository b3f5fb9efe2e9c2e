"""A member of a cluster that goes down and up repeatedly, under load to two sources' lists."""

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.model.map_names import MAP_NAMES
from tests.parts.common import loopback_address
from tests.parts.daemon import RunningDaemon
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import Load
from tests.parts.mailman_files import MailmanFiles
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site
from tests.scenarios.tally import Tally
from tests.scenarios.under_load import final_outcomes, queue_id, wait_for_load

PORT = 2424

PER_SECOND = 4.0
"""Messages a second to the cluster's list, and to the other list."""

STEADY = 30.0
"""Seconds of load before the first outage of the member."""

UP, DOWN = 15.0, 25.0
"""Seconds for which the member is up, and down."""

PROBED_EVERY = "5s"
"""The interval of the probes."""

ANTS, CATS = "ants@lists.example.net", "cats@other.example.org"

PATIENCE = 60.0


@dataclass(frozen=True)
class Flapping(Tally):
    """The figures of the scenario."""

    outages: int
    accepted: int
    refused: int
    bounced: int
    lost: int
    twice: int
    reloads: int
    published: int
    """The number of times that a map was rewritten."""
    rate_before: float
    """Deliveries a second to the other list, before the first outage."""
    rate_meanwhile: float
    longest_wait: float
    """The longest time of a message to the other list, in seconds."""


def flap(directory: Path, map_type: str, seconds: float) -> Flapping:
    """Stop and start one of two members repeatedly, for `seconds`."""
    (directory / "hosts").write_text("127.0.0.1 localhost\n")
    main_cf = {**mailman_parameters(directory / "maps", map_type), "enable_long_queue_ids": "yes"}
    postfix = PostfixInstance(directory / "postfix", hosts=directory / "hosts", main_cf=main_cf)
    site = Site(directory, postfix.config_directory, map_type)
    first, second, other = (LmtpSink(host=loopback_address(), port=PORT) for _ in range(3))
    sources = []
    for name, address, sink in (("a", ANTS, first), ("b", ANTS, second), ("c", CATS, other)):
        files = MailmanFiles(directory / name)
        files.write(address, hop=f"lmtp:[mailman-{name}]:{PORT}")
        source = {"name": name, "path": str(files.directory), "address": sink.host}
        sources.append(source if sink is other else {**source, "cluster": "mm"})
        sink.accept([address])
    site.configure(sources=sources, probe={"level": "rcpt", "interval": PROBED_EVERY})
    texts = [site.maps / name for name in MAP_NAMES]
    versions: set[tuple[Path, int]] = set()
    outages = 0
    with ExitStack() as flow:
        for sink in (first, second, other):
            flow.enter_context(sink)
        site.once()
        flow.enter_context(postfix)
        daemon = flow.enter_context(RunningDaemon(site))
        daemon.wait_for_passes(1)
        daemon.rest()
        loads = [
            flow.enter_context(
                Load(postfix.port, [address], per_second=PER_SECOND, seconds=2 * seconds)
            )
            for address in (ANTS, CATS)
        ]
        for load in loads:
            flow.callback(load.stop)
        start = time.time()
        wait_for_load(loads[0], start + STEADY)
        reloads, versions = postfix.reloads, {(path, path.stat().st_mtime_ns) for path in texts}
        present = len(versions)
        began = time.time()
        while time.time() < began + seconds:
            first.stop()
            outages += 1
            wait_for_load(loads[0], time.time() + DOWN)
            versions |= {(path, path.stat().st_mtime_ns) for path in texts}
            first.start()
            wait_for_load(loads[0], time.time() + UP)
            versions |= {(path, path.stat().st_mtime_ns) for path in texts}
        ended = time.time()
        for load in loads:
            load.stop()
        sent = [message for load in loads for message in load.join()]
        ends = final_outcomes(postfix, sent, PATIENCE)
        came = [delivery for sink in (first, second, other) for delivery in sink.deliveries()]
        assert daemon.stop() == 0
        reloads = postfix.reloads - reloads
    times = {delivery.load_id: delivery.time for delivery in came}
    theirs = [delivery.time for delivery in other.deliveries()]
    accepted = [message for message in sent if message.accepted]
    bounced = {message for message in accepted if ends[queue_id(message)].status == "bounced"}

    def rate(since: float, until: float) -> float:
        return round(sum(since <= moment < until for moment in theirs) / (until - since), 2)

    return Flapping(
        outages=outages,
        accepted=len(accepted),
        refused=len(sent) - len(accepted),
        bounced=len(bounced),
        lost=sum(message.load_id not in times and message not in bounced for message in accepted),
        twice=len(came) - len(times),
        reloads=reloads,
        published=len(versions) - present,
        rate_before=rate(start + 1, began),
        rate_meanwhile=rate(began, ended),
        longest_wait=round(
            max(
                times.get(message.load_id, math.inf) - message.started
                for message in sent
                if message.recipient == CATS
            ),
            2,
        ),
    )
