"""What is wanted of all that is known: guards, fallbacks and errors, each source by itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.errors import NotPlaced, OutOfReach, Refused
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.destination import Destination, Peer
from postfix_sync.model.installed import Condition, Installed, InstalledMap
from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables, Policy, Record
from postfix_sync.model.table import Table
from postfix_sync.reconcile.clusters import Ranking
from postfix_sync.reconcile.decide import Allowed, Decision, decide
from postfix_sync.reconcile.source_input import DISCOVERED, SourceInput
from tests.parts.mailman_files import nine

ANTS, BEES, CATS, DOGS = "ants@b.c", "bees@b.c", "cats@d.e", "dogs@d.e"
AWAY = OutOfReach("away")


def tables(*names: str, hop: str = "lmtp:[m]:24") -> MailmanTables:
    routes = {address: hop for name in names for address in nine(name)}
    return MailmanTables.of(routes, {name.rpartition("@")[2]: "x" for name in names}, {})


def many(count: int) -> MailmanTables:
    return tables(*(f"l{number}@b.c" for number in range(count)))


def installed(now: MailmanTables | None = None) -> Installed:
    maps = Maps.of(now or tables())
    return Installed({name: InstalledMap(maps[name], Condition.SOUND) for name in MAP_NAMES})


def ask(
    *asked: SourceInput,
    present: MailmanTables | None = None,
    rankings: dict[str, Ranking] | None = None,
    by_name: Callable[[str], bool] = lambda _: True,
    **forgotten: Record,
) -> Decision:
    """Those that name tables, or nothing at all, have answered."""
    answered = [replace(one, has_answered=one.error is None) for one in asked]
    return decide(
        answered,
        installed(present),
        rankings or {},
        forgotten=forgotten,
        allowed=Allowed(by_name=by_name),
    )


def lists(wanted: Decision) -> set[str]:
    assert wanted.maps
    return {key for key in wanted.maps["postfix_recipients"] if "-" not in key}


def messages(wanted: Decision) -> dict[str, list[str]]:
    return {name: [one.message for one in errors] for name, errors in wanted.errors.items()}


def test_what_was_known_counts_while_a_source_is_out_of_reach() -> None:
    found = ask(
        SourceInput("one", tables=tables(ANTS), recorded=Record(tables(ANTS))),
        SourceInput("two", error=AWAY, recorded=Record(tables(BEES))),
        present=tables(ANTS, BEES),
    )
    assert lists(found) == {ANTS, BEES}
    assert found.errors == {"one": (), "two": (AWAY,)}
    assert found.records == {"one": Record(tables(ANTS)), "two": Record(tables(BEES))}
    assert found.let_through == {"one"}


def test_what_nobody_is_known_to_have_stays_while_a_source_does_not_answer() -> None:
    """It may be that one's: its record may be older than its lists, or not be there."""
    one = SourceInput("one", tables=tables(ANTS), recorded=Record(tables(ANTS, BEES)))
    away = SourceInput("two", error=AWAY)
    for two in (away, replace(away, recorded=Record(tables(CATS)))):
        found = ask(one, two, present=tables(ANTS, BEES, CATS, DOGS))
        assert lists(found) == {ANTS, CATS, DOGS}
    found = ask(
        one, SourceInput("two", tables=tables(CATS)), present=tables(ANTS, BEES, CATS, DOGS)
    )
    assert lists(found) == {ANTS, CATS}


def test_what_stays_keeps_its_domain() -> None:
    one = SourceInput("one", tables=tables(ANTS), recorded=Record(tables(ANTS, CATS)))
    found = ask(one, SourceInput("two", error=AWAY), present=tables(ANTS, CATS, DOGS))
    assert found.maps
    assert lists(found) == {ANTS, DOGS}
    assert set(found.maps["postfix_domains"]) == {"b.c", "d.e"}


def test_a_source_that_was_taken_out_takes_its_lists_along() -> None:
    one = SourceInput("one", error=AWAY, recorded=Record(tables(ANTS)))
    old = Record(tables(BEES))
    assert lists(ask(one, present=tables(ANTS, BEES, CATS), old=old)) == {ANTS, CATS}
    renamed = replace(one, recorded=None)
    assert lists(ask(renamed, present=tables(ANTS, BEES), old=old)) == {ANTS, BEES}


