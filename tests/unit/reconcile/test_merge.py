"""Merging: who has which list, where replicas' lists lead, and what never happens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.model.destination import Destination
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables, Record
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import parse_next_hops, render_next_hops
from postfix_sync.reconcile.clusters import Ranking, reordered
from postfix_sync.reconcile.merge import Claim, Clash, host_addresses, merge, without
from postfix_sync.reconcile.partial_maps import held_back, with_unclaimed
from tests.parts.mailman_files import lists_of, nine

ANTS, BEES, CATS = "ants@b.c", "bees@b.c", "cats@d.e"


def tables(
    *names: str, hop: str = "lmtp:[m]:24", aliases: Mapping[str, str] | None = None
) -> MailmanTables:
    """What a Mailman asks for; `aliases` are whole lists' names, in the mail host -> elsewhere."""
    routes = {address: hop for name in names for address in nine(name)}
    domains = {name.rpartition("@")[2]: name.rpartition("@")[2] for name in names}
    pairs = [
        pair
        for key, value in (aliases or {}).items()
        for pair in zip(nine(key), nine(value), strict=True)
    ]
    return MailmanTables.of(routes, domains, dict(pairs))


def claim(
    source: str,
    now: MailmanTables,
    before: MailmanTables | None = None,
    cluster: str | None = None,
    left_out: Sequence[str] = (),
) -> Claim:
    old = Record(before, left_out=frozenset(left_out)) if before else None
    return Claim(source, cluster, Record(now), old)


def routes(*claims: Claim, ranking: Ranking | None = None, several: bool = True) -> dict[str, str]:
    """The lists of the merged tables, and where they lead."""
    rankings = {"mm": ranking} if ranking else {}
    merged = merge(claims, rankings, several_hops=several).tables
    assert set(merged.routes) == {one for name in lists_of(merged.routes) for one in nine(name)}
    return {name: merged.routes[name] for name in lists_of(merged.routes)}


def lost(*claims: Claim) -> dict[str, dict[str, str]]:
    """What is left out."""
    left_out = merge(claims, {}, several_hops=True).left_out
    return {source: dict(lists) for source, lists in left_out.items() if lists}


def test_separate_mailmans_are_put_together() -> None:
    one, two = tables(ANTS, hop="lmtp:[a]:24"), tables(BEES, CATS, hop="lmtp:[b]:24")
    assert routes(claim("one", one), claim("two", two)) == {
        ANTS: "lmtp:[a]:24",
        BEES: "lmtp:[b]:24",
        CATS: "lmtp:[b]:24",
    }
    merged = merge([claim("one", one), claim("two", two)], {}, several_hops=True)
    assert merged.tables.domains == {"b.c": "b.c", "d.e": "d.e"}
    assert [party.name for party in merged.parties] == ["one", "two"]
    assert lost(claim("one", one), claim("two", two)) == {}


def test_domain_of_two_sources_has_the_value_of_the_first() -> None:
    """As where only the first one's Mailman has an alias_domain."""
    one = replace(tables(ANTS), domains={"b.c": "mail.example"})
    two = replace(tables(BEES), domains={"b.c": "b.c"})
    for first, second in ((one, two), (two, one)):
        merged = merge([claim("one", first), claim("two", second)], {}, several_hops=True)
        assert merged.tables.domains == first.domains


def test_of_two_new_claims_the_first_in_the_file_wins() -> None:
    one, two = tables(ANTS, hop="lmtp:[a]:24"), tables(ANTS, CATS, hop="lmtp:[b]:24")
    assert routes(claim("one", one), claim("two", two)) == {
        ANTS: "lmtp:[a]:24",
        CATS: "lmtp:[b]:24",
    }
    assert lost(claim("one", one), claim("two", two)) == {"two": {ANTS: "one"}}


