"""The text of an installed map: any bytes give a table or None, and a table its own text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.maps import Diff
from postfix_sync.model.table import Table
from postfix_sync.postfix.map_text import (
    HEADER,
    UnfitError,
    edits_of,
    parse_installed,
    render,
    spliced,
)
from tests.parts.mailman_files import nine

KINDS: tuple[type[Table[str]], ...] = (Table, Aliases)

LISTS = ["ants@b.c", "ants-owner@b.c", "ants-x@b.c", "ants@d.e", "#@b.c", "gr\u00fcn@b.c"]
KEYS = [*(key for name in LISTS for key in nine(name)), "b.c", "x"]
VALUES = ["lmtp:[mm]:8024", "lmtp:[mm]:8024, [other]:24"]


def by_line(text: bytes) -> dict[str, str]:
    """Read the entries one by one."""
    lines = text.decode().split("\n")[1:-1]
    found = dict(line.split("\t") for line in lines)
    assert len(found) == len(lines), "a key is there twice"
    return found


@given(st.binary())
def test_installed_text_is_a_table_or_none(content: bytes) -> None:
    for kind in KINDS:
        table = parse_installed([content], kind)
        assert table is None or parse_installed([b"".join(render(table))], kind) in (table, None)


@given(
    st.dictionaries(st.sampled_from(LISTS), st.sampled_from(VALUES)),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)),
)
def test_text_of_routes_has_each_entry_once(lists: dict[str, str], keys: dict[str, str]) -> None:
    entries = {key: hop for name, hop in lists.items() for key in nine(name)}
    table = Table.of({**entries, **keys})
    text = b"".join(render(table))
    assert by_line(text) == table
    if not any(key.startswith("#") for key in table):
        assert parse_installed([text], Table) == table


@given(
    st.dictionaries(st.sampled_from(LISTS[:4]), st.sampled_from(LISTS)),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(KEYS)),
)
def test_text_of_aliases_has_each_entry_once(lists: dict[str, str], keys: dict[str, str]) -> None:
    entries = {
        key: value
        for name, target in lists.items()
        for key, value in zip(nine(name), nine(target), strict=True)
    }
    table = Aliases.of({**entries, **keys})
    text = b"".join(render(table))
    assert by_line(text) == table
    if not any(key.startswith("#") for key in table):
        assert parse_installed([text], Aliases) == table


def test_lines_of_a_list_follow_each_other() -> None:
    table = Table.of(dict.fromkeys([*nine("ants@b.c"), *nine("ants-x@b.c"), "b.c"], "lmtp:[m]:24"))
    keys = list(by_line(b"".join(render(table))))
    assert keys == [*nine("ants-x@b.c"), *nine("ants@b.c"), "b.c"]


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_earlier_versions_is_read(kind: type[Table[str]]) -> None:
    """They sorted all lines."""
    lines = sorted(f"{key}\t{key}\n" for name in LISTS[:4] for key in {*nine(name)})
    text = HEADER + "".join(dict.fromkeys(lines)).encode()
    assert parse_installed([text], kind) == by_line(text)


def test_repeated_key_is_none() -> None:
    text = b"".join(render(Table.of(dict.fromkeys(nine("ants@b.c"), "lmtp:[m]:24"))))
    for line in (b"ants@b.c\tx\n", b"ants-owner@b.c\tlmtp:[m]:24\n"):
        assert parse_installed([text + line], Table) is None


def in_pieces(text: bytes, size: int) -> list[bytes]:
    """Divide a text between lines, into pieces of `size` lines."""
    lines = text.splitlines(keepends=True)
    return [b"".join(lines[at : at + size]) for at in range(0, len(lines), size)]


def changed(table: Table[str], new: Table[str], size: int) -> bytes | None:
    """Change the text of `table` to that of `new`; None if that has to be rendered."""
    try:
        edits = edits_of(table, new, Diff.between(table, new))
        return b"".join(spliced(in_pieces(b"".join(render(table)), size), edits))
    except UnfitError:
        return None


NAMES = [f"{name}@{domain}" for name in ("a", "a-b", "a-c", "ab", "b") for domain in ("b.c", "d")]


@given(
    *[st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES))] * 2,
    st.booleans(),
    st.integers(1, 40),
)
def test_changed_text_is_the_text_of_the_new_table(
    lists: dict[str, str], new: dict[str, str], aliases: bool, size: int
) -> None:
    kind = Aliases if aliases else Table
    if aliases:
        lists, new = ({name: f"{name}.e" for name in names} for names in (lists, new))
    others = {"b.c": "x", "a-c@x": "x"}
    table, other = kind.of_lists(lists, others), kind.of_lists(new, others)
    text = changed(table, other, size)
    assert text == (b"".join(render(other)) if table != other else None)


@given(
    st.dictionaries(st.sampled_from(LISTS), st.sampled_from(VALUES)),
    st.dictionaries(st.sampled_from(LISTS), st.sampled_from(VALUES)),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.booleans(),
)
def test_text_is_never_changed_to_another_one(
    lists: dict[str, str], new: dict[str, str], keys: dict[str, str], loose: bool
) -> None:
    """Lists that share an address, and parts of lists, are rendered."""
    table = Table.of_lists(lists, {})
    other = table | Table.of(keys) if loose else Table.of_lists(new, {})
    text = changed(table, other, 7)
    assert text is None or text == b"".join(render(other))


def test_text_in_another_order_is_not_changed() -> None:
    table = Table.of_lists({"ants@b.c": VALUES[0], "bees@b.c": VALUES[0]}, {})
    new = Table.of_lists({"ants@b.c": VALUES[1], "bees@b.c": VALUES[1]}, {})
    lines = sorted(b"".join(render(table)).splitlines(keepends=True)[1:])
    edits = edits_of(table, new, Diff.between(table, new))
    with pytest.raises(UnfitError):
        b"".join(spliced([HEADER, *lines], edits))
