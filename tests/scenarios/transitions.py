"""A list changes from one state to another under load: the outcome of each message.

Each LMTP server has a loopback address of its own. From the end of the sync on, it accepts mail for
the list if it is a server of the second state, and answers 550 to everything else.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from postfix_sync.model.map_names import INDEX_SUFFIX, ROUTES
from tests.parts.common import PATIENCE, loopback_address, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.kill_at import Killer
from tests.parts.lmtp_sink import Delivery, LmtpSink, Offer, base_address
from tests.parts.load import Load, Sent, Session, rcpt, send, send_in_one_session
from tests.parts.mailman_files import MailmanFiles
from tests.parts.postfix_instance import Outcome, PostfixInstance, mailman_parameters
from tests.parts.site import Site
from tests.scenarios.list_states import DOGS, Change, Mailman, State
from tests.scenarios.tally import Tally
from tests.scenarios.under_load import final_outcomes, queue_id, wait_for_load

PORT = 2424
"""The port of each LMTP server. A cluster's order depends on it: here A is not the first."""

PER_SECOND = 5.0
"""Messages a second, each over a new connection."""

SESSIONS, IN_SESSION = 2, 0.5
"""The number of SMTP sessions that stay open, and the messages a second in each."""

BURST = 30
"""Messages right before the change, some of which qmgr(8) has then already resolved."""

SECONDS, AT_ONCE = 0.2, 2
"""Seconds that an LMTP server takes for a message, and its concurrent messages."""

WARM, AFTER = 3.0, 12.0
"""Seconds of load before the change and after the end of the sync."""

LONGEST = 300.0
"""Seconds of load, if it is not stopped before."""

SLACK = 0.5
"""Seconds by which the recorded start of a delivery, or an acceptance, may be late."""


Apply: TypeAlias = Callable[[Sequence[str], Callable[[], None]], int]
"""Have postfix-sync execute a command line; return how often it was killed meanwhile.

The second argument waits until another message has been answered.
"""

Means: TypeAlias = Callable[["Stage"], AbstractContextManager[Apply]]


@dataclass(frozen=True)
class Figures(Tally):
    """The figures of one change."""

    accepted: int
    delivered: int
    bounced: int
    """Messages that Postfix itself returned, without a route or a host's address."""
    rejected: int
    """Messages accepted for an address of the second state, but refused by an LMTP server."""
    refused: int
    """Messages not accepted, or not at once, although the list had the address then."""
    lost: int
    """Messages accepted, but neither delivered nor returned."""
    twice: int
    late: int
    """Deliveries started after the end of the sync at a server that no longer has the list."""
    still: int
    """Messages accepted over a new connection after the sync, for an address that was removed."""
    kills: int
    seconds: float
    """The duration of the sync."""

    @property
    def faults(self) -> dict[str, int]:
        """The figures that must be 0 and are not."""
        names = ("bounced", "rejected", "refused", "lost", "twice", "late", "still")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def __str__(self) -> str:
        """Return a row of the table."""
        return "  ".join(f"{name} {value:>3}" for name, value in self.as_dict().items())


@dataclass(frozen=True)
class Run:
    """The result of one change, after the last message has left the queue."""

    change: Change
    new: list[Sent]
    """The messages that were sent over new connections."""
    in_sessions: list[Sent]
    deliveries: list[Delivery]
    offers: dict[str, list[Offer]]
    """Each RCPT, by server."""
    outcomes: dict[str, Outcome]
    """The final outcome of each message that has one, by queue id."""
    began: float
    """The start of the sync (time.time())."""
    ended: float
    kills: int
    log: str
    """Postfix's log."""

    def figures(self) -> Figures:
        """Return the figures of the run."""
        sent = [*self.new, *self.in_sessions]
        accepted = [message for message in sent if message.accepted]
        copies = Counter(delivery.load_id for delivery in self.deliveries)
        ends = [(message, self.outcomes.get(queue_id(message))) for message in accepted]
        bounced = [(message, end) for message, end in ends if end and end.status == "bounced"]
        return Figures(
            accepted=len(accepted),
            delivered=sum(bool(copies[message.load_id]) for message in accepted),
            bounced=sum(not end.refused_by_server for _, end in bounced),
            rejected=sum(
                end.refused_by_server and self._is_wrongly_rejected(message, end)
                for message, end in bounced
            ),
            refused=len(self.refused()),
            lost=sum(
                not copies[message.load_id] and (end is None or end.status != "bounced")
                for message, end in ends
            ),
            twice=sum(count > 1 for count in copies.values()),
            late=len(self.late()),
            still=sum(
                message.accepted
                and message.recipient not in self.change.second.accepted
                and message.started > self.ended + SLACK
                for message in self.new
            ),
            kills=self.kills,
            seconds=round(self.ended - self.began, 1),
        )

    def _is_wrongly_rejected(self, sent: Sent, outcome: Outcome) -> bool:
        """Whether a server refused a message for an address of the second state."""
        second = self.change.second
        came_after = sent.started > self.ended + SLACK
        return outcome.recipient in second.accepted or (
            came_after and sent.recipient in second.accepted
        )

    def refused(self) -> list[Sent]:
        """Return messages not accepted, or not at once, to addresses that the list had then.

        A session that began before the list was added may not see it until the session ends.
        """
        first, second = self.change.first.address, self.change.second.address
        kept = first == second
        return [
            message
            for message in (*self.new, *self.in_sessions)
            if not message.accepted
            and (
                (message.recipient == second and kept)
                or (message.recipient == first and message.last.time < self.began)
                or (
                    message.recipient == second
                    and message.started > self.ended
                    and message in self.new
                )
            )
        ]

    def late(self) -> list[Offer]:
        """Return each RCPT for the list at a server that no longer had it."""
        second = self.change.second
        return [
            offer
            for server, offers in self.offers.items()
            for offer in offers
            if server not in second.servers
            and base_address(offer.recipient) in second.accepted
            and offer.time > self.ended + SLACK
        ]