def test_who_had_a_list_keeps_it() -> None:
    one, two = tables(ANTS, hop="lmtp:[a]:24"), tables(ANTS, hop="lmtp:[b]:24")
    claims = claim("one", one), claim("two", two, before=two)
    assert routes(*claims) == {ANTS: "lmtp:[b]:24"}
    assert lost(*claims) == {"one": {ANTS: "two"}}


def test_a_list_that_was_left_out_was_not_had() -> None:
    one, two = tables(ANTS, hop="lmtp:[a]:24"), tables(ANTS, hop="lmtp:[b]:24")
    claims = claim("one", one, before=one, left_out=[ANTS]), claim("two", two, before=two)
    assert lost(*claims) == {"one": {ANTS: "two"}}


def test_a_list_passes_on_when_its_owner_drops_it() -> None:
    two = tables(ANTS, hop="lmtp:[b]:24")
    claims = claim("one", tables(BEES)), claim("two", two, before=two, left_out=[ANTS])
    assert routes(*claims)[ANTS] == "lmtp:[b]:24"


def test_a_list_is_left_out_whole_for_one_of_its_addresses() -> None:
    """`ants` has the address ants-owner@, which is a list of the other Mailman."""
    one, two = tables("ants-owner@b.c"), tables(ANTS, BEES)
    assert lost(claim("one", one), claim("two", two)) == {"two": {ANTS: "one"}}
    assert set(routes(claim("one", one), claim("two", two))) == {"ants-owner@b.c", BEES}


def test_an_alias_takes_an_address_as_a_list_does() -> None:
    """Mail to the other Mailman's list would be turned away to the alias's list."""
    one = tables("ants@x.y", aliases={ANTS: "ants@x.y"})
    two = tables(ANTS, BEES)
    assert lost(claim("one", one), claim("two", two, before=two)) == {"one": {ANTS: "two"}}
    kept = merge([claim("one", one), claim("two", two, before=two)], {}, several_hops=True)
    assert kept.tables.aliases == {}
    assert set(lists_of(kept.tables.routes)) == {"ants@x.y", ANTS, BEES}


def test_an_alias_that_is_new_takes_no_list_away() -> None:
    """Though the list that it leads to was there before."""
    before, two = tables("ants@x.y"), tables(ANTS)
    one = tables("ants@x.y", aliases={ANTS: "ants@x.y"})
    claims = claim("one", one, before=before), claim("two", two, before=two)
    assert lost(*claims) == {"one": {ANTS: "two"}}
    assert set(routes(*claims)) == {"ants@x.y", ANTS}
    had = claim("one", one, before=one), claim("two", two)
    assert lost(*had) == {"two": {ANTS: "one"}}
    assert merge(had, {}, several_hops=True).tables.aliases == one.aliases


def test_aliases_of_a_removed_list_are_removed_with_it() -> None:
    both = tables(ANTS, BEES, aliases={"ants@x.y": ANTS, "bees@x.y": BEES})
    assert without(both, {ANTS}).aliases.keys() == {*nine("bees@x.y")}


def test_aliases_are_removed_alone_and_their_list_is_kept() -> None:
    both = tables(ANTS, BEES, aliases={"ants@x.y": ANTS, "bees@x.y": BEES})
    kept = without(both, {"ants@x.y"})
    assert kept.aliases.keys() == {*nine("bees@x.y")}
    assert lists_of(kept.routes) == {ANTS, BEES}


def test_aliases_of_a_list_that_is_left_out_take_no_address() -> None:
    one = tables(ANTS, aliases={BEES: ANTS})
    two, three = tables(ANTS), tables(BEES)
    claims = claim("one", one), claim("two", two, before=two), claim("three", three)
    assert lost(*claims) == {"one": {ANTS: "two"}}
    assert set(routes(*claims)) == {ANTS, BEES}


def test_replica_is_left_without_only_the_lists_that_it_names() -> None:
    old = tables(ANTS)
    claims = [
        claim("one", tables(ANTS), cluster="mm"),
        claim("two", tables(BEES), cluster="mm"),
        claim("three", old, before=old),
    ]
    assert lost(*claims) == {"one": {ANTS: "three"}}


