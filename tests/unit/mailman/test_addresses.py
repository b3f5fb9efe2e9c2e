"""Which lists and destinations a table of Mailman's addresses has."""

from postfix_sync.mailman.addresses import destinations_of, lists_of
from postfix_sync.model import Destination
from tests.parts.mailman_files import nine


def test_lists_whose_names_look_like_addresses_of_others() -> None:
    names = {"a@b.c", "a-bounces@b.c", "a-bounces-owner@b.c"}
    assert lists_of({key for name in names for key in nine(name)}) == names


def test_destinations_pass_over_routes_of_other_kinds() -> None:
    table = dict.fromkeys(nine("a@b.c"), "lmtp:[m]:24") | dict.fromkeys(nine("x@b.c"), "smtp:z")
    assert destinations_of(table) == {Destination("m", 24): ["a@b.c"]}
