"""Make before break: whatever is installed and desired, every state between two steps is safe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.installed import (
    EVERY_DOMAIN,
    MOVED_LISTS,
    Condition,
    Desired,
    Installed,
    InstalledMap,
)
from postfix_sync.model.map_names import ALIASES, DOMAINS, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_change import Publish
from postfix_sync.postfix.next_hop import next_hops_of
from postfix_sync.reconcile.plan import EnterHosts, MakeVisible, Owe, Plan, plan
from postfix_sync.reconcile.visibility import RULES, Kind, Need, Reading
from tests.parts.remembering_postfix import NO_MAILMAN, Machine

LMDB, HASH = Reading(at_once=True), Reading(at_once=False)
BOTH = pytest.mark.parametrize("reading", [LMDB, HASH], ids=["lmdb", "hash"])

MIXED = MailmanTables.of(
    dict.fromkeys(("a@b.c", "b@b.c", "c@d.e"), "lmtp:[m]:24"), {"b.c": "b.c", "d.e": "d.e"}, {}
)
"""A list more in a known domain, and one in a new domain."""


def mailman(domain: str = "b.c", **hops: str) -> MailmanTables:
    """Lists by name, each with its next hop; one address a list is enough here."""
    routes = {f"{name}@{domain}": f"lmtp:[{hop}]:24" for name, hop in hops.items()}
    return MailmanTables.of(routes, {domain: domain} if routes else {}, {})


def aliased(host: str, domain: str, **hops: str) -> MailmanTables:
    """The lists of a mail host that has an alias_domain, as Mailman writes them."""
    aliases = {f"{name}@{host}": f"{name}@{domain}" for name in hops}
    return replace(mailman(domain, **hops), aliases=Aliases.of(aliases))


def installed(tables: MailmanTables, **conditions: Condition) -> Installed:
    maps = Maps.of(tables)
    return Installed(
        {
            name: InstalledMap(maps[name], conditions.get(name, Condition.SOUND))
            for name in MAP_NAMES
        }
    )


def planned(old: Installed, new: MailmanTables, reading: Reading, **hosts: str) -> Plan:
    return plan(old, Desired(Maps.of(new), hosts), reading)


def kinds(made: Plan) -> list[str]:
    return [f"{type(step).__name__} {getattr(step, 'name', '')}".strip() for step in made.steps]


@BOTH
def test_kept_route_of_an_address_that_is_an_alias_now_leads_where_its_list_is(
    reading: Reading,
) -> None:
    made = planned(installed(mailman(a="m")), aliased("b.c", "d.e", a="n"), reading)
    assert set(made.result[ROUTES].values()) == {"lmtp:[n]:24"}
    assert Kind.LIST_MOVED in made.kinds
    same = planned(installed(mailman(a="m")), aliased("b.c", "d.e", a="m"), reading)
    assert Kind.LIST_MOVED not in same.kinds


@BOTH
@pytest.mark.parametrize("reload", ["auto", "always", "never"])
def test_nothing_to_do(reading: Reading, reload: str) -> None:
    same = mailman(ants="m")
    made = planned(installed(same), same, replace(reading, reload=reload))
    assert (made.steps, made.waits) == ((), False)


def test_list_added_to_a_hash_map_is_accepted_after_a_reload() -> None:
    made = planned(installed(mailman(a="m")), mailman(a="m", b="m"), HASH)
    assert kinds(made) == [
        "Owe",
        "Publish postfix_lmtp",
        "MakeVisible",
        "Publish postfix_recipients",
    ]
    assert made.steps[2] == MakeVisible(reload=True, remembered=False)


def test_list_added_to_an_lmdb_map_needs_no_reload() -> None:
    made = planned(installed(mailman(a="m")), mailman(a="m", b="m"), LMDB)
    assert kinds(made) == ["Publish postfix_lmtp", "Publish postfix_recipients"]


def test_list_added_where_unrouted_mail_is_refused_needs_a_reload() -> None:
    reading = replace(LMDB, default_refuses=True)
    made = planned(installed(mailman(a="m")), mailman(a="m", b="m"), reading)
    assert "MakeVisible" in kinds(made)


@BOTH
def test_list_that_moves_is_made_visible(reading: Reading) -> None:
    made = planned(installed(mailman(a="m")), mailman(a="n"), reading)
    assert kinds(made) == ["Owe", "Publish postfix_lmtp", "MakeVisible"]


@BOTH
def test_order_of_a_cluster_is_no_move(reading: Reading) -> None:
    old, new = ("lmtp:[m]:24, [n]:24", "lmtp:[n]:24, [m]:24")
    both = [MailmanTables.of({"a@b.c": hops}, {"b.c": "b.c"}, {}) for hops in (old, new)]
    made = planned(installed(both[0]), both[1], reading)
    assert kinds(made) == ["Publish postfix_lmtp"]


@BOTH
def test_member_that_joins_a_cluster_is_no_move_and_one_that_leaves_is(reading: Reading) -> None:
    one, two = ("lmtp:[m]:24", "lmtp:[n]:24, [m]:24")
    alone, together = (MailmanTables.of({"a@b.c": hop}, {"b.c": "b.c"}, {}) for hop in (one, two))
    assert planned(installed(alone), together, reading).kinds == {Kind.LIST_REORDERED}
    assert planned(installed(together), alone, reading).kinds == {Kind.LIST_MOVED}


@BOTH
def test_removed_list_is_refused_and_keeps_its_route(reading: Reading) -> None:
    made = planned(installed(mailman(a="m", b="m")), mailman(a="m"), reading)
    assert kinds(made) == ["Publish postfix_recipients"]
    assert "b@b.c" in made.result[ROUTES]
    assert not made.changes[ROUTES]


@BOTH
def test_new_domain_is_made_visible_with_its_routes(reading: Reading) -> None:
    made = planned(installed(NO_MAILMAN), mailman(a="m"), reading)
    assert kinds(made) == [
        "Owe",
        "Publish postfix_lmtp",
        "Publish postfix_domains",
        "MakeVisible",
        "Publish postfix_recipients",
    ]


@BOTH
def test_domain_that_goes_while_another_comes_takes_one_reload(reading: Reading) -> None:
    made = planned(installed(mailman("b.c", a="m")), mailman("d.e", a="m"), reading)
    assert kinds(made).count("MakeVisible") == 1
    assert made.result[DOMAINS].keys() == {"d.e"}


@BOTH
def test_alias_domain_widens_aliases_before_it_narrows_recipients(reading: Reading) -> None:
    made = planned(installed(mailman("b.c", a="m")), aliased("b.c", "d.e", a="m"), reading)
    published = [step for step in made.steps if isinstance(step, Publish)]
    names = [step.name for step in published]
    assert names == [ROUTES, DOMAINS, RECIPIENTS, ALIASES, RECIPIENTS]
    assert published[2].table.keys() == {"a@b.c", "a@d.e"}
    assert made.result[DOMAINS].keys() == {"b.c", "d.e"}, "the mail host stays accepted"


@BOTH
def test_alias_domain_that_is_unset_widens_recipients_before_it_narrows_aliases(
    reading: Reading,
) -> None:
    made = planned(installed(aliased("b.c", "d.e", a="m")), mailman("b.c", a="m"), reading)
    names = [step.name for step in made.steps if isinstance(step, Publish)]
    assert names[-2:] == [RECIPIENTS, ALIASES]


def test_mail_host_that_main_cf_accepts_elsewhere_is_left_out() -> None:
    tables = aliased("b.c", "d.e", a="m")
    assert Maps.of(tables)[DOMAINS].keys() == {"b.c", "d.e"}
    assert Maps.of(tables).beside(frozenset({"b.c", "d.e"}))[DOMAINS].keys() == {"d.e"}


@BOTH
def test_hosts_enter_before_the_routes_that_need_them_and_none_leaves(reading: Reading) -> None:
    old = replace(installed(mailman(a="m")), hosts={"m": "192.0.2.1"})
    made = planned(old, mailman(a="n"), reading, n="192.0.2.2")
    assert kinds(made) == ["Owe", "EnterHosts", "Publish postfix_lmtp", "MakeVisible"]
    assert made.steps[1] == EnterHosts({"m": "192.0.2.1", "n": "192.0.2.2"})


@BOTH
def test_host_with_another_address_is_made_visible(reading: Reading) -> None:
    old = replace(installed(mailman(a="m")), hosts={"m": "192.0.2.1"})
    made = planned(old, mailman(a="m"), reading, m="192.0.2.2")
    assert kinds(made) == ["Owe", "EnterHosts", "MakeVisible"]


def test_copy_in_the_chroot_is_kept_in_step() -> None:
    old = replace(installed(mailman(a="m")), hosts={"m": "192.0.2.1"}, hosts_copied=False)
    assert kinds(planned(old, mailman(a="m"), LMDB, m="192.0.2.1")) == ["EnterHosts"]


@BOTH
def test_reload_never_waits_and_says_whether_that_is_enough(reading: Reading) -> None:
    never = replace(reading, reload="never")
    made = planned(installed(mailman(a="m")), mailman(a="n"), never)
    assert MakeVisible(reload=False, remembered=True) in made.steps
    added = planned(installed(mailman(a="m")), mailman(a="m", b="m"), never)
    waits = [step for step in added.steps if isinstance(step, MakeVisible)]
    assert waits == ([] if reading is LMDB else [MakeVisible(reload=False, remembered=False)])


@BOTH
def test_reload_always_reloads_once_for_a_change(reading: Reading) -> None:
    always = replace(reading, reload="always")
    for new in (mailman(a="n", b="m"), mailman(a="m", b="m"), NO_MAILMAN):
        made = planned(installed(mailman(a="m")), new, always)
        assert kinds(made).count("MakeVisible") == 1


def test_after_a_reload_a_moment_ago_a_new_domain_waits_and_a_list_on_lmdb_does_not() -> None:
    late = replace(LMDB, reload_now=False)
    made = planned(installed(mailman(a="m")), MIXED, late)
    assert made.waits
    assert made.steps[0] == Owe(frozenset({"d.e"}))
    assert made.result[RECIPIENTS].keys() == {"a@b.c", "b@b.c"}
    assert made.result[ROUTES].keys() == MIXED.routes.keys()


def test_alias_does_not_lead_to_an_address_whose_route_waits_for_a_reload() -> None:
    late = replace(HASH, reload_now=False)
    old, new = aliased("b.c", "d.e", a="m"), aliased("b.c", "f.g", a="m")
    made = planned(installed(old), new, late)
    assert made.waits
    assert made.result[ALIASES] == old.aliases
    assert made.result[ROUTES].keys() == {"a@d.e", "a@f.g"}


def test_new_domain_that_waits_is_not_relayed_yet() -> None:
    """With it, but without recipients, its mail would be refused for good instead of put off."""
    made = planned(installed(mailman(a="m")), MIXED, replace(LMDB, reload_now=False))
    assert made.result[DOMAINS].keys() == {"b.c"}
    assert Kind.DOMAIN_ADDED in made.kinds


def test_host_name_that_is_no_longer_ours_leaves_and_is_made_visible() -> None:
    old = replace(installed(mailman(a="m")), hosts={"m": "192.0.2.1"})
    goal = Desired(Maps.of(mailman(a="m")), {}, dropped=frozenset({"m"}))
    assert kinds(plan(old, goal, LMDB)) == ["Owe", "EnterHosts", "MakeVisible"]


def test_reload_always_makes_up_for_an_owed_one_by_one_reload() -> None:
    owed = replace(installed(mailman(a="m")), reload_owed=True)
    made = planned(owed, mailman(a="m", b="m"), replace(LMDB, reload="always"))
    assert kinds(made).count("MakeVisible") == 1


def test_reload_never_tells_also_of_what_an_interrupted_sync_has_left() -> None:
    owed = replace(installed(mailman(a="m")), reload_owed=True)
    made = planned(owed, mailman(a="m"), replace(LMDB, reload="never"))
    assert made.steps == (MakeVisible(reload=False, remembered=True),)


@BOTH
def test_note_of_an_owed_reload_tells_a_move_from_an_addition(reading: Reading) -> None:
    """Reloads for moves become rarer where a destination comes and goes; others do not."""
    late = replace(reading, reload_now=False)
    moved = planned(installed(mailman(a="m")), mailman(a="n"), late).steps[0]
    assert isinstance(moved, Owe)
    assert MOVED_LISTS in moved.unseen
    added = planned(installed(mailman(a="m")), MIXED, late).steps[0]
    assert isinstance(added, Owe)
    assert MOVED_LISTS not in added.unseen


def test_after_a_reload_a_moment_ago_a_list_on_hash_waits() -> None:
    late = replace(HASH, reload_now=False)
    made = planned(installed(mailman(a="m")), mailman(a="m", b="m"), late)
    assert made.waits
    assert made.steps[0] == Owe(frozenset({EVERY_DOMAIN}))
    assert made.result[RECIPIENTS].keys() == {"a@b.c"}


def test_owed_reload_is_made_up_for() -> None:
    owed = replace(installed(mailman(a="m")), reload_owed=True)
    assert kinds(planned(owed, mailman(a="m"), HASH)) == ["MakeVisible"]
    assert planned(owed, mailman(a="m"), replace(HASH, reload_now=False)).waits


def test_first_installation_accepts_nothing_before_it_is_routed() -> None:
    nothing = Installed({name: InstalledMap(Table({}, {}), Condition.BROKEN) for name in MAP_NAMES})
    made = planned(nothing, mailman(a="m"), LMDB)
    assert kinds(made) == [
        "Owe",
        "Publish postfix_lmtp",
        "Publish postfix_domains",
        "MakeVisible",
        "Owe",
        "Publish postfix_recipients",
        "Publish postfix_vmap",
        "MakeVisible",
    ]
    assert all(step.fresh for step in made.steps if isinstance(step, Publish))


@BOTH
def test_list_that_returns_elsewhere_waits_for_the_reload(reading: Reading) -> None:
    """Its route was kept, and processes may remember it."""
    kept = installed(mailman(a="m", b="m"))
    maps = {**kept.maps, RECIPIENTS: InstalledMap(Aliases.of({"b@b.c": "b@b.c"}), Condition.SOUND)}
    made = planned(
        replace(kept, maps=maps), mailman(a="n", b="m"), replace(reading, reload_now=False)
    )
    assert made.waits
    assert made.result[RECIPIENTS].keys() == {"b@b.c"}


@BOTH
@pytest.mark.parametrize("name", [RECIPIENTS, DOMAINS])
def test_map_whose_text_is_gone_is_built_with_all_of_its_entries(
    reading: Reading, name: str
) -> None:
    """It is not known what the index holds; after a reload a moment ago, nothing of it waits."""
    same = installed(mailman(a="m"))
    lost = replace(same, maps={**same.maps, name: InstalledMap(None, Condition.STALE)})
    made = planned(lost, mailman(a="m"), replace(reading, reload_now=False))
    assert not made.waits
    tables = [one.table for one in made.steps if isinstance(one, Publish) and one.name == name]
    assert tables == [Maps.of(mailman(a="m"))[name]]


def test_address_of_ours_for_a_host_that_is_in_use_is_made_visible() -> None:
    """lmtp(8) may have connections to the address that DNS gave it."""
    old = installed(mailman(a="m"))
    assert kinds(planned(old, mailman(a="m"), LMDB, m="192.0.2.1")) == [
        "Owe",
        "EnterHosts",
        "MakeVisible",
    ]
    assert "MakeVisible" not in kinds(planned(old, mailman(a="m", b="n"), LMDB, n="192.0.2.1"))


@BOTH
def test_every_reload_is_owed_since_the_one_before(reading: Reading) -> None:
    """Also the second one, for processes that were started without a map."""
    gone = Installed({name: InstalledMap(Table({}, {}), Condition.BROKEN) for name in MAP_NAMES})
    order = [one.split()[0] for one in kinds(planned(gone, mailman(a="m"), reading))]
    assert order == ["Owe", "Publish", "Publish", "MakeVisible"] * 2


def test_maps_that_are_gone_are_never_empty_in_between() -> None:
    """An empty map refuses mail for good; without any, Postfix puts it off."""
    gone = Installed({name: InstalledMap(Table({}, {}), Condition.BROKEN) for name in MAP_NAMES})
    made = planned(gone, mailman(a="m"), replace(HASH, reload_now=False))
    published = {step.name: step.table for step in made.steps if isinstance(step, Publish)}
    assert published == {name: made.result[name] for name in MAP_NAMES}
    assert published[RECIPIENTS]


def test_broken_index_gets_its_own_entries_first() -> None:
    broken = installed(mailman(a="m"), **{ROUTES: Condition.BROKEN})
    made = planned(broken, mailman(a="n"), LMDB)
    assert made.steps[1] == Publish(ROUTES, mailman(a="m").routes, fresh=True)


def test_broken_index_with_a_text_is_published_once_and_takes_one_reload() -> None:
    """Unlike one that is lost, with its text: that one takes a second reload."""
    same = mailman(a="m")
    for name in (ROUTES, DOMAINS, RECIPIENTS):
        made = planned(installed(same, **{name: Condition.BROKEN}), same, LMDB)
        assert kinds(made) == ["Owe", f"Publish {name}", "MakeVisible"]


def test_stale_map_is_built_again_without_a_change() -> None:
    same = mailman(a="m")
    for name in MAP_NAMES:
        made = planned(installed(same, **{name: Condition.STALE}), same, LMDB)
        assert [step.name for step in made.steps if isinstance(step, Publish)] == [name]


def test_every_kind_of_change_has_a_rule() -> None:
    assert RULES.keys() == set(Kind)
    assert all(rule.otherwise >= rule.at_once for rule in RULES.values())
    assert {Need.BEFORE_ACCEPTANCE, Need.BEFORE_DONE, Need.NOTHING} == {
        rule.at_once for rule in RULES.values()
    }


# What follows is the property: random states one after the other, a sync between two of them that
# may be cut off anywhere, and processes of Postfix that remember the worst.

HOSTS = ("m", "n", "o")
LISTS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(HOSTS), max_size=3)


@dataclass(frozen=True)
class Target:
    """What one sync is to bring about, under which conditions, and how far it comes."""

    tables: MailmanTables
    addresses: Mapping[str, str]
    reload_now: bool
    steps: int

    @property
    def desired(self) -> Desired:
        """As the plan takes it."""
        names = {hop.host for hop in next_hops_of(self.tables.routes)}
        return Desired(Maps.of(self.tables), {name: self.addresses[name] for name in names})


def _together(parts: Sequence[MailmanTables]) -> MailmanTables:
    return MailmanTables.of(
        {key: value for one in parts for key, value in one.routes.items()},
        {key: value for one in parts for key, value in one.domains.items()},
        {key: value for one in parts for key, value in one.aliases.items()},
    )


def _domain(lists: dict[str, str], alias: bool, host: str) -> MailmanTables:
    return aliased(host, f"alias.{host}", **lists) if alias and lists else mailman(host, **lists)


TABLES = st.tuples(
    st.builds(_domain, LISTS, st.booleans(), st.just("b.c")),
    st.builds(_domain, LISTS, st.booleans(), st.just("d.e")),
).map(_together)
TARGETS = st.builds(
    Target,
    TABLES,
    st.fixed_dictionaries({host: st.sampled_from(["192.0.2.1", "192.0.2.2"]) for host in HOSTS}),
    st.booleans(),
    st.integers(0, 12),
)


@given(st.lists(TARGETS, min_size=1, max_size=5), st.booleans())
def test_every_state_on_the_way_is_one_that_postfix_can_live_with(
    targets: list[Target], at_once: bool
) -> None:
    machine = Machine(at_once)
    for target in targets:
        before = machine.accepted()
        desired = target.desired
        made = plan(machine.installed(), desired, Reading(at_once, reload_now=target.reload_now))
        wanted = {*desired.maps[RECIPIENTS], *desired.maps[ALIASES]}
        for step in made.steps[: target.steps]:
            machine.take(step)
            machine.check(before & wanted)
    final = replace(targets[-1], reload_now=True).desired
    for step in plan(machine.installed(), final, Reading(at_once)).steps:
        machine.take(step)
        machine.check(set())
    machine.check_done(final)
    assert plan(machine.installed(), final, Reading(at_once)).steps == ()