def test_nothing_can_be_told_where_what_is_installed_is_not_known_either() -> None:
    maps = {**installed().maps, "postfix_vmap": InstalledMap(None, Condition.BROKEN)}

    def is_told(one: SourceInput) -> bool:
        found = decide([one], Installed(maps), {}, forgotten={})
        return found.maps is not None

    assert is_told(SourceInput("one", tables=many(1), has_answered=True))
    assert is_told(SourceInput("one", error=AWAY, recorded=Record(many(1))))
    assert not is_told(SourceInput("one", error=AWAY))


def test_a_guard_stops_one_source_only() -> None:
    before = many(30)
    found = ask(
        SourceInput("one", tables=tables(), recorded=Record(before)),
        SourceInput("two", tables=tables(ANTS)),
        present=before,
    )
    assert lists(found) == {*lists(ask(SourceInput("one", tables=before))), ANTS}
    assert messages(found)["one"][0].startswith("one: names no list at all, 30 are installed")
    assert messages(found)["two"] == []
    assert found.let_through == {"two"}


def test_a_guard_measures_a_source_by_its_own_lists() -> None:
    """Half of all lists go, and all that this source had."""
    found = ask(
        SourceInput("one", tables=many(1), recorded=Record(many(20))),
        SourceInput("two", recorded=Record(tables(ANTS, BEES, CATS))),
    )
    assert "19 of 20 lists are gone" in messages(found)["one"][0]
    forced = SourceInput("one", Policy().unguarded(), tables=tables(), recorded=Record(many(20)))
    assert not ask(forced).errors["one"]


def test_lists_of_unknown_origin_are_guarded_as_well() -> None:
    """Records were lost, or never there; together the sources name all that is installed."""
    present = replace(many(30), aliases=Aliases.of({}))
    halves = [
        tables(*(f"l{number}@b.c" for number in numbers)) for numbers in (range(15), range(15, 30))
    ]
    together = ask(
        *(SourceInput(str(n), tables=one) for n, one in enumerate(halves)), present=present
    )
    assert messages(together) == {"0": [], "1": []}
    found = ask(SourceInput("one", tables=many(2)), present=present)
    assert "28 of 30 lists are gone" in messages(found)["one"][0]
    assert len(lists(found)) == 30


def test_lists_that_have_only_routes_are_guarded_as_well() -> None:
    """As after the map of recipients was lost."""
    present = installed(many(30))
    present = replace(
        present, maps={**present.maps, RECIPIENTS: InstalledMap(Table({}, {}), Condition.BROKEN)}
    )
    answered = SourceInput("one", tables=many(2), has_answered=True)
    found = decide([answered], present, {}, forgotten={})
    assert "28 of 30 lists are gone" in messages(found)["one"][0]


def test_a_conflict_is_an_error_of_the_source_that_came_second() -> None:
    one, two = tables(ANTS, hop="lmtp:[a]:24"), tables(ANTS, BEES, hop="lmtp:[b]:24")
    found = ask(SourceInput("one", tables=one), SourceInput("two", tables=two))
    left_out = (
        "two: 1 list: ants@b.c is left out: one had an address of it first;"
        " everything else of two goes in"
    )
    assert messages(found) == {
        "one": [],
        "two": [left_out],
    }
    assert isinstance(found.errors["two"][0], Refused)
    assert lists(found) == {ANTS, BEES}
    assert found.let_through == {"one", "two"}
    assert found.records["two"].left_out == {ANTS}
    assert set(found.served("two")) == set(nine(BEES))
    again = ask(
        SourceInput("one", recorded=found.records["one"]),
        SourceInput("two", recorded=found.records["two"]),
    )
    assert again.records == found.records
    assert messages(again) == messages(found)


