"""Tables are stored by list, and read back from each format that a version has written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import parse_unjudged
from postfix_sync.store.tables_json import as_json, from_json, order_of
from tests.parts.mailman_files import nine

ANTS, HOP, OTHER = "ants@b.c", "lmtp:[m]:24", "lmtp:[n]:24"
DOMAINS = {"b.c": "b.c"}


def tables(routes: dict[str, str], aliases: dict[str, str] | None = None) -> MailmanTables:
    return MailmanTables.of(routes, DOMAINS, aliases or {})


def aliased() -> MailmanTables:
    pairs = dict(zip(nine("ants@x.y"), nine(ANTS), strict=True))
    return tables(dict.fromkeys(nine(ANTS), HOP), pairs)


def read(document: object) -> MailmanTables:
    return from_json(json.loads(json.dumps(document)), parse_unjudged)


def test_list_is_stored_by_its_name() -> None:
    document = as_json(aliased())
    assert document["lists"] == {HOP: [ANTS]}
    assert document["aliases"] == {"ants@x.y": ANTS}
    assert not document["addresses"]


@given(
    st.dictionaries(
        st.sampled_from([*nine(ANTS), *nine("ants-owner@b.c")]), st.sampled_from([HOP, OTHER])
    )
)
def test_any_tables_are_read_as_they_were_stored(routes: dict[str, str]) -> None:
    assert read(as_json(tables(routes))) == tables(routes)
    assert read(as_json(aliased())) == aliased()


@given(st.lists(st.sampled_from([HOP, OTHER, "lmtp:[o]:24"])))
def test_lists_are_read_in_the_order_of_the_table(next_hops: list[str]) -> None:
    lists = {f"list{number}@b.c": hop for number, hop in enumerate(next_hops)}
    made = MailmanTables(Table(lists, {}), DOMAINS, Aliases.of({}))
    document = as_json(made)
    found = read({**document, "order": order_of(made, document)}).routes.lists
    assert [*found.items()] == [*lists.items()]


@pytest.mark.parametrize("by_next_hop", [False, True], ids=["record", "generation"])
def test_tables_that_an_earlier_version_stored_by_address_are_read(by_next_hop: bool) -> None:
    expected = aliased()
    routes = {HOP: nine(ANTS)} if by_next_hop else dict(expected.routes)
    old = {"routes": routes, "domains": DOMAINS, "aliases": dict(expected.aliases)}
    assert read(old) == expected


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lists": {"smtp:z": [ANTS]}}, "is not a next hop"),
        ({"aliases": {"ants@x.y": "bees@b.c"}}, "an alias has no route"),
        ({"address_aliases": {"cats@x.y": "bees@b.c"}}, "an alias has no route"),
        ({"lists": {HOP: ["an ts@b.c", ANTS]}}, "a blank or a control character"),
        ({"addresses": {HOP: ["#x@b.c"]}}, "can't be a line of a map"),
        ({"domains": {"b c": "b.c"}}, "a blank or a control character"),
        ({"lists": [ANTS]}, "another content than expected"),
        ({"routes": {ANTS: 3}}, "another content than expected"),
        ({"routes": {ANTS: []}}, "is not a next hop"),
        ({"lists": {ANTS: []}}, "is not a next hop"),
        ({"order": []}, '"order" is not that of the lists'),
        ({"order": [0]}, '"order" is not that of the lists'),
        ({"order": [0, 0]}, '"order" is not that of the lists'),
        ({"order": [1, 1]}, '"order" is not that of the lists'),
        ({"order": [-1, 1]}, '"order" is not that of the lists'),
        ({"order": [0, "1"]}, "another content than expected"),
        ({"lists": {HOP: [ANTS], OTHER: [ANTS]}, "order": [0, 1, 1, 1]}, "not that of the lists"),
    ],
)
def test_damaged_tables_are_refused(change: dict[str, object], problem: str) -> None:
    document: dict[str, object] = {**as_json(aliased())}
    with pytest.raises(ValueError, match=problem):
        read({**document, **change})
