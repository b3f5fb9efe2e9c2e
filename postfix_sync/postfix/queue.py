"""Mail that waits in the deferred queue for destinations of ours. Pure.

Postfix tells of its queue by `postqueue -j`; where a waiting message would go is known from the
routes that are installed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from postfix_sync.model import Destination, Table
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.next_hop import parse_next_hops

DEFERRED = "deferred"

NOT_REACHED = re.compile(
    r"(delivery temporarily suspended: )?"
    r"(connect to |lost connection with |conversation with .* timed out |unable to look up host "
    r"|Host or domain name not found|host \S+ refused to talk to me: )"
)
"""How Postfix's reason begins where lmtp(8) did not get as far as to offer the message."""


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"@(.*)')


def unquoted(address: str) -> str:
    """An address as tables have it, from how postqueue(1) prints it.

    Postfix quotes a local part that RFC 5321 has no other form for: `"an..ts"@example.net`.
    """
    found = _QUOTED.fullmatch(address)
    if not found:
        return address
    local = re.sub(r"\\(.)", r"\1", found[1])
    return f"{local}@{found[2]}"


@dataclass(frozen=True)
class Queued:
    """One message in Postfix's queue."""

    queue_id: str
    queue_name: str
    """maildrop, hold, incoming, active or deferred."""
    arrival_time: float
    """In seconds since the epoch."""
    recipients: tuple[tuple[str, str], ...]
    """The addresses that it still has to reach, each with Postfix's own reason for the delay."""

    @property
    def is_deferred(self) -> bool:
        """Whether Postfix leaves it alone for now.

        A reload moves what is just being tried to incoming; there it waits like deferred mail, with
        the reason, if that try has failed.
        """
        tried = any(reason for _, reason in self.recipients)
        return self.queue_name == DEFERRED or (self.queue_name == "incoming" and tried)


@dataclass(frozen=True)
class DeferredMail:
    """What waits for one destination."""

    queue_ids: tuple[str, ...] = ()
    """The messages, the oldest first."""
    oldest: float = 0.0
    """When the first of them arrived, in seconds since the epoch."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """What Postfix says of the delay, each with the number of recipients it says it of."""


def deferred_by_destination(
    messages: Iterable[Queued], routes: Table, fold: Fold, delimiters: str
) -> dict[Destination, DeferredMail]:
    """The deferred messages with a recipient that a route leads to, by destination.

    `fold` and `delimiters` are how this Postfix folds addresses, and its recipient_delimiter.
    """
    found: dict[Destination, dict[str, Queued]] = {}
    reasons: dict[Destination, dict[str, int]] = {}
    for message in messages:
        if not message.is_deferred:
            continue
        for address, reason in message.recipients:
            for hop in _next_hops(fold(address), routes, delimiters):
                found.setdefault(hop, {})[message.queue_id] = message
                said = reasons.setdefault(hop, {})
                said[reason] = said.get(reason, 0) + 1
    return {hop: _deferred(held.values(), reasons[hop]) for hop, held in found.items()}


def not_reached(messages: Iterable[Queued], since: float) -> list[Queued]:
    """The messages that arrived after `since` (seconds since the epoch), each with no more than
    the recipients whose mail waits because their destination was not reached."""
    found = []
    for message in messages:
        recipients = tuple(
            recipient for recipient in message.recipients if NOT_REACHED.match(recipient[1])
        )
        if recipients and message.arrival_time > since:
            found.append(replace(message, recipients=recipients))
    return found


def _deferred(messages: Iterable[Queued], reasons: Mapping[str, int]) -> DeferredMail:
    oldest_first = sorted(messages, key=lambda message: (message.arrival_time, message.queue_id))
    return DeferredMail(
        tuple(message.queue_id for message in oldest_first), oldest_first[0].arrival_time, reasons
    )


def _next_hops(address: str, routes: Table, delimiters: str) -> Iterator[Destination]:
    for key in without_extensions(address, delimiters):
        if key in routes:
            yield from parse_next_hops(routes[key])
            return


def without_extensions(address: str, delimiters: str) -> list[str]:
    """The address, and what each recipient_delimiter in its local part would leave of it."""
    local, at, domain = address.rpartition("@")
    cuts = [i for i, character in enumerate(local) if i and character in delimiters]
    return [address, *(local[:i] + at + domain for i in reversed(cuts))]


def without_extension(address: str, delimiters: str) -> str:
    """The address as Postfix looks it up second: cut at the first delimiter (split_addr(3))."""
    local, at, domain = address.rpartition("@")
    cut = next((i for i, character in enumerate(local) if character in delimiters), 0)
    return local[:cut] + at + domain if 0 < cut < len(local) - 1 else address