def test_a_domain_goes_with_its_last_list() -> None:
    both = tables(ANTS, CATS)
    assert without(both, {CATS}).domains == {"b.c": "b.c"}
    assert without(both, frozenset()) is both


def test_replicas_share_their_lists() -> None:
    one, two = tables(ANTS, hop="lmtp:[a]:24"), tables(ANTS, hop="lmtp:[b]:24")
    claims = claim("one", one, cluster="mm"), claim("two", two, cluster="mm")
    found = routes(*claims)[ANTS]
    assert found in {"lmtp:[a]:24, [b]:24", "lmtp:[b]:24, [a]:24"}
    assert lost(*claims) == {}
    assert routes(*claims, several=False)[ANTS] == found.partition(",")[0]


def test_a_list_that_one_replica_knows_goes_to_that_one() -> None:
    one, two = tables(ANTS, BEES, hop="lmtp:[a]:24"), tables(ANTS, hop="lmtp:[b]:24")
    found = routes(claim("one", one, cluster="mm"), claim("two", two, cluster="mm"))
    assert found[BEES] == "lmtp:[a]:24"


def test_the_load_is_spread_and_stays_where_it_is() -> None:
    names = [f"l{number}@b.c" for number in range(100)]
    one, two = tables(*names, hop="lmtp:[a]:24"), tables(*names, hop="lmtp:[b]:24")
    claims = [claim("one", one, cluster="mm"), claim("two", two, cluster="mm")]
    found = routes(*claims)
    assert 30 < sum(value.startswith("lmtp:[a]") for value in found.values()) < 70
    assert routes(*reversed(claims)) == found


def test_all_addresses_of_a_list_go_the_same_way() -> None:
    both = [tables(ANTS, "ants-owner@b.c", hop=f"lmtp:[{host}]:24") for host in ("a", "b")]
    claims = [claim(str(number), one, cluster="mm") for number, one in enumerate(both)]
    merged = merge(claims, {}, several_hops=True).tables.routes
    assert len({merged[one] for one in nine(ANTS) if one != "ants-owner@b.c"}) == 1
    assert len({merged[one] for one in nine("ants-owner@b.c")}) == 1


def test_what_is_down_is_tried_last_and_what_has_no_address_never_is() -> None:
    shares = [tables(ANTS, hop=f"lmtp:[{host}]:24") for host in ("a", "b")]
    claims = [claim(str(number), one, cluster="mm") for number, one in enumerate(shares)]
    for down, up in (("a", "b"), ("b", "a")):
        last = Ranking(frozenset([f"{down}:24"]))
        assert routes(*claims, ranking=last)[ANTS] == f"lmtp:[{up}]:24, [{down}]:24"
        nameless = Ranking(frozenset([f"{down}:24"]), frozenset([f"{down}:24"]))
        assert routes(*claims, ranking=nameless)[ANTS] == f"lmtp:[{down}]:24, [{up}]:24"
        all_down = Ranking(frozenset(["a:24", "b:24"]), frozenset([f"{down}:24"]))
        assert routes(*claims, ranking=all_down)[ANTS] == f"lmtp:[{down}]:24, [{up}]:24"


def test_each_replica_has_a_list_to_be_asked_for() -> None:
    one, two = tables(BEES, hop="lmtp:[a]:24"), tables(ANTS, BEES, hop="lmtp:[b]:24")
    claims = [claim("one", one, cluster="mm"), claim("two", two, cluster="mm")]
    [party] = merge(claims, {}, several_hops=False).parties
    assert party.replicas == {Destination("a", 24): BEES, Destination("b", 24): ANTS}


