"""A sync that would take too many lists away is refused; one that is still reached is not gone."""

import pytest

from postfix_sync.errors import Refused
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.source import MailmanTables, Policy
from postfix_sync.reconcile.guard import guard, reached


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


def nine(*names: str) -> dict[str, str]:
    return {key: "lmtp:[m]:24" for name in names for key in addresses_of(name)}


def aliases(alias: str, name: str) -> dict[str, str]:
    return dict(zip(addresses_of(alias), addresses_of(name), strict=True))


PLAIN = MailmanTables.of(nine("ants@b.c"), {"b.c": "b.c"}, {})
ALIASED = MailmanTables.of(nine("ants@a.d"), {"a.d": "b.c"}, aliases("ants@b.c", "ants@a.d"))


@pytest.mark.parametrize(("old", "new"), [(PLAIN, ALIASED), (ALIASED, PLAIN)])
def test_list_is_not_gone_while_one_of_its_names_is_left(
    old: MailmanTables, new: MailmanTables
) -> None:
    assert set(addresses_of("ants@b.c")) >= {"ants@b.c"}
    before = {name for name in old.routes if name in ("ants@b.c", "ants@a.d")}
    assert before <= reached(old, new)


def test_list_of_which_no_name_is_left_is_gone() -> None:
    other = MailmanTables.of(nine("bees@b.c"), {"b.c": "b.c"}, {})
    for old in (PLAIN, ALIASED):
        assert reached(old, other) == {"bees@b.c"}
