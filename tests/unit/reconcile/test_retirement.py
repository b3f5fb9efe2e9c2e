"""What is not needed any more stays until nobody can remember it, and then goes."""

from collections.abc import Iterable

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.installed import Condition, Desired, Installed, InstalledMap
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.postfix.folding import fold_ascii
from postfix_sync.postfix.queue import Queued
from postfix_sync.reconcile.plan import plan
from postfix_sync.reconcile.retirement import deferred_for, narrowed, noted
from postfix_sync.reconcile.visibility import Reading
from postfix_sync.store.retirement_record import MOVED_FOR, NAME_KEPT, ROUTE_KEPT, Retiring

NOW = 1_000_000.0
ANTS, BEES = "ants@b.c", "bees@b.c"


def mailman(*lists: str, hop: str = "lmtp:[m]:24") -> MailmanTables:
    routes = {address: hop for name in lists for address in addresses_of(name)}
    return MailmanTables.of(routes, {"b.c": "b.c"}, {})


def desired(*lists: str, hop: str = "lmtp:[m]:24", **hosts: str) -> Desired:
    return Desired(Maps.of(mailman(*lists, hop=hop)), hosts)


def leftover(*accepted: str, routes: Iterable[str]) -> Maps:
    """Maps with routes of more lists than are accepted."""
    wide = Maps.of(mailman(*routes))
    return Maps({**Maps.of(mailman(*accepted)).tables, "postfix_lmtp": wide["postfix_lmtp"]})


def queued(*addresses: str, name: str = "deferred") -> Queued:
    return Queued("A1", name, NOW, tuple((address, "") for address in addresses))


def after(
    old: Retiring, before: Desired, goal: Desired, now: float = NOW, *, accepted: bool = False
) -> Retiring:
    """What a sync from one state to another notes; `accepted`: as long as it has not begun."""
    maps = before.maps if accepted else Maps({**before.maps.tables, RECIPIENTS: Table({}, {})})
    tables = {name: InstalledMap(maps[name], Condition.SOUND) for name in MAP_NAMES}
    installed = Installed(tables, hosts=before.hosts)
    return noted(old, plan(installed, goal, Reading(at_once=True)), installed, goal, now)


def test_removed_list_and_its_host_are_noted_with_the_time() -> None:
    before, goal = desired(ANTS, BEES, m="::1", old="::2"), desired(ANTS, m="::1")
    new = after(Retiring(), before, goal, accepted=True)
    assert new == Retiring(routes={BEES: NOW}, names={"old": NOW})
    assert after(new, before, goal, NOW + 5) == new


def test_time_begins_anew_as_long_as_the_list_is_still_accepted() -> None:
    """A sync that failed before it narrowed anything has noted it, too."""
    before, goal = desired(ANTS, BEES), desired(ANTS)
    failed = after(Retiring(), before, goal, accepted=True)
    assert after(failed, before, goal, NOW + 5000, accepted=True).routes == {BEES: NOW + 5000}


def test_host_name_that_a_kept_route_leads_to_is_not_noted() -> None:
    assert after(Retiring(), desired(ANTS, m="::1"), desired()).names == {}


def test_list_that_is_back_is_forgotten() -> None:
    old = Retiring(routes={BEES: NOW - 100})
    both = desired(ANTS, BEES)
    assert after(old, both, both) == Retiring()


def test_clock_that_was_set_back_starts_anew() -> None:
    old = Retiring(routes={BEES: NOW + 10_000}, moved={ANTS: NOW + 10_000})
    assert after(old, desired(ANTS, BEES), desired(ANTS)) == Retiring({BEES: NOW}, {}, {ANTS: NOW})


def test_moved_list_is_noted_by_its_name_as_long_as_it_is_there() -> None:
    moved = after(Retiring(), desired(ANTS), desired(ANTS, hop="lmtp:[n]:24"))
    assert moved.moved == {ANTS: NOW}
    assert after(moved, desired(ANTS), desired(), NOW + 1).moved == {}


def test_routes_and_names_are_due_when_their_time_has_come() -> None:
    one = Retiring(routes={BEES: NOW}, names={"old": NOW})
    assert not one.due_routes(NOW + ROUTE_KEPT - 1, oldest=0)
    assert one.due_routes(NOW + ROUTE_KEPT, oldest=0) == {BEES}
    assert not one.due_names(NOW + NAME_KEPT - 1)
    assert one.due_names(NOW + NAME_KEPT) == {"old"}


def test_route_is_not_due_while_an_smtpd_from_before_is_left() -> None:
    one = Retiring(routes={BEES: NOW})
    assert not one.due_routes(NOW + 300, oldest=301)
    assert one.due_routes(NOW + 300, oldest=299) == {BEES}


def test_without_takes_out_what_is_done_and_moves_that_are_over() -> None:
    one = Retiring({ANTS: NOW, BEES: NOW}, {"old": NOW}, {ANTS: NOW})
    assert one.without({BEES}, {"old"}, NOW + 1) == Retiring({ANTS: NOW}, {}, {ANTS: NOW})
    assert one.without(set(), set(), NOW + MOVED_FOR).moved == {}


def test_route_that_queued_mail_needs_is_kept_whole_list_by_whole_list() -> None:
    maps = leftover(routes=[ANTS, BEES])
    left = narrowed(maps, {ANTS, BEES}, {"ants-owner@b.c"})
    assert left.keys() == set(addresses_of(ANTS))


def test_route_of_an_accepted_list_or_of_an_alias_target_is_never_taken_out() -> None:
    maps = leftover(ANTS, routes=[ANTS, BEES])
    aliases = Maps({**maps.tables, "postfix_vmap": Aliases.of({"x@y.z": BEES})})
    assert narrowed(maps, {ANTS}, frozenset()) == maps["postfix_lmtp"]
    assert narrowed(aliases, {BEES}, frozenset()).keys() >= {BEES}


def test_what_is_no_whole_list_goes_by_its_address() -> None:
    routes = Table.of({"bees-owner@b.c": "lmtp:[m]:24"})
    maps = Maps({**Maps.of(mailman()).tables, "postfix_lmtp": routes})
    assert narrowed(maps, {"bees-owner@b.c"}, frozenset()) == {}


def test_only_deferred_mail_for_the_lists_is_tried_again_extensions_and_all() -> None:
    messages = [queued("x@y.z", "Ants-Confirm+abc@b.c"), queued(ANTS, name="active"), queued(BEES)]
    assert deferred_for(messages[:1], {ANTS}, fold_ascii, "+") == ("A1",)
    assert deferred_for(messages[1:], {ANTS}, fold_ascii, "+") == ()
