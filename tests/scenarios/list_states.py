"""The states of a list, and every change from one state to another. Pure.

Mail is sent only to `ants`. `dogs` always exists in the same domain, so that the removal of `ants`
does not remove the domain, and no guard refuses a source without lists.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

from tests.parts.postfix_instance import SENDER

DOMAIN = "lists.example.net"
ANTS, DOGS = f"ants@{DOMAIN}", f"dogs@{DOMAIN}"


@dataclass(frozen=True)
class Mailman:
    """One Mailman, as a source of postfix-sync names it."""

    host: str
    """Its name for its LMTP server."""
    server: str
    """The LMTP server: A, B or C."""
    by_address: bool = False
    """Whether the configuration has its `destination:` instead of its `address:`."""


A = Mailman("mailman-a", "A")
B = Mailman("mailman-b", "B")
C = Mailman("mailman-c", "C")


@dataclass(frozen=True)
class State:
    """The list according to Mailman's files and the configuration."""

    name: str
    mailmans: tuple[Mailman, ...] = (A,)
    """The Mailmans with the list: several are a cluster; none means those of the previous state."""
    address: str = ANTS
    """The list's address; empty if there is no such list."""
    alias_domain: str = ""
    """The alias_domain of the list's domain, in which Postfix has the list as well."""
    held: bool = False
    """Whether a rollback holds this state, so that Mailman's files may differ."""

    @property
    def accepted(self) -> frozenset[str]:
        """The addresses of the list."""
        return frozenset({self.address, self.seen_at} - {""})

    @property
    def seen_at(self) -> str:
        """The recipient address in LMTP."""
        local, at, domain = self.address.partition("@")
        return f"{local}{at}{self.alias_domain or domain}"

    @property
    def servers(self) -> frozenset[str]:
        """The LMTP servers that may get the list's mail."""
        return frozenset(mailman.server for mailman in self.mailmans)


ABSENT = State("absent", mailmans=(), address="")
AT_A = State("at A")
AT_B = State("at B", (B,))
AT_C = State("at C", (C,))
RENAMED = State("at another name of A", (Mailman("mailman-new", "A"),))
READDRESSED = State("at B under the name of A", (Mailman("mailman-a", "B"),))
BY_ADDRESS = State("by address A", (Mailman("mailman-a", "A", by_address=True),))
ALIASED = State("aliased", alias_domain="alias.example.net")
OWN_DOMAIN = State("in a domain of its own", address="ants@own.example.org")
CLUSTER = State("in a cluster of A and B", (A, B))
HELD = State("held at C", (C,), held=True)

STATES = (
    ABSENT,
    AT_A,
    AT_B,
    RENAMED,
    READDRESSED,
    BY_ADDRESS,
    ALIASED,
    OWN_DOMAIN,
    CLUSTER,
    HELD,
)

ANOTHER: Mapping[State, State] = {
    AT_B: AT_C,
    BY_ADDRESS: State("by address B", (Mailman("mailman-a", "B", by_address=True),)),
    ALIASED: State("aliased to another", alias_domain="alias2.example.net"),
    OWN_DOMAIN: State("in another of its own", address="ants@own2.example.org"),
    CLUSTER: State("in a cluster of A and C", (A, C)),
}
"""Another state of the same kind, for a change within that kind."""

LEFT_OUT: Mapping[tuple[State, State], str] = {
    (ABSENT, ABSENT): "nothing changes",
    (AT_A, AT_A): "as from B to C",
    (RENAMED, RENAMED): "as from A to another name of it",
    (READDRESSED, READDRESSED): "as from A to another address of its name",
    (HELD, HELD): "a rollback changes the same maps, whether or not one is in force",
}
"""The pairs that are not tested, each with the reason."""


@dataclass(frozen=True)
class Change:
    """The list goes from one state to another in one sync."""

    first: State
    second: State

    @property
    def name(self) -> str:
        """The names of both states."""
        return f"{self.first.name} -> {self.second.name}"

    @property
    def id(self) -> str:
        """The name as a part of a test's id that `pytest -k` accepts."""
        return self.name.replace("->", "to").replace(" ", "_")

    @property
    def history(self) -> tuple[State, ...]:
        """The states to install before the change; the last one is `first`.

        A rollback needs the generation to install, and another one after it. An aliased list
        existed before its domain got an alias_domain, as is usual.
        """
        before: tuple[State, ...] = ()
        if HELD in (self.first, self.second):
            before += (AT_C,)
        if self.first in (HELD, ALIASED):
            before += (AT_A,)
        return (*before, self.first)

    @property
    def recipients(self) -> tuple[str, ...]:
        """The addresses that mail is sent to: only one if both states have the same.

        Postfix's processes cache their last lookup; mail to another address in between would
        hide a wrong cached value.
        """
        both = (self.first.address, self.second.address)
        return tuple(dict.fromkeys(address for address in both if address))

    @property
    def sender(self) -> str:
        """The sender of all messages: empty, as of bounces, if the list keeps its address.

        Refused mail is not returned then. The address of a returned message would be resolved,
        too, and replace the last lookup that qmgr(8) caches; but this test needs that to be kept.
        Mail to an address that is removed has a sender, because there the cached lookup would
        hide a missing route.
        """
        return "" if len(self.recipients) == 1 and self.second.address else SENDER

    @property
    def servers(self) -> frozenset[str]:
        """All LMTP servers of both states; A is among them if the list is absent at first."""
        states = (*self.history, self.second)
        return frozenset({A.server}).union(*(state.servers for state in states))


def generated() -> Iterator[tuple[State, State]]:
    """Yield every pair of states, each with itself included."""
    yield from permutations(STATES, 2)
    yield from ((state, state) for state in STATES)


def changes() -> list[Change]:
    """Return the change of each pair that is not left out; within a kind, to its other state."""
    return [
        Change(first, ANOTHER[first] if first == second else second)
        for first, second in generated()
        if (first, second) not in LEFT_OUT
    ]


KINDS = (
    Change(ABSENT, AT_A),
    Change(AT_A, ABSENT),
    Change(AT_A, AT_B),
    Change(AT_A, RENAMED),
    Change(AT_A, READDRESSED),
    Change(AT_A, BY_ADDRESS),
    Change(BY_ADDRESS, AT_A),
    Change(BY_ADDRESS, ANOTHER[BY_ADDRESS]),
    Change(AT_A, ALIASED),
    Change(AT_B, ALIASED),
    Change(ALIASED, AT_A),
    Change(ABSENT, OWN_DOMAIN),
    Change(OWN_DOMAIN, ABSENT),
    Change(AT_A, CLUSTER),
    Change(CLUSTER, AT_A),
    Change(AT_A, HELD),
    Change(HELD, AT_A),
)
"""One change of each kind, for every run of all tests."""