OTHERS = "others.example.org"
"""The mail domain of further lists."""


class Stage:
    """A Postfix, a postfix-sync beside it, and the LMTP servers that a change needs."""

    def __init__(
        self,
        directory: Path,
        map_type: str,
        change: Change,
        main_cf: Mapping[str, str] = {},
        others: int = 0,
    ) -> None:
        """Write the configuration of Postfix, with additional parameters in main.cf.

        `others` is the number of further lists, which do not change.
        """
        self.change = change
        self.others = [f"other{number}@{OTHERS}" for number in range(others)]
        self.sinks = {
            name: LmtpSink(host=loopback_address(), port=PORT) for name in sorted(change.servers)
        }
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=directory / "hosts",
            main_cf={
                **mailman_parameters(directory / "maps", map_type),
                "enable_long_queue_ids": "yes",
                "lmtp_destination_concurrency_limit": str(AT_ONCE),
                "smtpd_hard_error_limit": "1000",
                **main_cf,
            },
        )
        self.site = Site(directory, self.postfix.config_directory, map_type)
        self.site.hosts.write_text("127.0.0.1 localhost\n")
        self._written: State | None = None

    def bring_about(self, state: State) -> tuple[str, ...]:
        """Write this state to Mailman's files and the configuration; return the command line."""
        if state.held:
            self._written = state
            return ("rollback", "1")
        was_held = self._written is not None and self._written.held
        self._write(state)
        self._written = state
        return ("resume",) if was_held else ("--once",)

    def _write(self, state: State) -> None:
        before = self._written
        known = before.mailmans if before and not before.held else State("").mailmans
        mailmans = state.mailmans or known
        sources = []
        for number, mailman in enumerate(mailmans):
            files = MailmanFiles(self.site.directory / f"data{number}")
            _write_lists(files, mailman, state, self.others)
            sources.append(
                {
                    "name": f"lists{number}",
                    "path": str(files.directory),
                    **self._where(mailman),
                    **({"cluster": "mm"} if len(mailmans) > 1 else {}),
                }
            )
        self.site.configure(sources=sources)

    def _where(self, mailman: Mailman) -> dict[str, Any]:
        address = self.sinks[mailman.server].host
        if mailman.by_address:
            return {"destination": f"lmtp:[{address}]:{PORT}"}
        return {"address": address}

    def serve(self, *states: State) -> None:
        """Have each LMTP server accept only the addresses that it has in one of these states."""
        for name, sink in self.sinks.items():
            sink.accept(
                {address for state in states if name in state.servers for address in state.accepted}
            )

    def install_first(self) -> None:
        """Install the states up to the first one; Postfix is stopped."""
        for state in self.change.history:
            done = self.site.call(*self.bring_about(state))
            assert done.returncode == 0, done

    def perform(self, means: Means) -> Run:
        """Install the first state, and change to the second one under load."""
        self.install_first()
        with ExitStack() as parts:
            for sink in self.sinks.values():
                parts.enter_context(sink)
                sink.slow(SECONDS)
            self.serve(self.change.first)
            apply = parts.enter_context(means(self))
            parts.enter_context(self.postfix)
            return self._under_load(apply)

    def _under_load(self, apply: Apply) -> Run:
        change, port = self.change, self.postfix.port
        first, second, to = change.first, change.second, change.recipients
        load = Load(port, to, per_second=PER_SECOND, seconds=LONGEST, sender=change.sender)
        sessions = [
            Session(port, to, per_second=IN_SESSION, sender=change.sender) for _ in range(SESSIONS)
        ]
        burst = []
        with ExitStack() as flow:
            flow.enter_context(load)
            flow.callback(load.stop)
            for session in sessions:
                flow.enter_context(session)
            wait_for_load(load, time.time() + WARM)
            if first.address:
                burst = send_in_one_session(port, first.address, BURST, sender=change.sender)
            self.serve(first, second)
            began = time.time()
            arguments = self.bring_about(second)
            kills = apply(arguments, lambda: wait_for_load(load, time.time()))
            ended = time.time()
            self.serve(second)
            wait_for_load(load, ended + AFTER)
        last = [send(port, address, sender=change.sender) for address in sorted(second.accepted)]
        in_sessions = [message for session in sessions for message in session.sent] + burst
        outcomes = final_outcomes(self.postfix, [*load.sent, *in_sessions, *last], PATIENCE)
        return Run(
            change=change,
            new=[*load.sent, *last],
            in_sessions=in_sessions,
            deliveries=[delivery for sink in self.sinks.values() for delivery in sink.deliveries()],
            offers={name: sink.offers() for name, sink in self.sinks.items()},
            outcomes=outcomes,
            began=began,
            ended=ended,
            kills=kills,
            log=self.postfix.log,
        )