def test_a_source_out_of_reach_gets_what_it_was_left_without() -> None:
    """The other Mailman has removed the list."""
    two = Record(tables(ANTS, BEES, hop="lmtp:[b]:24"), left_out=frozenset([ANTS]))
    found = ask(
        SourceInput("one", tables=tables(CATS), recorded=Record(tables(ANTS))),
        SourceInput("two", error=AWAY, recorded=two),
    )
    assert lists(found) == {ANTS, BEES, CATS}
    assert found.records["two"].left_out == set()


def clashing(**before: Record) -> Decision:
    one, two = tables(ANTS, hop="lmtp:[m]:24"), tables(BEES, hop="lmtp:[m]:24")
    return ask(
        SourceInput("one", address="192.0.2.1", tables=one, recorded=before.get("one")),
        SourceInput("two", address="192.0.2.2", tables=two, recorded=before.get("two")),
    )


def test_a_host_name_with_two_addresses_would_take_mail_to_the_wrong_mailman() -> None:
    found = clashing()
    assert found.addresses == {"m": "192.0.2.1"}
    assert lists(found) == {ANTS}
    [said] = messages(found)["two"]
    assert said.startswith("two: names the host m, which has the address 192.0.2.1 for one,")
    assert "destination: lmtp:[192.0.2.2]:8024" in found.errors["two"][0].hint


def test_who_had_a_host_name_keeps_it() -> None:
    found = clashing(
        one=Record(tables(ANTS, hop="lmtp:[old]:24")), two=Record(tables(BEES, hop="lmtp:[m]:24"))
    )
    assert found.addresses == {"old": "192.0.2.1", "m": "192.0.2.2"}
    assert found.maps
    assert found.maps["postfix_lmtp"][ANTS] == "lmtp:[old]:24"


def test_a_name_that_another_source_has_an_address_for_leads_elsewhere() -> None:
    found = ask(
        SourceInput("one", address="192.0.2.1", tables=tables(ANTS)),
        SourceInput("two", tables=tables(BEES)),
    )
    assert lists(found) == {ANTS}
    [said] = messages(found)["two"]
    assert said.startswith("two: names the host m, which has the address 192.0.2.1 for one,")


def test_an_address_takes_no_name_away_that_another_source_uses() -> None:
    """Whoever runs the one Mailman would get the other's mail."""
    two = Record(tables(BEES, hop="lmtp:[mm2]:24"))
    found = ask(
        SourceInput("one", address="10.6.6.6", tables=tables(ANTS, hop="lmtp:[mm2]:24")),
        SourceInput("two", tables=two.tables, recorded=two),
    )
    assert found.addresses == {}
    assert lists(found) == {BEES}
    assert "which has no address: here for two" in messages(found)["one"][0]


def test_what_is_known_is_confined_to_what_is_configured_today() -> None:
    old = Record(tables(ANTS, CATS, hop="lmtp:[old]:24"))
    domains = Policy(domains=frozenset(["B.C"]))
    found = ask(SourceInput("one", domains, error=AWAY, recorded=old), present=old.tables)
    assert lists(found) == {ANTS}
    hop = Policy(destination=Destination("new", 24))
    found = ask(SourceInput("one", hop, error=AWAY, recorded=old), present=old.tables)
    assert found.maps
    assert set(found.maps["postfix_lmtp"].values()) == {"lmtp:[new]:24"}


def test_the_peers_address_is_remembered() -> None:
    one = SourceInput("one", address=DISCOVERED, tables=tables(ANTS), peer=Peer(("192.0.2.7",)))
    found = ask(one)
    assert found.addresses == {"m": "192.0.2.7"}
    away = ask(SourceInput("one", address=DISCOVERED, error=AWAY, recorded=found.records["one"]))
    assert away.addresses == {"m": "192.0.2.7"}
    assert away.records == found.records
    elsewhere = Peer(("192.0.2.8",))
    moved = ask(
        SourceInput("one", address=DISCOVERED, peer=elsewhere, recorded=found.records["one"])
    )
    assert moved.addresses == {"m": "192.0.2.8"}
    assert ask(SourceInput("one", address=DISCOVERED, tables=tables(ANTS))).addresses == {}


PLACED = Policy(is_placed=True)
GONE = NotPlaced("container mm (docker): does not run", fix="docker start mm")


