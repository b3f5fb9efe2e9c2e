"""What changes, in words."""

from collections.abc import Set as AbstractSet
from dataclasses import replace

from postfix_sync.model.installed import Condition, Desired, Installed, InstalledMap
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.reconcile.changes import log_lines, preview
from postfix_sync.reconcile.plan import Plan, plan
from postfix_sync.reconcile.visibility import Reading
from tests.parts.mailman_files import nine


def mailman(*names: str, hop: str = "lmtp:[m]:24", alias: str = "") -> MailmanTables:
    routes = {address: hop for name in names for address in nine(name)}
    domains = {name.rpartition("@")[2]: "x" for name in names}
    pairs = zip(nine(alias), nine(names[0]), strict=True) if alias else ()
    return MailmanTables.of(routes, domains, dict(pairs))


def installed(tables: MailmanTables, condition: Condition = Condition.SOUND) -> Installed:
    maps = Maps.of(tables)
    return Installed({name: InstalledMap(maps[name], condition) for name in MAP_NAMES})


def planned(before: Installed, new: MailmanTables) -> Plan:
    return plan(before, Desired(Maps.of(new), {}), Reading(at_once=True))


def lines(old: MailmanTables, new: MailmanTables) -> list[str]:
    before = installed(old)
    made = planned(before, new)
    return told(made, before, frozenset(MAP_NAMES))


def told(made: Plan, before: Installed, done: AbstractSet[str]) -> list[str]:
    return [line for _, line in log_lines(made, before, done, lambda key: "lists")]


def test_a_line_for_each_kind_of_change() -> None:
    assert lines(mailman("a@b.c"), mailman("a@b.c", "ants@b.c")) == ["lists: +1 list: ants@b.c"]
    assert lines(mailman("a@b.c"), mailman("z@d.e")) == [
        "lists: +1 list: z@d.e",
        "lists: -1 list: a@b.c",
        "lists: +1 domain: d.e",
        "lists: -1 domain: b.c",
    ]
    assert lines(mailman("a@b.c"), mailman("a@b.c", alias="a@x.y")) == [
        "lists: +1 domain: x.y",
        "lists: +1 alias: a@x.y",
    ]
    assert lines(mailman("a@b.c", "d@b.c"), mailman("a@b.c", "d@b.c", hop="lmtp:[n]:24")) == [
        "lists: ~2 lists: a@b.c, d@b.c -> lmtp:[n]:24"
    ]


def test_many_lists_are_counted() -> None:
    names = [f"l{i}@b.c" for i in range(7)]
    assert lines(mailman("a@b.c"), mailman("a@b.c", *names)) == [
        "lists: +7 lists: l0@b.c, l1@b.c, l2@b.c, l3@b.c, l4@b.c and 2 more"
    ]


def test_five_lists_are_all_named() -> None:
    names = [f"l{i}@b.c" for i in range(5)]
    assert lines(mailman("a@b.c"), mailman("a@b.c", *names)) == [
        f"lists: +5 lists: {', '.join(names)}"
    ]


def test_each_source_has_lines_of_its_own() -> None:
    before = installed(mailman("a@b.c", "d@x.y"))
    made = planned(before, mailman("c@b.c", "e@x.y"))

    def whose(key: str) -> str:
        return "two" if key.endswith("x.y") else "one"

    assert list(log_lines(made, before, frozenset(MAP_NAMES), whose)) == [
        ("one", "one: +1 list: c@b.c"),
        ("one", "one: -1 list: a@b.c"),
        ("two", "two: +1 list: e@x.y"),
        ("two", "two: -1 list: d@x.y"),
    ]


def test_nothing_is_said_of_nothing() -> None:
    assert lines(mailman("a@b.c"), mailman("a@b.c")) == []


def test_what_was_not_done_is_not_said() -> None:
    before = installed(mailman("a@b.c"))
    made = planned(before, mailman("z@d.e"))
    assert told(made, before, {"postfix_domains"}) == [
        "lists: +1 domain: d.e",
        "lists: -1 domain: b.c",
    ]