def test_an_alias_that_is_no_whole_list_is_no_reason_to_fail() -> None:
    """As in a record that somebody has edited."""
    odd = MailmanTables.of(tables(ANTS, BEES).routes, {}, {"odd@b.c": ANTS})
    assert without(odd, {BEES}).aliases == {"odd@b.c": ANTS}
    assert without(odd, {ANTS}).aliases == {}


def test_a_cluster_is_another_party_than_a_source_of_that_name() -> None:
    claims = claim("mm", tables(ANTS)), claim("two", tables(ANTS), cluster="mm")
    assert lost(*claims) == {"two": {ANTS: "mm"}}


def test_next_hops_are_read_as_they_are_written() -> None:
    hops = (Destination("a", 1), Destination("::1", 2), Destination("192.0.2.1", 3))
    assert render_next_hops(hops) == "lmtp:[a]:1, [::1]:2, [192.0.2.1]:3"
    assert parse_next_hops(render_next_hops(hops)) == hops
    assert parse_next_hops("lmtp:[a]:1") == hops[:1]


@pytest.mark.parametrize("value", ["smtp:[a]", "lmtp:[a]:1, lmtp:[b]:1", "lmtp:[a]:1 [b]:1", ""])
def test_what_somebody_else_wrote_is_no_next_hop_of_ours(value: str) -> None:
    assert parse_next_hops(value) == ()


def test_a_host_name_has_one_address() -> None:
    one, two = tables(ANTS, hop="lmtp:[m]:24"), tables(BEES, hop="lmtp:[m]:24")
    addresses = {"one": "192.0.2.1", "two": "192.0.2.2"}
    new = [claim("one", one), claim("two", two)]
    assert host_addresses(new, addresses) == (
        {"m": "192.0.2.1"},
        {"two": Clash("m", "192.0.2.1", "one")},
    )
    had = [claim("one", one), claim("two", two, before=two)]
    assert host_addresses(had, addresses) == (
        {"m": "192.0.2.2"},
        {"one": Clash("m", "192.0.2.2", "two")},
    )
    assert host_addresses(new, dict.fromkeys(addresses, "192.0.2.1"))[1] == {}


def test_a_name_with_an_address_is_another_place_than_one_without() -> None:
    one, two = tables(ANTS, hop="lmtp:[m]:24"), tables(BEES, hop="lmtp:[m]:24")
    address = {"two": "192.0.2.2"}
    new = [claim("one", one), claim("two", two)]
    assert host_addresses(new, address) == ({}, {"two": Clash("m", None, "one")})
    had = [claim("one", one), claim("two", two, before=two)]
    assert host_addresses(had, address) == (
        {"m": "192.0.2.2"},
        {"one": Clash("m", "192.0.2.2", "two")},
    )
    assert host_addresses(new, {}) == ({}, {})


def test_what_nobody_is_known_to_have_stays() -> None:
    installed = Maps.of(tables(ANTS, BEES, hop="lmtp:[old]:24", aliases={CATS: ANTS}))
    merged = Maps.of(tables(BEES, CATS))
    found = with_unclaimed(merged, installed, [])
    assert found["postfix_lmtp"][ANTS] == "lmtp:[old]:24"
    assert found["postfix_lmtp"][BEES] == "lmtp:[m]:24"
    assert set(found["postfix_domains"]) == {"b.c", "d.e"}
    assert CATS not in found["postfix_vmap"]  # is a list by now
    assert ANTS not in with_unclaimed(merged, installed, [tables(ANTS)])["postfix_lmtp"]


def test_an_address_that_only_has_a_route_left_is_not_accepted_again() -> None:
    present = Maps.of(tables(ANTS))
    routed = Maps({**present.tables, "postfix_recipients": Table({}, {})})
    found = with_unclaimed(Maps.of(tables()), routed, [])
    assert found["postfix_recipients"] == {}
    assert found["postfix_lmtp"] == {}, "plan() keeps that route, and retires it"