def contained(answer: MailmanTables | None = None, **others: Any) -> SourceInput:
    """A source whose Mailman is in a container."""
    return SourceInput("one", PLACED, address=DISCOVERED, tables=answer, **others)


def hops(wanted: Decision) -> set[str]:
    assert wanted.maps
    return set(wanted.maps["postfix_lmtp"].values())


def test_routes_follow_a_container_whatever_mailman_wrote() -> None:
    written = tables(ANTS, hop="lmtp:[]:8024")
    found = ask(contained(written, peer=Peer(("172.17.0.2",))))
    assert hops(found) == {"lmtp:[172.17.0.2]:8024"}
    assert found.records == {"one": Record(written, Peer(("172.17.0.2",)))}, "as Mailman wrote it"
    assert found.let_through == {"one"}
    moved = ask(contained(peer=Peer(("172.17.0.9",)), recorded=found.records["one"]))
    assert hops(moved) == {"lmtp:[172.17.0.9]:8024"}
    assert moved.records["one"].peer == Peer(("172.17.0.9",))
    assert moved.addresses == {}


def test_a_containers_names_have_its_address() -> None:
    peer = Peer(published={24: Destination("127.0.0.1", 1024)})
    found = ask(contained(tables(ANTS), peer=peer))
    assert hops(found) == {"lmtp:[m]:1024"}
    assert found.addresses == {"m": "127.0.0.1"}


def no_name(_: str) -> bool:
    """The hosts file is copied into containers."""
    return False


@pytest.mark.parametrize(
    ("one", "hop"),
    [
        (SourceInput("one", address="127.0.0.1", tables=tables(ANTS)), "lmtp:[127.0.0.1]:24"),
        (
            SourceInput("one", address=DISCOVERED, tables=tables(ANTS), peer=Peer(("fd00::2",))),
            "lmtp:[fd00::2]:24",
        ),
        (contained(tables(ANTS), peer=Peer(("172.17.0.2",))), "lmtp:[172.17.0.2]:24"),
        (
            contained(tables(ANTS), peer=Peer(published={24: Destination("127.0.0.1", 1024)})),
            "lmtp:[127.0.0.1]:1024",
        ),
    ],
)
def test_routes_have_the_address_of_a_name_that_must_not_enter(one: SourceInput, hop: str) -> None:
    found = ask(one, by_name=no_name)
    assert hops(found) == {hop}
    assert found.addresses == {}
    [(address, named)] = found.replaced.items()
    assert address.next_hop == hop
    assert named == replace(address, host="m")
    assert found.kept_out == {"m": address.host}
    assert found.records["one"].tables == one.tables, "as Mailman wrote it"
    kept = ask(one, by_name=lambda name: name == "m")
    assert hops(kept) == {f"lmtp:[m]:{address.port}"}
    assert kept.addresses == {"m": address.host}
    assert not kept.kept_out
    assert not kept.replaced


def test_a_name_without_a_known_address_is_left_to_the_resolver() -> None:
    found = ask(SourceInput("one", tables=tables(ANTS)), by_name=no_name)
    assert hops(found) == {"lmtp:[m]:24"}
    assert found.kept_out == found.addresses == {}


def test_replicas_have_their_addresses_in_place_of_names() -> None:
    found = ask(
        SourceInput(
            "one", cluster="c", address="192.0.2.1", tables=tables(ANTS, hop="lmtp:[m]:24")
        ),
        SourceInput(
            "two", cluster="c", address="192.0.2.2", tables=tables(ANTS, hop="lmtp:[n]:24")
        ),
        by_name=no_name,
    )
    [party] = found.merged.parties
    assert set(party.replicas) == {Destination("192.0.2.1", 24), Destination("192.0.2.2", 24)}
    [hop] = hops(found)
    assert {"[192.0.2.1]:24", "[192.0.2.2]:24"} == set(hop.removeprefix("lmtp:").split(", "))