def _write_lists(
    files: MailmanFiles, mailman: Mailman, state: State, others: Sequence[str]
) -> None:
    lists = [address for address in (state.address, DOGS, *others) if address]
    hop = f"lmtp:[{mailman.host}]:{PORT}"
    if not state.alias_domain:
        files.write(*lists, hop=hop)
        return
    aliases = {address: f"{address.partition('@')[0]}@{state.alias_domain}" for address in lists}
    files.write(hop=hop, aliases=aliases)


def _run(stage: Stage, arguments: Sequence[str]) -> int:
    done = stage.site.run(*arguments, timeout=120)
    assert done.returncode == 0, done
    return 0


@contextmanager
def by_command(stage: Stage) -> Iterator[Apply]:
    """Run the command."""

    def apply(arguments: Sequence[str], wait: Callable[[], None]) -> int:
        return _run(stage, arguments)

    yield apply


@contextmanager
def after_an_edit(stage: Stage) -> Iterator[Apply]:
    """Run the command after an edit of the text of the routes, of which no index was built.

    The text has already the routes of the second state.
    """
    [old], [new] = stage.change.first.mailmans, stage.change.second.mailmans
    text = stage.site.maps / ROUTES

    def apply(arguments: Sequence[str], wait: Callable[[], None]) -> int:
        text.write_text(text.read_text().replace(f"[{old.host}]", f"[{new.host}]"))
        return _run(stage, arguments)

    yield apply


@contextmanager
def after_a_removal(stage: Stage) -> Iterator[Apply]:
    """Run the command after the routes' index was removed and processes started without it."""
    index = stage.site.maps / f"{ROUTES}{INDEX_SUFFIX[stage.site.map_type]}"

    def apply(arguments: Sequence[str], wait: Callable[[], None]) -> int:
        index.unlink()
        [recipient] = stage.change.recipients
        wait_for(
            lambda: rcpt(stage.postfix.port, recipient, stage.change.sender) == 451,
            PATIENCE,
            "a process that does without it",
        )
        return _run(stage, arguments)

    yield apply


@contextmanager
def by_daemon(stage: Stage) -> Iterator[Apply]:
    """Have a daemon notice the change."""
    with RunningDaemon(stage.site) as daemon:
        daemon.wait_for_passes(1)

        def apply(arguments: Sequence[str], wait: Callable[[], None]) -> int:
            assert arguments == ("--once",)
            daemon.look()
            return 0

        yield apply


def killed_with(killer: Killer) -> Means:
    """Run the command, killed before its first step, then before its second, until it completes.

    After each kill, at least one message is sent.
    """

    @contextmanager
    def means(stage: Stage) -> Iterator[Apply]:
        def apply(arguments: Sequence[str], wait: Callable[[], None]) -> int:
            for event in itertools.count(1):
                ended = killer.run(stage.site, *arguments, event=event)
                if ended.returncode != -9:
                    assert ended.returncode == 0, ended
                    return event - 1
                wait()
            raise AssertionError("unreachable")

        yield apply

    return means
