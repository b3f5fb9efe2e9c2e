"""Find the deferred mail of the installed routes' destinations. Pure.

`postqueue -j` lists Postfix's queue; the installed routes say to which destination each recipient
of a deferred message leads.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from postfix_sync.model.destination import Destination
from postfix_sync.model.table import Table
from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.next_hop import parse_next_hops

DEFERRED = "deferred"

NOT_REACHED = re.compile(
    r"(delivery temporarily suspended: )?"
    r"(connect to |lost connection with |conversation with .* timed out |unable to look up host "
    r"|Host or domain name not found|host \S+ refused to talk to me: )"
)
"""The beginning of Postfix's reason for a delay if lmtp(8) could not offer the message at all."""


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"@(.*)')


def unquoted(address: str) -> str:
    """Return an address that postqueue(1) printed as tables have it.

    Postfix quotes a local part that is not an RFC 5321 dot-string: `"an..ts"@example.net`.
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
    """The recipients that are not delivered yet, each with Postfix's reason for the delay."""

    @property
    def is_deferred(self) -> bool:
        """Whether Postfix does not try to deliver the message for now.

        A reload moves the messages of the active queue to incoming. A message there that has a
        reason for a delay has failed to be delivered, and is retried like deferred mail.
        """
        tried = any(reason for _, reason in self.recipients)
        return self.queue_name == DEFERRED or (self.queue_name == "incoming" and tried)


@dataclass(frozen=True)
class DeferredMail:
    """The deferred mail of a destination."""

    queue_ids: tuple[str, ...] = ()
    """The queue ids of the messages, the oldest first."""
    oldest: float = 0.0
    """When the oldest message arrived, in seconds since the epoch."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Postfix's reasons for the delay, each with the number of recipients that it delays."""


def deferred_by_destination(
    messages: Iterable[Queued], routes: Table[str], fold: Fold, delimiters: str
) -> dict[Destination, DeferredMail]:
    """Return the deferred mail of each destination that a recipient's route leads to.

    `fold` is how this Postfix folds addresses, `delimiters` its recipient_delimiter.
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
    """Return the messages that Postfix could not offer to their destination.

    Only messages that arrived after `since` (seconds since the epoch) count, each with only the
    recipients that were not reached.
    """
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


def _next_hops(address: str, routes: Table[str], delimiters: str) -> Iterator[Destination]:
    for key in without_extensions(address, delimiters):
        if key in routes:
            yield from parse_next_hops(routes[key])
            return


def without_extensions(address: str, delimiters: str) -> list[str]:
    """Return the address, and the address cut at each delimiter, the longest first."""
    local, at, domain = address.rpartition("@")
    cuts = [i for i, character in enumerate(local) if i and character in delimiters]
    return [address, *(local[:i] + at + domain for i in reversed(cuts))]


def without_extension(address: str, delimiters: str) -> str:
    """Return the address cut at the first delimiter, as Postfix's second lookup (split_addr(3))."""
    local, at, domain = address.rpartition("@")
    cut = next((i for i, character in enumerate(local) if character in delimiters), 0)
    return local[:cut] + at + domain if 0 < cut < len(local) - 1 else address