def test_domain_of_a_list_that_its_source_removed_is_not_kept() -> None:
    present = Maps.of(tables(ANTS, CATS))
    found = with_unclaimed(Maps.of(tables()), present, [tables(CATS)])
    assert lists_of(found["postfix_recipients"]) == {ANTS}
    assert found["postfix_domains"] == {"b.c": "b.c"}


@pytest.mark.parametrize(
    ("down", "order"), [("c", "lmtp:[d]:24, [c]:24"), ("d", "lmtp:[c]:24, [d]:24")]
)
@pytest.mark.parametrize("before", ["lmtp:[c]:24, [d]:24", "lmtp:[d]:24, [c]:24"])
def test_kept_route_is_reordered_by_the_ranking_of_its_own_cluster(
    down: str, order: str, before: str
) -> None:
    members = {host: Destination(host, 24) for host in "abcd"}
    clusters = {"x": {members["a"], members["b"]}, "y": {members["c"], members["d"]}}
    rankings = {"x": Ranking(frozenset(["a:24"])), "y": Ranking(frozenset([f"{down}:24"]))}
    kept = {**dict.fromkeys(nine(ANTS), before), **dict.fromkeys(nine(BEES), "lmtp:[c]:24")}
    found = reordered(Table.of(kept), clusters, rankings)
    assert found == {**dict.fromkeys(nine(ANTS), order), **dict.fromkeys(nine(BEES), "lmtp:[c]:24")}


@pytest.mark.parametrize("before", ["lmtp:[e]:24, [f]:24", "lmtp:[f]:24, [e]:24"])
def test_kept_route_to_no_current_cluster_keeps_its_order(before: str) -> None:
    clusters = {"x": {Destination("a", 24), Destination("b", 24)}}
    kept = dict.fromkeys(nine(ANTS), before)
    assert reordered(Table.of(kept), clusters, {"x": Ranking(frozenset(["e:24", "f:24"]))}) == kept


def test_replicas_that_disagree_on_an_alias_keep_it_as_one() -> None:
    """One of them has not written its files since the alias_domain was changed."""
    one = tables(ANTS, aliases={BEES: ANTS})
    two = tables("ants-owner@b.c", aliases={BEES: "ants-owner@b.c"})
    three = tables(BEES)
    claims = [
        claim("three", three, before=three, left_out=[BEES]),
        claim("one", one, before=one, cluster="mm"),
        claim("two", two, before=two, cluster="mm"),
    ]
    assert lost(*claims) == {"three": {BEES: "mm"}}


SOURCES = ("one", "two", "three", "four")
NAMES = st.sampled_from(["a@b.c", "a-owner@b.c", "b@b.c", "c@d.e", "c-join@d.e", "e@f.g"])


@st.composite
def all_claims(draw: st.DrawFn) -> list[Claim]:
    """Any sources, clusters among them, that want any lists and aliases, and had others."""
    found = []
    for source in draw(st.permutations(SOURCES)):
        names = [draw(st.frozensets(NAMES)) for _ in range(2)]
        now, before = (
            tables(*some, hop=f"lmtp:[{source}]:24", aliases=_aliases(draw, some)) for some in names
        )
        out = draw(st.frozensets(NAMES))
        cluster = draw(st.sampled_from([None, "x", "y"]))
        known = draw(st.booleans())
        found.append(claim(source, now, before if known else None, cluster, sorted(out)))
    return found


def _aliases(draw: st.DrawFn, names: frozenset[str]) -> dict[str, str]:
    taken = {address for name in names for address in nine(name)}
    keys = draw(st.lists(NAMES, max_size=1))
    return {key: n for key in keys for n in sorted(names)[:1] if taken.isdisjoint(nine(key))}


