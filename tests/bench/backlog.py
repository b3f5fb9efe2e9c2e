"""A large backlog of deferred mail is retried when its destination is up again."""

import os
import subprocess
from pathlib import Path

from postfix_sync.probe.flush import LATE
from tests.bench.measure import Launcher, Row, Say
from tests.bench.plan import Plan
from tests.parts.common import free_port, public_directory, wait_for
from tests.parts.postfix_instance import SENDER, PostfixInstance, mailman_parameters
from tests.parts.site import Site

LIST = "ants@lists.example.net"
SESSIONS = "20"
DEFERRING = 900.0


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row: the cost of the `--once` that finds the destination up and retries its mail.

    The LMTP server is smtp-sink(1), which takes each message at once.
    """
    with public_directory(base) as directory:
        port = free_port()
        own = mailman_parameters(directory / "maps", "lmdb")
        postfix = PostfixInstance(directory / "postfix", main_cf=own)
        site = Site(directory, postfix.config_directory, options={"probe": {"level": "rcpt"}})
        site.hosts.write_text("127.0.0.1 localhost\n")
        site.files.write(LIST, hop=f"lmtp:[127.0.0.1]:{port}")
        site.once(expect=69)
        with postfix:
            say(f"backlog: {plan.backlog:,} messages are deferred")
            _defer(postfix, plan.backlog)
            command = ["smtp-sink", "-u", "nobody", "-L", f"127.0.0.1:{port}", "1000"]
            with subprocess.Popen(command) as sink, Launcher() as launcher:
                cost = launcher.run(*site.command, "-c", str(site.config), "--once")
                wait_for(lambda: not _count(postfix, "deferred"), DEFERRING, "an empty queue")
                sink.terminate()
    return [
        {
            "messages": plan.backlog,
            "wall": cost.wall - LATE,
            "cpu": cost.cpu,
            "peak": cost.peak,
        }
    ]


def _defer(postfix: PostfixInstance, count: int) -> None:
    """Send messages to the list, and wait until all are deferred."""
    subprocess.run(
        [
            *("smtp-source", "-d", "-s", SESSIONS, "-m", str(count)),
            *("-f", SENDER, "-t", LIST, f"127.0.0.1:{postfix.port}"),
        ],
        env={**os.environ, "MAIL_CONFIG": str(postfix.config_directory)},
        check=True,
    )
    wait_for(lambda: _count(postfix, "deferred") == count, DEFERRING, "first tries")


def _count(postfix: PostfixInstance, queue: str) -> int:
    """Count the messages in a queue."""
    return sum(len(names) for _, _, names in os.walk(postfix.queue_directory / queue))
