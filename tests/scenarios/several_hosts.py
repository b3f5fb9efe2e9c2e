"""Mailmans and MX hosts on a network of their own: lists' files come to an MX host over SSH only.

    mm1, mm2   Mailman's LMTP server, and sshd, which hands out its files
    mx         Postfix and postfix-sync

With a cluster, the Mailmans share one database, and each still writes files and a queue of its own.
"""

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.parts.common import wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.load import Load, Sent
from tests.parts.mailman import USER, Mailman
from tests.parts.namespaces import Network
from tests.parts.postfix_instance import Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site
from tests.parts.sshd import Sshd, make_key
from tests.scenarios.tally import Tally

LMTP_PORT = 8024
PATIENCE = 30.0
DRAINED_WITHIN = 120.0

CONNECT_TIMEOUT = 5
"""Seconds: lmtp_connect_timeout. Without it, one lost packet stops a cluster for two minutes."""

AT_ONCE = 3.0
"""Seconds: longer than any message takes whose Mailman is well."""


@dataclass(frozen=True)
class Figures(Tally):
    """What became of a load, in numbers."""

    sent: int
    accepted: int
    delivered: dict[str, int]
    """How many messages each Mailman took."""
    twice: int
    """Messages that were delivered more than once: a connection was lost after the last dot."""
    lost: int
    """Accepted, and delivered nowhere."""
    bounced: int
    deferrals: int
    """Tries that failed, and were tried again."""
    waiting: int
    """In the queue at the end."""
    late: int
    """Delivered, but not at once."""
    longest: dict[str, float]
    """The longest time from SMTP to LMTP, in seconds, by list."""

    def __str__(self) -> str:
        """A line of words."""
        delivered = ", ".join(f"{count} by {name}" for name, count in self.delivered.items())
        longest = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.longest.items())
        return (
            f"sent {self.sent}, accepted {self.accepted}, delivered {delivered},"
            f" twice {self.twice}, lost {self.lost}, bounced {self.bounced},"
            f" deferrals {self.deferrals}, waiting at the end {self.waiting},"
            f" late {self.late}, longest: {longest}"
        )


@dataclass(frozen=True)
class Run:
    """What is known of one load, after its last message left the queue."""

    sent: list[Sent]
    delivered: dict[str, Counter[str]]
    """By Mailman, how often it has each X-Load-Id."""
    outcomes: list[Outcome]
    """Of this load's messages."""
    waiting: int

    def to(self, recipient: str) -> list[Outcome]:
        """All tries for one list."""
        return [one for one in self.outcomes if one.recipient == recipient]

    def figures(self) -> Figures:
        """In numbers."""
        total: Counter[str] = sum(self.delivered.values(), Counter())
        accepted = [one for one in self.sent if one.accepted]
        recipients = sorted({one.recipient for one in self.sent})
        return Figures(
            sent=len(self.sent),
            accepted=len(accepted),
            delivered={name: ids.total() for name, ids in self.delivered.items()},
            twice=sum(count > 1 for count in total.values()),
            lost=sum(not total[one.load_id] for one in accepted),
            bounced=sum(one.status == "bounced" for one in self.outcomes),
            deferrals=sum(one.status == "deferred" for one in self.outcomes),
            waiting=self.waiting,
            late=sum(one.seconds > AT_ONCE for one in self.outcomes if one.status == "sent"),
            longest={
                name: max((one.seconds for one in self.to(name) if one.status == "sent"), default=0)
                for name in recipients
            },
        )