@given(all_claims(), st.frozensets(st.sampled_from([f"{name}:24" for name in SOURCES])))
def test_an_address_leads_only_to_sources_that_name_it(
    claims: list[Claim], down: frozenset[str]
) -> None:
    rankings = {name: Ranking(down, down) for name in ("x", "y")}
    merged = merge(claims, rankings, several_hops=True)
    named = {one.source: one.record.tables for one in claims}
    for address, value in merged.tables.routes.items():
        hops = [hop.host for hop in parse_next_hops(value)]
        assert hops
        assert len(hops) == len(set(hops))
        assert all(address in named[host].routes for host in hops)
    for key, value in merged.tables.aliases.items():
        assert value in merged.tables.routes
        assert any(one.aliases.get(key) == value for one in named.values())


@given(all_claims())
def test_an_address_is_one_partys(claims: list[Claim]) -> None:
    merged = merge(claims, {}, several_hops=True)
    for number, party in enumerate(merged.parties):
        for other in merged.parties[number + 1 :]:
            ours, theirs = (
                party.tables.routes.keys() | party.tables.aliases.keys() for party in (party, other)
            )
            assert not ours & theirs


@given(all_claims())
def test_every_list_is_served_or_named_as_left_out(claims: list[Claim]) -> None:
    merged = merge(claims, {}, several_hops=True)
    for one in claims:
        for name in lists_of(one.record.tables.routes):
            served = all(address in merged.tables.routes for address in addresses_of(name))
            assert served or name in merged.left_out[one.source]
        used = {address.rpartition("@")[2] for address in merged.tables.routes}
        assert merged.tables.domains.keys() == used


@given(all_claims())
def test_merging_again_changes_nothing(claims: list[Claim]) -> None:
    """What was left out stays left out, and what was served is served, in whatever order."""
    first = merge(claims, {}, several_hops=True)
    recorded = [
        Claim(
            one.source,
            one.cluster,
            one.record,
            Record(one.record.tables, left_out=frozenset(first.left_out[one.source])),
        )
        for one in claims
    ]
    for again in (recorded, recorded[::-1]):
        assert merge(again, {}, several_hops=True).tables.routes == first.tables.routes


def maps(*names: str, hop: str = "lmtp:[m]:24", aliases: Mapping[str, str] | None = None) -> Maps:
    return Maps.of(tables(*names, hop=hop, aliases=aliases))


def holding(*names: str) -> Table[str]:
    """The addresses of lists."""
    return Table.of({address: "" for name in names for address in nine(name)})


def test_domain_of_a_list_that_is_held_back_has_its_new_value() -> None:
    before = Maps.of(replace(tables(ANTS, BEES), domains={"b.c": "b.c"}))
    after = Maps.of(replace(tables(ANTS, BEES), domains={"b.c": "mail.example"}))
    assert held_back(after, before, holding(ANTS))["postfix_domains"] == {"b.c": "mail.example"}


def test_list_that_is_held_back_stays_as_installed_or_out() -> None:
    installed = maps(ANTS, hop="lmtp:[old]:24")
    wanted = maps(ANTS, BEES, CATS)
    found = held_back(wanted, installed, holding(ANTS, CATS))
    assert lists_of(found["postfix_recipients"]) == {ANTS, BEES}
    assert found["postfix_lmtp"][ANTS] == "lmtp:[old]:24"
    assert found["postfix_lmtp"][BEES] == "lmtp:[m]:24"
    assert found["postfix_domains"] == {"b.c": "b.c"}, "no domain without a list"
    assert held_back(wanted, installed, holding()).tables == wanted.tables


def test_aliases_of_list_that_is_held_back_are_held_back_with_it() -> None:
    wanted = maps(ANTS, BEES, aliases={"ants@host": ANTS, "bees@host": BEES})
    nothing = maps()
    found = held_back(wanted, nothing, holding(ANTS))
    assert set(found["postfix_vmap"]) == {*nine("bees@host")}
    before = maps(ANTS, aliases={"ants@old": ANTS})
    found = held_back(wanted, before, holding(ANTS))
    assert set(found["postfix_vmap"]) == {*nine("bees@host"), *nine("ants@old")}
