"""Tables that only add entries to the last good lists, and those that do not."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.model.source import MailmanTables
from postfix_sync.reconcile.additions import only_adds
from tests.parts.mailman_files import nine

HOPS = ("lmtp:[a]:24", "lmtp:[b]:24")
NAMES = ("ants@b.c", "bees@b.c", "ants-owner@b.c", "ants@x.c", "bees@d.e")

Entries = Mapping[str, str]


def tables(
    routes: Entries, domains: Entries | None = None, aliases: Entries | None = None
) -> MailmanTables:
    """Return tables with these lists, and with the domains of their own by default."""
    named = {name.rpartition("@")[2] for name in routes}
    return MailmanTables.of(
        {key: hop for name, hop in routes.items() for key in nine(name)},
        {name: name for name in named} if domains is None else domains,
        {
            key: value
            for name, target in (aliases or {}).items()
            for key, value in zip(nine(name), nine(target), strict=True)
        },
    )


ANTS = tables({"ants@b.c": HOPS[0]})


def test_same_tables_and_more_lists_only_add() -> None:
    assert only_adds(ANTS, ANTS)
    assert only_adds(ANTS, tables({"ants@b.c": HOPS[0], "bees@d.e": HOPS[1]}))


@pytest.mark.parametrize(
    "new",
    [
        tables({}),
        tables({"bees@b.c": HOPS[0]}),
        tables({"ants@b.c": HOPS[1], "bees@b.c": HOPS[1]}),
        tables({"ants@b.c": HOPS[0]}, domains={"b.c": "x.c"}, aliases={"ants@x.c": "ants@b.c"}),
    ],
    ids=["none", "removed", "moved", "alias domain"],
)
def test_removal_and_other_value_are_no_addition(new: MailmanTables) -> None:
    assert not only_adds(ANTS, new)


def test_list_whose_addresses_have_different_values_is_no_addition_if_it_changes() -> None:
    mixed = dict(zip(nine("bees@b.c"), (HOPS[0], *HOPS * 4), strict=True))
    domains = {"b.c": "b.c"}
    old = MailmanTables.of(mixed, domains, {})
    assert only_adds(old, MailmanTables.of({**mixed, **ANTS.routes}, domains, {}))
    other = {**mixed, "bees@b.c": HOPS[1]}
    assert not only_adds(old, MailmanTables.of({**other, **ANTS.routes}, domains, {}))


def test_list_of_an_alias_domain_counts_with_its_aliases() -> None:
    domains = {"x.c": "b.c"}
    routes = {"ants@x.c": HOPS[0]}
    old = tables(routes, domains, {"ants@b.c": "ants@x.c"})
    assert only_adds(old, old)
    more = {**routes, "bees@x.c": HOPS[0]}
    assert not only_adds(old, tables(more, domains, {"ants@b.c": "ants@x.c"}))
    both = {"ants@b.c": "ants@x.c", "bees@b.c": "bees@x.c"}
    assert only_adds(old, tables(more, domains, both))
    assert not only_adds(tables(more, domains, both), tables(more, domains, {}))
    others = {**domains, "d.e": "d.e"}
    assert only_adds(old, tables({**routes, "bees@d.e": HOPS[0]}, others, {"ants@b.c": "ants@x.c"}))
    assert not only_adds(tables({}), tables(routes, domains))


some_tables = st.builds(
    tables,
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(HOPS)),
    st.dictionaries(st.sampled_from(["b.c", "x.c"]), st.sampled_from(["b.c", "x.c"])),
    st.dictionaries(st.sampled_from(["ants@m.c", "bees@m.c"]), st.sampled_from(NAMES)),
)


@given(some_tables, some_tables)
def test_each_old_entry_is_there_with_its_value(old: MailmanTables, new: MailmanTables) -> None:
    kept = all(
        after.get(key) == value
        for before, after in (
            (old.routes, new.routes),
            (old.aliases, new.aliases),
            (old.domains, new.domains),
        )
        for key, value in before.items()
    )
    aliased = {domain for domain, host in new.domains.items() if host != domain}
    lists = {key for key in new.routes if key.rpartition("@")[2] in aliased}
    complete = lists <= {*new.aliases.values()}
    if only_adds(old, new):
        assert kept
        assert complete
    elif kept and complete:
        assert old.routes.others or old.aliases.others, "only these may be held in another way"
