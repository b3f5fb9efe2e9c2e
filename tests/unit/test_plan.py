"""Make before break: whatever is installed and wanted, every state between two steps is safe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.errors import Refused
from postfix_sync.model import (
    ALIASES,
    DOMAINS,
    MAP_NAMES,
    RECIPIENTS,
    ROUTES,
    Condition,
    Installed,
    InstalledMap,
    MailmanTables,
    Maps,
    Policy,
    Table,
)
from postfix_sync.plan import MakeVisible, Narrow, Plan, Publish, guard, plan

TYPES = ("lmdb", "hash", "btree", "cdb")
NO_MAILMAN = MailmanTables({}, {}, {})


def mailman(**hops: str) -> MailmanTables:
    """Lists by name, each with its next hop; one address a list is enough here."""
    routes = {f"{name}@b.c": f"lmtp:[{hop}]:24" for name, hop in hops.items()}
    return MailmanTables(routes, {"b.c": "b.c"} if routes else {}, {})


def installed(tables: MailmanTables, **conditions: Condition) -> Installed:
    maps = Maps.of(tables)
    return Installed(
        {
            name: InstalledMap(maps[name], conditions.get(name, Condition.SOUND))
            for name in MAP_NAMES
        }
    )


def kinds(made: Plan) -> list[str]:
    return [f"{type(step).__name__} {getattr(step, 'name', '')}".strip() for step in made.steps]


@pytest.mark.parametrize("map_type", TYPES)
def test_nothing_to_do(map_type: str) -> None:
    same = mailman(ants="m")
    assert plan(installed(same), Maps.of(same), map_type, "always").steps == ()


def test_an_added_list_of_a_hash_map_is_accepted_after_a_reload() -> None:
    made = plan(installed(mailman(a="m")), Maps.of(mailman(a="m", b="m")), "hash", "auto")
    assert kinds(made) == ["Publish postfix_lmtp", "MakeVisible", "Publish postfix_recipients"]
    assert made.steps[1] == MakeVisible(reload=True)


def test_an_added_list_of_an_lmdb_map_needs_no_reload() -> None:
    made = plan(installed(mailman(a="m")), Maps.of(mailman(a="m", b="m")), "lmdb", "auto")
    assert kinds(made) == ["Publish postfix_lmtp", "Publish postfix_recipients"]


@pytest.mark.parametrize("map_type", TYPES)
def test_a_removed_list_is_refused_before_its_route_goes(map_type: str) -> None:
    made = plan(installed(mailman(a="m", b="m")), Maps.of(mailman(a="m")), map_type, "auto")
    assert kinds(made) == ["Publish postfix_recipients", "Narrow"]
    assert made.steps[-1] == Narrow({"a@b.c": "lmtp:[m]:24"}, {"b@b.c": "lmtp:[m]:24"})


@pytest.mark.parametrize("map_type", TYPES)
def test_a_new_domain_is_made_visible_with_its_routes(map_type: str) -> None:
    made = plan(installed(NO_MAILMAN), Maps.of(mailman(a="m")), map_type, "auto")
    assert kinds(made) == [
        "Publish postfix_lmtp",
        "Publish postfix_domains",
        "MakeVisible",
        "Publish postfix_recipients",
    ]


def test_a_domain_that_goes_while_another_comes_stays_until_its_lists_are_refused() -> None:
    old = MailmanTables({"a@b.c": "lmtp:[m]:24"}, {"b.c": "b.c"}, {})
    new = MailmanTables({"a@d.e": "lmtp:[m]:24"}, {"d.e": "d.e"}, {})
    made = plan(installed(old), Maps.of(new), "lmdb", "auto")
    assert kinds(made) == [
        "Publish postfix_lmtp",
        "Publish postfix_domains",
        "MakeVisible",
        "Publish postfix_recipients",
        "Publish postfix_domains",
        "Narrow",
    ]


def test_reload_never_still_waits_until_the_routes_are_seen() -> None:
    made = plan(installed(NO_MAILMAN), Maps.of(mailman(a="m")), "hash", "never")
    assert MakeVisible(reload=False) in made.steps


def test_reload_always_reloads_once_for_a_change() -> None:
    for map_type in TYPES:
        made = plan(installed(mailman(a="m")), Maps.of(mailman(a="n", b="m")), map_type, "always")
        assert kinds(made).count("MakeVisible") == 1


def test_first_installation_makes_every_map_before_anything_else() -> None:
    nothing = Installed({name: InstalledMap({}, Condition.BROKEN) for name in MAP_NAMES})
    made = plan(nothing, Maps.of(mailman(a="m")), "lmdb", "auto")
    assert made.steps[:4] == tuple(Publish(name, {}, fresh=True) for name in MAP_NAMES)
    assert kinds(made).count("MakeVisible") == 1


def test_a_stale_map_is_built_again_without_a_change() -> None:
    same = mailman(a="m")
    for name in MAP_NAMES:
        made = plan(installed(same, **{name: Condition.STALE}), Maps.of(same), "lmdb", "auto")
        assert kinds(made) == [f"Publish {name}"]


def test_routes_that_may_not_be_what_they_say_are_made_visible() -> None:
    same = mailman(a="m")
    made = plan(installed(same, **{ROUTES: Condition.STALE}), Maps.of(same), "hash", "auto")
    assert kinds(made) == ["Publish postfix_lmtp", "MakeVisible"]


def test_an_owed_reload_is_made_up_for() -> None:
    same = Installed(installed(mailman(a="m")).maps, reload_owed=True)
    assert plan(same, Maps.of(mailman(a="m")), "hash", "auto").steps == (MakeVisible(reload=True),)


def test_a_broken_map_with_an_unknown_text_gets_what_is_wanted() -> None:
    lost = {name: InstalledMap(None, Condition.BROKEN) for name in MAP_NAMES}
    made = plan(Installed(lost), Maps.of(mailman(a="m")), "lmdb", "auto")
    assert all(step.table for step in made.steps[:3] if isinstance(step, Publish))


tables = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["m", "n"]), max_size=6).map(
    lambda hops: mailman(**hops)
)
conditions = st.fixed_dictionaries({name: st.sampled_from(Condition) for name in MAP_NAMES})


@given(tables, tables, conditions, st.sampled_from(TYPES), st.sampled_from(["auto", "never"]))
def test_every_state_on_the_way_routes_what_it_accepts(
    old: MailmanTables,
    new: MailmanTables,
    found: dict[str, Condition],
    map_type: str,
    reload: str,
) -> None:
    before, wanted = Maps.of(old), Maps.of(new)
    made = plan(installed(old, **found), wanted, map_type, reload)
    disk: dict[str, Table] = {name: before[name] for name in MAP_NAMES}
    seen = disk[ROUTES]  # what trivial-rewrite(8) works with, at worst
    for step in made.steps:
        match step:
            case Publish(name, table, _):
                disk[name] = table
            case MakeVisible():
                seen = disk[ROUTES]
            case Narrow(table, removed):
                assert removed.keys() == disk[ROUTES].keys() - wanted[ROUTES].keys()
                assert not removed.keys() & disk[RECIPIENTS].keys()
                disk[ROUTES] = table
        if map_type == "lmdb":
            seen = disk[ROUTES]
        for accepted in disk[RECIPIENTS]:
            assert accepted in disk[ROUTES]
            assert accepted in seen
            assert accepted.rpartition("@")[2] in disk[DOMAINS] or accepted not in old.routes
        for stays in old.routes.keys() & new.routes.keys():
            assert stays in disk[RECIPIENTS]
    assert disk == {name: wanted[name] for name in MAP_NAMES}
    assert disk[ALIASES] == {}


def lists(count: int, start: int = 0) -> frozenset[str]:
    return frozenset(f"l{i}@b.c" for i in range(start, start + count))


@pytest.mark.parametrize(
    ("had", "gone", "refused"),
    [
        (10, 9, False),
        (11, 10, False),
        (22, 11, False),
        (21, 11, True),
        (40, 20, False),
        (40, 21, True),
    ],
)
def test_too_many_lists_at_once(had: int, gone: int, refused: bool) -> None:
    wanted = lists(had - gone, start=gone)
    if refused:
        with pytest.raises(Refused, match=rf"mm: {gone} of {had} lists are gone.*\(50%\)"):
            guard("mm", lists(had), wanted, Policy())
    else:
        guard("mm", lists(had), wanted, Policy())


def test_no_list_at_all() -> None:
    with pytest.raises(Refused, match="names no list at all, 1 are installed"):
        guard("mm", lists(1), frozenset(), Policy())
    guard("mm", lists(100), frozenset(), Policy(allow_empty=True))
    guard("mm", frozenset(), frozenset(), Policy())