def test_a_name_that_must_not_enter_is_reported_once() -> None:
    new = SourceInput("one", address="127.0.0.1", tables=tables(ANTS))
    assert ask(new, by_name=no_name).newly_kept_out == {"m"}
    known = replace(new, recorded=Record(tables(ANTS)))
    assert ask(known, present=tables(ANTS), by_name=no_name).newly_kept_out == {"m"}, "an upgrade"
    by_number = tables(ANTS, hop="lmtp:[127.0.0.1]:24")
    assert ask(known, present=by_number, by_name=no_name).newly_kept_out == set()
    lingering = installed(tables(BEES, hop="lmtp:[127.0.0.1]:24"))
    routes = lingering.table("postfix_lmtp") | Table.of({ANTS: "lmtp:[m]:24"})
    lingering = replace(
        lingering,
        maps={**lingering.maps, "postfix_lmtp": InstalledMap(routes, Condition.SOUND)},
    )
    one = replace(new, tables=tables(BEES), recorded=Record(tables(BEES)), has_answered=True)
    found = decide([one], lingering, {}, forgotten={}, allowed=Allowed(by_name=no_name))
    assert found.newly_kept_out == set(), "a removed list's route names it while mail waits"


def test_a_container_that_is_gone_keeps_its_place() -> None:
    """Its files can be read all the same, also where it has never been asked before."""
    before = Record(tables(ANTS, hop="lmtp:[]:24"), Peer(("172.17.0.2",)))
    new = tables(ANTS, BEES, hop="lmtp:[]:24")
    found = ask(contained(new, misplaced=GONE, recorded=before), present=tables(ANTS))
    assert hops(found) == {"lmtp:[172.17.0.2]:24"}
    assert lists(found) == {ANTS, BEES}
    assert found.let_through == {"one"}
    [error] = found.errors["one"]
    assert isinstance(error, NotPlaced)
    assert error.message == (
        "one: container mm (docker): does not run; its last known address, 172.17.0.2, stays in"
        " use, and mail waits for it"
    )
    assert error.hint == "docker start mm"


def test_a_container_that_is_gone_keeps_its_published_ports() -> None:
    peer = Peer(published={24: Destination("127.0.0.1", 8024)})
    before = Record(tables(ANTS, hop="lmtp:[]:24"), peer)
    found = ask(contained(misplaced=GONE, recorded=before), present=tables(ANTS))
    assert hops(found) == {"lmtp:[127.0.0.1]:8024"}
    assert "; its last known ports stay in use" in messages(found)["one"][0]


@pytest.mark.parametrize("hop", ["lmtp:[]:24", "lmtp:[m]:24"])
def test_without_any_known_address_nothing_is_taken_in_and_nothing_goes(hop: str) -> None:
    """Lists that have nowhere to go are not accepted; those that are installed have a route."""
    present = tables(ANTS, hop="lmtp:[m]:24")
    for recorded in (None, Record(tables(ANTS, hop=hop))):
        one = contained(tables(ANTS, BEES, hop=hop), misplaced=GONE, recorded=recorded)
        found = ask(one, SourceInput("two", tables=tables(CATS)), present=present)
        assert lists(found) == {ANTS, CATS}
        assert hops(found) == {"lmtp:[m]:24"}
        assert found.let_through == {"two"}
        assert "so its lists can't be taken in yet" in messages(found)["one"][0]


def test_a_port_that_is_not_published_refuses_what_leads_there() -> None:
    peer = Peer(published={24: Destination("127.0.0.1", 1024)})
    before = Record(tables(ANTS, hop="lmtp:[]:24"), peer)
    found = ask(
        contained(tables(ANTS, BEES, hop="lmtp:[]:25"), peer=peer, recorded=before),
        present=tables(ANTS),
    )
    assert hops(found) == {"lmtp:[127.0.0.1]:1024"}
    assert lists(found) == {ANTS}
    assert "leads to port 25 of its container" in messages(found)["one"][0]
    # The port is published no more: the installed routes stay as they were.
    elsewhere = Peer(published={9: Destination("127.0.0.1", 9)})
    found = ask(contained(peer=elsewhere, recorded=before), present=tables(ANTS))
    assert hops(found) == {"lmtp:[127.0.0.1]:1024"}


