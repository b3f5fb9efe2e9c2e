"""Mailmans and MX hosts on their own network: an MX host fetches Mailman's files only over SSH.

    mm1, mm2   Mailman's LMTP server, and sshd, which serves Mailman's files
    mx         Postfix and postfix-sync

In a cluster, the Mailmans share one database, but each has its own files and its own queue.
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
"""Seconds: a message to a healthy Mailman takes less."""


@dataclass(frozen=True)
class Figures(Tally):
    """The figures of a load."""

    sent: int
    accepted: int
    delivered: dict[str, int]
    """The number of messages that each Mailman accepted."""
    twice: int
    """Messages delivered more than once: a connection was lost after the final dot."""
    lost: int
    """Messages accepted, but not delivered."""
    bounced: int
    deferrals: int
    """Failed tries, which were retried."""
    waiting: int
    """Messages in the queue at the end."""
    late: int
    """Messages delivered, but not at once."""
    longest: dict[str, float]
    """The longest time from SMTP to LMTP by list, in seconds."""

    def __str__(self) -> str:
        """Return the figures as one line."""
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
    """The result of a load, after its last message left the queue."""

    sent: list[Sent]
    delivered: dict[str, Counter[str]]
    """The number of copies of each X-Load-Id, by Mailman."""
    outcomes: list[Outcome]
    """All tries of this load's messages."""
    waiting: int

    def to(self, recipient: str) -> list[Outcome]:
        """Return all tries for one list."""
        return [outcome for outcome in self.outcomes if outcome.recipient == recipient]

    def figures(self) -> Figures:
        """Return the figures of the load."""
        total: Counter[str] = sum(self.delivered.values(), Counter())
        accepted = [message for message in self.sent if message.accepted]
        recipients = sorted({message.recipient for message in self.sent})
        return Figures(
            sent=len(self.sent),
            accepted=len(accepted),
            delivered={name: ids.total() for name, ids in self.delivered.items()},
            twice=sum(count > 1 for count in total.values()),
            lost=sum(not total[message.load_id] for message in accepted),
            bounced=sum(outcome.status == "bounced" for outcome in self.outcomes),
            deferrals=sum(outcome.status == "deferred" for outcome in self.outcomes),
            waiting=self.waiting,
            late=sum(
                outcome.seconds > AT_ONCE for outcome in self.outcomes if outcome.status == "sent"
            ),
            longest={
                name: max(
                    (outcome.seconds for outcome in self.to(name) if outcome.status == "sent"),
                    default=0,
                )
                for name in recipients
            },
        )


class Mx:
    """An MX host: Postfix and postfix-sync with their own files."""

    def __init__(
        self, directory: Path, sources: Sequence[Mapping[str, Any]], map_type: str
    ) -> None:
        """Write the configuration with these `sources`."""
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
        """The daemon, which runs from start() on."""
        assert self._daemon is not None
        return self._daemon

    def start(self, *lists: str) -> None:
        """Start the daemon, wait until these lists are in the maps, and start Postfix."""
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
        """Wait until the map of recipients has these lists."""
        wait_for(lambda: set(self.lookup(lists)) == set(lists), PATIENCE, f"{lists} in the maps")

    def lookup(self, lists: Sequence[str], name: str = "postfix_recipients") -> dict[str, str]:
        """Return a map's entries for these lists; none if the map is not installed yet."""
        return self.site.lookup(name, lists) if (self.site.maps / name).exists() else {}

    def texts(self) -> dict[str, bytes]:
        """Return the texts of all maps."""
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
        """Write all configurations."""
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
        """Start the network, the Mailmans and the sshds; start_mx() starts an MX host."""
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
        """Stop all hosts."""
        self._stack.close()

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Put the calling thread on this host."""
        with self.network[name].inside():
            yield

    def create(self, name: str, *lists: str) -> None:
        """Create lists by the REST API of one Mailman, which then writes its files."""
        with self.on(name):
            for list_name in lists:
                self.mailmans[name].create_list(list_name)

    def start_mx(self, name: str, *lists: str) -> Mx:
        """Start an MX host; these lists exist already."""
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
        """Send to these lists, and make the changes at equal intervals meanwhile.

        At the end the queue is flushed until it is empty, so that every message has an outcome.
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
            delivered=self._delivered({message.load_id for message in load.sent}),
            outcomes=_outcomes_of(load.sent, postfix),
        )

    @staticmethod
    def _drain(postfix: PostfixInstance) -> int:
        """Flush the queue until it is empty, or a timeout; return the number of messages left."""

        def is_empty() -> bool:
            postfix.command("postqueue", "-f")
            with contextlib.suppress(TimeoutError):
                postfix.wait_for_empty_queue(5)
            return not postfix.queue()

        with contextlib.suppress(TimeoutError):
            wait_for(is_empty, DRAINED_WITHIN, "an empty queue")
        return len(postfix.queue())

    def _delivered(self, load_ids: set[str]) -> dict[str, Counter[str]]:
        """Return the number of copies of each of these messages, by Mailman."""
        found = {}
        for name, mailman in self.mailmans.items():
            ids = (message.message_id.partition("@")[0] for message in mailman.accepted())
            found[name] = Counter(load_id for load_id in ids if load_id in load_ids)
        return found


def _outcomes_of(sent: Sequence[Sent], postfix: PostfixInstance) -> list[Outcome]:
    """Return every try of these messages, found by the queue id in the reply to each."""
    queue_ids = {message.last.text.rpartition(" ")[2] for message in sent if message.accepted}
    return [outcome for outcome in postfix.outcomes() if outcome.queue_id in queue_ids]