def test_why_a_map_is_built_again() -> None:
    same = mailman("a@b.c")
    before = installed(same, Condition.STALE)
    made = planned(before, same)
    assert told(made, before, frozenset(MAP_NAMES)) == [
        f"{name}: built again: its index was older than its text, or a sync was interrupted"
        for name in MAP_NAMES
        if name != "postfix_vmap"  # has nothing in it
    ]


def test_only_published_maps_without_a_change_are_reported_as_built_again() -> None:
    before = installed(mailman("a@b.c"), Condition.STALE)
    made = planned(before, mailman("a@b.c", "d@b.c"))
    built = "built again: its index was older than its text, or a sync was interrupted"
    assert told(made, before, {"postfix_domains", "postfix_lmtp"}) == [f"postfix_domains: {built}"]
    assert told(made, before, {"postfix_recipients"}) == ["lists: +1 list: d@b.c"]


def test_moved_lists_are_reported_in_the_order_of_their_next_hops() -> None:
    def moved(port: int) -> MailmanTables:
        lists = [mailman(f"l{n}@b.c", hop=f"lmtp:[m{n}]:{port}") for n in range(9)]
        routes = {key: value for one in lists for key, value in one.routes.items()}
        return MailmanTables.of(routes, {"b.c": "x"}, {})

    assert lines(moved(1), moved(2)) == [
        f"lists: ~1 list: l{n}@b.c -> lmtp:[m{n}]:2" for n in range(9)
    ]


def test_the_listing_of_a_dry_run() -> None:
    old = MailmanTables.of({"a@b.c": "lmtp:[m]:1", "b@b.c": "lmtp:[m]:1"}, {"b.c": "b.c"}, {})
    new = MailmanTables.of({"a@b.c": "lmtp:[n]:2", "c@b.c": "lmtp:[n]:2"}, {"b.c": "b.c"}, {})
    before = replace(installed(old), hosts={"m": "::1"})
    made = plan(before, Desired(Maps.of(new), {"m": "::2", "n": "::3"}), Reading(at_once=False))
    assert list(preview(made, before, "/etc/hosts")) == [
        "/etc/hosts",
        "~ m ::1 -> ::2",
        "+ n ::3",
        "postfix_lmtp",
        "~ a@b.c lmtp:[m]:1 -> lmtp:[n]:2",
        "+ c@b.c lmtp:[n]:2",
        "postfix_recipients",
        "- b@b.c b@b.c",
        "+ c@b.c c@b.c",
        "postfix",
        "reload",
    ]


def test_preview_of_maps_without_a_readable_index_says_which_is_empty() -> None:
    before = installed(MailmanTables.of({}, {}, {}), Condition.BROKEN)
    made = plan(before, Desired(Maps.of(mailman("a@b.c")), {}), Reading(at_once=True))
    listing = list(preview(made, before, "/etc/hosts"))
    assert listing[listing.index("postfix_vmap") + 1] == "(built; empty)"


def test_preview_of_a_stale_map_says_that_its_entries_are_kept() -> None:
    same = mailman("a@b.c")
    before = installed(same, Condition.STALE)
    listing = list(preview(planned(before, same), before, "/etc/hosts"))
    kept = "(built again; its entries stay as they are)"
    assert listing[listing.index("postfix_lmtp") + 1] == kept
    assert listing[listing.index("postfix_vmap") + 1] == "(built; empty)"


def test_the_listing_of_a_copy_that_is_out_of_step() -> None:
    same = mailman("a@b.c")
    before = replace(installed(same), hosts={"m": "::1"}, hosts_copied=False)
    made = plan(before, Desired(Maps.of(same), {"m": "::1"}), Reading(at_once=True))
    assert list(preview(made, before, "/etc/hosts")) == [
        "/etc/hosts",
        "(its copy in the chroot is brought in step)",
    ]