@given(st.sampled_from([None, Peer(), Peer(("172.17.0.2",)), Peer(published={})]), st.booleans())
def test_what_mailman_could_not_mean_never_gets_into_a_map(peer: Peer | None, known: bool) -> None:
    """One malformed next hop stops all LMTP delivery of the host."""
    written = tables(ANTS, hop="lmtp:[]:24")
    recorded = Record(written, Peer(("172.17.0.3",)) if known else None)
    for answer in (None, written):
        found = ask(contained(answer, peer=peer, recorded=recorded), present=tables())
        assert hops(found) <= {"lmtp:[172.17.0.2]:24", "lmtp:[172.17.0.3]:24"}


def test_replicas_are_one_party() -> None:
    shares = {
        name: SourceInput(name, cluster="mm", tables=tables(ANTS, hop=f"lmtp:[{name}]:24"))
        for name in ("one", "two")
    }
    found = ask(*shares.values())
    assert messages(found) == {"one": [], "two": []}
    assert found.maps
    assert found.maps["postfix_lmtp"][ANTS].count("[") == 2
    assert [(party.name, len(party.replicas)) for party in found.merged.parties] == [("mm", 2)]
    again = ask(*shares.values(), rankings={"mm": Ranking(frozenset(["one:24"]))})
    assert again.maps
    assert again.maps["postfix_lmtp"][ANTS] == "lmtp:[two]:24, [one]:24"


@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_the_configured_limit_counts(limit: float) -> None:
    policy = Policy(max_removed=limit)
    found = ask(SourceInput("one", policy, tables=many(1), recorded=Record(many(20))))
    assert bool(found.errors["one"]) == (limit < 0.9)


NAMES = ["a@b.c", "a-owner@b.c", "b@b.c", "c@d.e", "d@d.e", "e@f.g"]


def answering(order: list[int], wants: list[frozenset[str]], cluster: str | None) -> list[Decision]:
    """Sources answer one after the other, a pass after each; what each pass wants."""
    passes: list[Decision] = []
    records: dict[str, Record] = {}
    present = Maps.of(tables())
    for turn in order:
        asked = [
            SourceInput(
                str(number),
                Policy().unguarded(),
                cluster=cluster,
                recorded=records.get(str(number)),
                tables=tables(*names, hop=f"lmtp:[{number}.m]:24") if number == turn else None,
                has_answered=number == turn,
            )
            for number, names in enumerate(wants)
        ]
        maps = {name: InstalledMap(present[name], Condition.SOUND) for name in MAP_NAMES}
        wanted = decide(asked, Installed(maps), {}, forgotten={})
        assert wanted.maps
        present, records = wanted.maps, dict(wanted.records)
        passes.append(wanted)
    return passes


@given(
    order=st.permutations(range(4)),
    again=st.permutations(range(4)),
    owners=st.lists(st.integers(0, 3), min_size=len(NAMES), max_size=len(NAMES)),
)
def test_the_order_of_answers_makes_no_difference(
    order: list[int], again: list[int], owners: list[int]
) -> None:
    """Where each address is one source's, or all are replicas."""
    wants = [
        frozenset(n for n, one in zip(NAMES, owners, strict=True) if one == i) for i in range(4)
    ]
    separate = [names - {"a-owner@b.c"} for names in wants]  # which is an address of a@ as well
    for some, cluster in ((separate, None), (wants, "mm")):
        one, other = (answering(turns, some, cluster)[-1] for turns in (order, again))
        assert one.maps == other.maps
        assert one.records == other.records
        assert not any(errors for errors in one.errors.values())


@given(
    order=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    wants=st.lists(st.frozensets(st.sampled_from(NAMES)), min_size=4, max_size=4),
)
def test_whoever_came_first_keeps_what_it_has(
    order: list[int], wants: list[frozenset[str]]
) -> None:
    """As long as it names it, in whatever order all of them answer again."""
    owners: dict[str, str] = {}
    for wanted in answering(order, wants, None):
        assert wanted.maps
        routes = wanted.maps["postfix_lmtp"]
        for name, owner in owners.items():
            assert routes[name] == owner
        owners.update({name: routes[name] for name in routes})
        assert routes.keys() == wanted.maps["postfix_recipients"].keys()
