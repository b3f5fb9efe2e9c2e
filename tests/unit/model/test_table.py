"""A table that is held by list is the mapping of all its addresses, whatever is done with it."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import addresses_of, domain_of
from postfix_sync.model.maps import Change, Diff
from postfix_sync.model.table import Table
from tests.parts.mailman_files import nine

ANTS, BEES = "ants@b.c", "bees@d.e"
NAMES = [ANTS, "ants-owner@b.c", "ants-owner-join@b.c", BEES, "-owner@b.c", "b.c"]
"""Lists that share addresses, one that does not, and texts that are not part of a list."""
KEYS = sorted({key for name in NAMES for key in nine(name)})
VALUES = st.sampled_from(["lmtp:[m]:24", "lmtp:[n]:24"])


def _spread(lists: Mapping[str, str], single: Mapping[str, str]) -> dict[str, str]:
    return {**{key: value for name, value in lists.items() for key in nine(name)}, **single}


ENTRIES = st.builds(
    _spread,
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5),
)
SOME_KEYS = st.sets(st.sampled_from(KEYS), max_size=12)


def sound(table: Table[str]) -> Table[str]:
    """Return the table, after a check of whether it is held as a table of its entries is."""
    assert table == Table.of(dict(table)), "equal mappings are not equal tables"
    assert len(table) == len(list(table)) == len(set(table))
    assert not any(key in table.others for name in table.lists for key in nine(name))
    return table


@given(ENTRIES)
def test_table_has_the_entries_that_it_was_made_of(entries: dict[str, str]) -> None:
    table = sound(Table.of(entries))
    assert dict(table.items()) == entries
    assert table == entries
    assert bool(table) == bool(entries)
    assert [key in table for key in KEYS] == [key in entries for key in KEYS]
    assert table.distinct_values() == set(entries.values())
    assert table.domains() == {domain_of(key) for key in entries}


@given(ENTRIES)
def test_lists_are_those_with_all_nine_addresses(entries: dict[str, str]) -> None:
    table = Table.of(entries)
    lists = {name for name in entries if "@" in name and all(key in entries for key in nine(name))}
    assert table.names() == lists
    covered = {key for name in lists for key in nine(name)}
    assert table.units() == lists | (entries.keys() - covered)
    assert table.parts() == entries.keys() - covered
    assert table.lists.keys() == {
        name for name in lists if len({entries[key] for key in nine(name)}) == 1
    }


@given(ENTRIES, ENTRIES)
def test_union_has_the_values_of_the_second_table(a: dict[str, str], b: dict[str, str]) -> None:
    assert dict(sound(Table.of(a) | Table.of(b))) == {**a, **b}


@given(ENTRIES, ENTRIES)
def test_two_tables_divide_by_their_addresses(a: dict[str, str], b: dict[str, str]) -> None:
    one, two = Table.of(a), Table.of(b)
    assert dict(sound(one.beyond(two))) == {key: a[key] for key in a.keys() - b.keys()}
    assert dict(sound(one.common(two))) == {key: a[key] for key in a.keys() & b.keys()}


@given(ENTRIES, SOME_KEYS)
def test_addresses_are_removed(entries: dict[str, str], gone: set[str]) -> None:
    left = {key: value for key, value in entries.items() if key not in gone}
    assert dict(sound(Table.of(entries).without(gone))) == left


@given(ENTRIES, SOME_KEYS)
def test_units_are_selected(entries: dict[str, str], some: set[str]) -> None:
    table = Table.of(entries)
    units = table.units() & some
    wanted = {key for unit in units for key in (nine(unit) if unit in table.names() else [unit])}
    assert dict(sound(table.of_units(units))) == {key: entries[key] for key in wanted}


@given(ENTRIES, VALUES)
def test_entries_are_selected_by_domain_and_by_value(entries: dict[str, str], value: str) -> None:
    table = Table.of(entries)
    inside = {key: each for key, each in entries.items() if domain_of(key) == "b.c"}
    assert dict(sound(table.within({"b.c"}.__contains__))) == inside
    having = {key: each for key, each in entries.items() if each == value}
    assert dict(sound(table.with_values_in({value}))) == having


@given(ENTRIES)
def test_values_are_replaced(entries: dict[str, str]) -> None:
    assert dict(sound(Table.of(entries).mapped(lambda _: "x"))) == dict.fromkeys(entries, "x")
    assert dict(sound(Table.of(entries).with_value("x"))) == dict.fromkeys(entries, "x")


@given(st.dictionaries(st.sampled_from(NAMES[:4]), VALUES, max_size=4))
def test_address_that_two_lists_share_has_the_value_of_the_list_of_that_name(
    lists: dict[str, str],
) -> None:
    table = sound(Table.of_lists(lists, {}))
    assert set(table) == {key for name in lists for key in nine(name)}
    assert all(table[name] == value for name, value in lists.items())
    for name, value in lists.items():
        assert {table[key] for key in nine(name) if key not in lists} <= {value}


@given(ENTRIES, ENTRIES)
def test_difference_of_two_tables(a: dict[str, str], b: dict[str, str]) -> None:
    diff = Diff.between(Table.of(a), Table.of(b))
    assert diff.added == {key: b[key] for key in b.keys() - a.keys()}
    assert diff.removed == {key: a[key] for key in a.keys() - b.keys()}
    changes = {key: Change(a[key], b[key]) for key in a.keys() & b.keys() if a[key] != b[key]}
    assert dict(diff.changed) == changes
    assert diff.changed == Table.of(changes)
    assert bool(diff) == (a != b)


LEADING = st.dictionaries(
    st.sampled_from(["ants@x.y", "ants-owner@x.y", "bees@x.y"]),
    st.sampled_from([ANTS, "ants-owner@b.c", "ants@d.e", BEES]),
    max_size=3,
)


def _aliases(lists: Mapping[str, str], single: Mapping[str, str]) -> dict[str, str]:
    pairs = {
        key: target
        for name, other in lists.items()
        for key, target in zip(nine(name), nine(other), strict=True)
    }
    return {**pairs, **single}


ALIASES = st.builds(_aliases, LEADING, LEADING)


@given(ALIASES, ALIASES)
def test_each_address_of_an_alias_leads_to_the_same_address_of_its_list(
    a: dict[str, str], b: dict[str, str]
) -> None:
    one, two = Aliases.of(a), Aliases.of(b)
    assert dict(one) == a
    assert set(one.targets()) == set(a.values())
    assert one.targets() == {target: target for target in a.values()}
    assert dict(one | two) == {**a, **b}
    assert (one | two) == Aliases.of({**a, **b})
    assert dict(one.without(b)) == {key: a[key] for key in a.keys() - b.keys()}
    diff = Diff.between(one, two)
    changes = {key: Change(a[key], b[key]) for key in a.keys() & b.keys() if a[key] != b[key]}
    assert dict(diff.changed) == changes
    assert dict(diff.added) == {key: b[key] for key in b.keys() - a.keys()}


def test_list_takes_one_entry() -> None:
    table = Table.of(dict.fromkeys(addresses_of(ANTS), "lmtp:[m]:24"))
    assert (table.lists, table.others) == ({ANTS: "lmtp:[m]:24"}, {})
    aliases = Aliases.of(dict(zip(addresses_of("ants@x.y"), addresses_of(ANTS), strict=True)))
    assert (aliases.lists, aliases.others) == ({"ants@x.y": ANTS}, {})


def test_address_without_a_value_is_reported_as_missing() -> None:
    with pytest.raises(KeyError, match="cats@"):
        Table.of({})["cats@b.c"]
