"""Which lists and destinations a table of Mailman's addresses has."""

from postfix_sync.model.destination import Destination
from postfix_sync.model.table import Table
from postfix_sync.postfix.next_hop import destinations_of
from tests.parts.mailman_files import lists_of, nine


def test_lists_whose_names_look_like_addresses_of_others() -> None:
    names = {"a@b.c", "a-bounces@b.c", "a-bounces-owner@b.c"}
    assert lists_of({key for name in names for key in nine(name)}) == names


def test_destinations_pass_over_routes_of_other_kinds() -> None:
    table = dict.fromkeys(nine("a@b.c"), "lmtp:[m]:24") | dict.fromkeys(nine("x@b.c"), "smtp:z")
    assert destinations_of(Table.of(table)) == {Destination("m", 24): ["a@b.c"]}