class Mx:
    """A mail host: Postfix and postfix-sync, with everything of their own."""

    def __init__(
        self, directory: Path, sources: Sequence[Mapping[str, Any]], map_type: str
    ) -> None:
        """Write the configuration; the maps' sources are what its `sources` says."""
        directory.mkdir(mode=0o755)
        self.site = Site(
            directory,
            directory / "postfix/etc",
            map_type,
            options={
                "sources": list(sources),
                "probe": {"level": "rcpt", "interval": "1s", "timeout": "2s"},
            },
        )
        self.site.hosts.write_text("127.0.0.1 localhost\n")
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=self.site.hosts,
            main_cf={
                **mailman_parameters(self.site.maps, map_type),
                "enable_long_queue_ids": "yes",
                "lmtp_connect_timeout": f"{CONNECT_TIMEOUT}s",
            },
        )
        self._daemon: RunningDaemon | None = None

    @property
    def daemon(self) -> RunningDaemon:
        """postfix-sync, which runs from start() on."""
        assert self._daemon is not None
        return self._daemon

    def start(self, *lists: str) -> None:
        """Start postfix-sync, wait until these lists are in its maps, and start Postfix."""
        self.site.configure()
        self._daemon = RunningDaemon(self.site)
        self._daemon.wait_for_passes(1, PATIENCE)
        self.wait_until_live(*lists)
        self.postfix.start()

    def stop(self) -> None:
        """Stop both."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.postfix.stop)
            if self._daemon is not None:
                stack.push(self._daemon)
                if self._daemon.process.poll() is None:
                    self._daemon.stop(timeout=PATIENCE)

    def wait_until_live(self, *lists: str) -> None:
        """Wait until Postfix takes mail for these lists."""
        wait_for(lambda: set(self.lookup(lists)) == set(lists), PATIENCE, f"{lists} in the maps")

    def lookup(self, lists: Sequence[str], name: str = "postfix_recipients") -> dict[str, str]:
        """What an installed map holds for these lists; nothing before there is one."""
        return self.site.lookup(name, lists) if (self.site.maps / name).exists() else {}

    def texts(self) -> dict[str, bytes]:
        """The texts of all maps."""
        found = self.site.maps.glob("postfix_*")
        return {path.name: path.read_bytes() for path in found if not path.suffix}


class Hosts:
    """All hosts; use it in a with statement."""

    def __init__(
        self,
        directory: Path,
        *,
        mailmans: Sequence[str] = ("mm1", "mm2"),
        mxs: Sequence[str] = ("mx",),
        cluster: bool = False,
        map_type: str = "lmdb",
    ) -> None:
        """Write every configuration."""
        self.network = Network(*mxs, *mailmans)
        self._stack = contextlib.ExitStack()
        shared = directory / "database"
        shared.mkdir()
        shutil.chown(shared, USER, USER)
        database = f"sqlite:///{shared / 'mailman.db'}" if cluster else ""
        key = make_key(directory / "id_ed25519")
        known_hosts = directory / "known_hosts"
        self.mailmans: dict[str, Mailman] = {}
        self.sshds: dict[str, Sshd] = {}
        sources = []
        for name in mailmans:
            address = self.network[name].address
            mailman = self.mailmans[name] = Mailman(
                directory / name,
                lmtp_host=name,
                lmtp_address=address,
                lmtp_port=LMTP_PORT,
                database=database,
            )
            sshd = self.sshds[name] = Sshd(directory / f"{name}-sshd", listen=address, port=22)
            sshd.authorize(key)
            sshd.write_known_hosts(known_hosts)
            ssh = {
                "host": address,
                "user": "root",
                "identity": str(key),
                "known_hosts": str(known_hosts),
                "connect_timeout": "2s",
            }
            source = {"name": name, "path": str(mailman.data), "ssh": ssh, "address": "ssh"}
            sources.append({**source, "interval": "1s", **({"cluster": "mm"} if cluster else {})})
        self.mxs = {name: Mx(directory / name, sources, map_type) for name in mxs}

    def __enter__(self) -> Self:
        """Start the network, the Mailmans and the sshds; MX hosts are started by start_mx()."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.network)
            for name, mailman in self.mailmans.items():
                stack.callback(mailman.stop)
                stack.callback(self.sshds[name].stop)
                with self.on(name):
                    mailman.start()
                    self.sshds[name].start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop all."""
        self._stack.close()

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        """On this host, for the calling thread."""
        with self.network[name].inside():
            yield

    def create(self, name: str, *lists: str) -> None:
        """Create lists by the REST API of one Mailman, which writes its files."""
        with self.on(name):
            for one in lists:
                self.mailmans[name].create_list(one)

    def start_mx(self, name: str, *lists: str) -> Mx:
        """Start one; these lists are there already."""
        mx = self.mxs[name]
        self._stack.callback(mx.stop)
        with self.on(name):
            mx.start(*lists)
        return mx

    def load(
        self,
        recipients: Sequence[str],
        *changes: Callable[[], object],
        per_second: float,
        seconds: float,
        mx: str = "mx",
    ) -> Run:
        """Send to these lists, and make the changes while mail flows, evenly spread.

        At the end the queue is flushed until it is empty, and every message is accounted for.
        """
        postfix = self.mxs[mx].postfix
        with self.on(mx):
            load = Load(postfix.port, recipients, per_second=per_second, seconds=seconds)
            load.start()
        for number, change in enumerate(changes, 1):
            enough = load.count * number // (len(changes) + 1)
            wait_for(lambda least=enough: len(load.sent) >= least, 90, "mail flowing")  # type: ignore[misc]
            change()
        load.join()
        return Run(
            sent=load.sent,
            waiting=self._drain(postfix),
            delivered=self._delivered({one.load_id for one in load.sent}),
            outcomes=_outcomes_of(load.sent, postfix),
        )

    @staticmethod
    def _drain(postfix: PostfixInstance) -> int:
        """Flush the queue until it is empty; how many messages wait all the same."""

        def is_empty() -> bool:
            postfix.command("postqueue", "-f")
            with contextlib.suppress(TimeoutError):
                postfix.wait_for_empty_queue(5)
            return not postfix.queue()

        with contextlib.suppress(TimeoutError):
            wait_for(is_empty, DRAINED_WITHIN, "an empty queue")
        return len(postfix.queue())

    def _delivered(self, load_ids: set[str]) -> dict[str, Counter[str]]:
        """By Mailman, how often it has each of these messages."""
        found = {}
        for name, mailman in self.mailmans.items():
            ids = (one.message_id.partition("@")[0] for one in mailman.accepted())
            found[name] = Counter(one for one in ids if one in load_ids)
        return found


def _outcomes_of(sent: Sequence[Sent], postfix: PostfixInstance) -> list[Outcome]:
    """Every try of these messages, by the queue id in the reply to each."""
    queue_ids = {one.last.text.rpartition(" ")[2] for one in sent if one.accepted}
    return [one for one in postfix.outcomes() if one.queue_id in queue_ids]
