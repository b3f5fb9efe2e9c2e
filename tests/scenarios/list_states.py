"""The states that one list can be in, and every change from one to another. Pure.

Mail is sent to `ants` only. `dogs` is in the same domain all the time, so that the domain stays
where `ants` is removed, and no guard sees a source without lists.
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
    """What it calls its LMTP server."""
    server: str
    """Which LMTP server that is: A, B or C."""
    by_address: bool = False
    """The configuration has its `destination:` instead of its `address:`."""


A = Mailman("mailman-a", "A")
B = Mailman("mailman-b", "B")
C = Mailman("mailman-c", "C")


@dataclass(frozen=True)
class State:
    """What Mailman's files and the configuration say of the list."""

    name: str
    mailmans: tuple[Mailman, ...] = (A,)
    """More than one are a cluster; none: whichever were there before."""
    address: str = ANTS
    """Where mail is sent; empty if there is no such list."""
    alias_domain: str = ""
    """The list's domain has this alias_domain in Mailman: Postfix sees the list there as well."""
    held: bool = False
    """A rollback has put it there: Mailman may say anything else."""

    @property
    def accepted(self) -> frozenset[str]:
        """The addresses that the list is reached at."""
        return frozenset({self.address, self.seen_at} - {""})

    @property
    def seen_at(self) -> str:
        """The address that the list's LMTP server is given."""
        local, at, domain = self.address.partition("@")
        return f"{local}{at}{self.alias_domain or domain}"

    @property
    def servers(self) -> frozenset[str]:
        """The LMTP servers that are right to deliver its mail to."""
        return frozenset(one.server for one in self.mailmans)


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
"""A state of the same kind, for a change within that kind."""

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
        """Both names."""
        return f"{self.first.name} -> {self.second.name}"

    @property
    def id(self) -> str:
        """The same, as a part of a test's id that `pytest -k` takes."""
        return self.name.replace("->", "to").replace(" ", "_")

    @property
    def history(self) -> tuple[State, ...]:
        """The states to install before the change, the first one at the end.

        A rollback needs the generation that it goes back to, and another one after it. An aliased
        list was there before its domain got an alias_domain, as is the rule.
        """
        before: tuple[State, ...] = ()
        if HELD in (self.first, self.second):
            before += (AT_C,)
        if self.first in (HELD, ALIASED):
            before += (AT_A,)
        return (*before, self.first)

    @property
    def recipients(self) -> tuple[str, ...]:
        """Where mail is sent: one address if the list has one and the same in both states.

        Postfix's processes remember the last answer that they got: mail to any other address in
        between would hide whatever is wrong with that.
        """
        both = (self.first.address, self.second.address)
        return tuple(dict.fromkeys(one for one in both if one))

    @property
    def sender(self) -> str:
        """Who sends all messages: nobody, as of bounces to a list, if the list keeps its address.

        What is refused is not returned then. A returned message would be resolved, too, and qmgr(8)
        remembers only its last answer: where it should not be used any more, it has to stay. Mail
        to an address that goes has a sender: there, the last answer would hide that the route is
        missing.
        """
        return "" if len(self.recipients) == 1 and self.second.address else SENDER

    @property
    def servers(self) -> frozenset[str]:
        """All LMTP servers that take part; A is there where Mailman begins without the list."""
        states = (*self.history, self.second)
        return frozenset({A.server}).union(*(state.servers for state in states))


def generated() -> Iterator[tuple[State, State]]:
    """Yield every pair of states, each with itself included."""
    yield from permutations(STATES, 2)
    yield from ((state, state) for state in STATES)


def changes() -> list[Change]:
    """Return the change of each pair that is not left out; within a kind, to another of it."""
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
