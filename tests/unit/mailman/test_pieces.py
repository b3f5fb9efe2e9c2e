"""Files that are read piece by piece: the table is the same wherever a piece ends.

The reference is a reading line by line, of the whole file.
"""

import io
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postfix_sync.errors import Refused
from postfix_sync.mailman import entries, lists
from postfix_sync.mailman.entries import MAX_LISTS, MAX_OTHER_LINES, Checks, parse_entries
from postfix_sync.mailman.files import parse_aliases, parse_domains, parse_routes
from postfix_sync.mailman.tiles import BY_LINE, MAX_LINE, of_routes, tiles
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST
from postfix_sync.model.source import PIECE, Policy, SourceFile
from postfix_sync.model.table import Table
from postfix_sync.postfix.folding import Fold, fold_ascii, fold_unicode
from tests.parts.mailman_files import HEADER, lmtp_text, nine, source_file, vmap_text

HOP, OTHER = "lmtp:[mailman-test]:8024", "lmtp:[other]:24"
PLACE = "/m/postfix_lmtp"

Parse = Callable[[SourceFile, Fold, Policy], Table[str]]


def only(text: str) -> str:
    """Return a text without Mailman's header."""
    return text.removeprefix(HEADER)


def of_line(text: str) -> str:
    """Return the lines of a list in another order, so that they are not read as a list."""
    return "".join(reversed(only(text).splitlines(keepends=True)))


ROUTES = [
    *(
        only(lmtp_text([name], hop, regex=regex))
        for name in ("ants@b.c", "ants-owner@b.c", "Bees@B.c", "c.d@x.y.z", "gr\u00fcn@b.c")
        for hop in (HOP, OTHER)
        for regex in (False, True)
    ),
    of_line(lmtp_text(["ants@b.c"], HOP)),
    of_line(lmtp_text(["c.d@b.c"], HOP, regex=True)),
    only(lmtp_text(["dees@b\u00fccher.c"], HOP)),
    only(lmtp_text(["/^x@b.c"], HOP)),
    only(lmtp_text(["#x@b.c"], HOP)),
    only(lmtp_text(["#x@b.c"], HOP, regex=True)),
    f"/^ants-owner(\\+.*)?@b\\.c$/ {HOP}\n",
    f"/^ants-bounces(\\+.*)?@b\\.c$/{HOP}\n",
    f"Ants-owner@B.c {HOP}\n",
    f"ants-owner@b.c {OTHER}\n",
    f"ants@b..c {HOP}\n",
    "ants@b.c lmtp:[0.0.0.0]:8024\n",
    f"ants@b.c {HOP} x\n",
    f"ants@b.c\t{HOP} \t\n",
    f"an\0ts@b.c {HOP}\n",
    f"{'a' * MAX_LINE}@b.c {HOP}\n",
    "ants@b.c" + " " * MAX_LINE + f"{HOP}\n",
    "\udcff\n",
    f"ants@b.c {HOP}",
    "# a comment\n",
    "    \n",
    "\n",
]

ALIASES = [
    *(
        only(vmap_text({name: target}, regex=regex))
        for name, target in (
            ("ants@x.c", "ants@b.c"),
            ("ants@x.c", "ants@d.e"),
            ("ants@x.c", "ants@b..c"),
            ("ants-owner@x.c", "ants-owner@b.c"),
            ("ants-owner@x.c", "bees@b.c"),
            ("Bees.red@x.c", "Bees.red@B.c"),
            ("a.b.c.d@x.lists.example.net", "a.b.c.d@b.c"),
            ("gr\u00fcn@x.c", "gr\u00fcn@b.c"),
        )
        for regex in (False, True)
    ),
    of_line(vmap_text({"ants@x.c": "ants@b.c"})),
    "ants-owner@x.c bees@b.c\n",
    "ants@x.c ants@b..c\n",
    "ants@x.c ants\n",
    "# a comment\n",
    "\n",
]


def outcome(parse: Parse, file: SourceFile, fold: Fold, policy: Policy) -> Table[str] | str:
    """Return the table, or how the message of the refusal begins."""
    try:
        return parse(file, fold, policy)
    except Refused as error:
        return re.sub(r":\d+: .*", ":LINE", error.message)


def by_line(kind: type[lists.T], file: SourceFile, checks: Checks) -> lists.T:
    """Do what parse_lists does, line by line."""
    return kind.of(parse_entries(file, checks, MAX_LISTS * ADDRESSES_PER_LIST))


@given(
    st.one_of(
        st.tuples(st.just(parse_routes), st.lists(st.sampled_from(ROUTES))),
        st.tuples(st.just(parse_aliases), st.lists(st.sampled_from(ALIASES))),
    ),
    st.integers(0, 3000),
    st.integers(1, 800),
    st.sampled_from([fold_unicode, fold_ascii]),
    st.sampled_from([Policy(), Policy(domains=frozenset({"b.c", "x.c"}))]),
)
@example((parse_routes, [ROUTES[0], ROUTES[4]]), 3000, 100, fold_unicode, Policy())
def test_reading_by_piece_is_reading_by_line(
    text: tuple[Parse, list[str]], removed: int, piece: int, fold: Fold, policy: Policy
) -> None:
    """Also with one character removed: same table, or both refuse."""
    parse, parts = text
    whole = "".join(parts)
    content = (whole[:removed] + whole[removed + 1 :]).encode(errors="surrogateescape")
    found = outcome(parse, source_file(PLACE, content, piece), fold, policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("postfix_sync.mailman.files.parse_lists", by_line)
        expected = outcome(parse, source_file(PLACE, content), fold, policy)
    assert found == expected
    if isinstance(found, Table) and isinstance(expected, Table):
        assert (found.lists, found.others) == (expected.lists, expected.others)


def test_tiles_are_the_same_wherever_a_piece_ends() -> None:
    text = lmtp_text(["ants@b.c", "bees@b.c"], HOP) + f"single@b.c {HOP}\n"
    whole = list(tiles(source_file(PLACE, text), of_routes()))
    assert len(whole) == 1
    assert sum(1 for name, *_ in whole[0] if name) == 2
    for piece in range(1, len(text) + 1):
        parts = tiles(source_file(PLACE, text, piece), of_routes())
        found = [tile for part in parts for tile in part]
        assert found == whole[0], piece


@pytest.mark.parametrize("piece", [1, 50, PIECE])
@pytest.mark.parametrize("length", [MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE])
def test_long_line_is_refused_with_its_number_and_length(piece: int, length: int) -> None:
    line = f"bees@b.c {HOP:>{length - len('bees@b.c ')}}\n"
    before = "".join(f"ants{number}@b.c {HOP}\n" for number in range(ADDRESSES_PER_LIST))
    file = source_file(PLACE, f"{before}{line}cees@b.c {HOP}\n", piece)
    if length == MAX_LINE:
        assert len(parse_routes(file, fold_unicode, Policy())) == ADDRESSES_PER_LIST + 2
        return
    with pytest.raises(Refused, match=rf"^{PLACE}:10: the line has {length} bytes, {MAX_LINE} at"):
        parse_routes(file, fold_unicode, Policy())


@pytest.mark.parametrize("piece", [3000, PIECE])
@pytest.mark.parametrize("before", ["", lmtp_text(["ants@b.c"], HOP)], ids=["first", "second"])
def test_list_of_long_lines_is_refused(before: str, piece: int) -> None:
    last = "".join(f"{key} {HOP}\n" for key in nine(f"{'a' * (MAX_LINE - 30)}@b.c"))
    lengths = [len(line) for line in last.splitlines()]
    line = next(number for number, length in enumerate(lengths) if length > MAX_LINE)
    assert line > 0
    number = before.count("\n") + line + 1
    with pytest.raises(Refused, match=rf"^{PLACE}:{number}: the line has {lengths[line]} bytes"):
        parse_routes(source_file(PLACE, before + last, piece), fold_unicode, Policy())


@pytest.mark.parametrize("regex", [False, True], ids=["plain", "regex"])
@pytest.mark.parametrize("parse", [parse_routes, parse_aliases])
def test_lists_of_mailman_are_read_without_a_step_each(
    parse: Parse, regex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"list{number}.red@lists.example.net" for number in range(3000)]
    text = (
        lmtp_text(names, HOP, regex=regex)
        if parse is parse_routes
        else vmap_text({name: name.replace("lists", "alias") for name in names}, regex=regex)
    )
    lines = lines_read(monkeypatch)
    table = parse(source_file(PLACE, text), fold_unicode, Policy())
    assert set(table.lists) == {*names}
    assert len(lines) == HEADER.count("\n"), "only the header is read line by line"


@pytest.mark.parametrize("regex", [False, True], ids=["plain", "regex"])
def test_addresses_in_another_order_are_read_without_a_step_each(
    regex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"list{number}.red@lists.example.net" for number in range(300)]
    text = lmtp_text(["ants@b.c"], HOP, regex=regex) + of_line(lmtp_text(names, HOP, regex=regex))
    lines = lines_read(monkeypatch)
    table = parse_routes(source_file(PLACE, text), fold_unicode, Policy())
    assert table == dict.fromkeys((key for name in ["ants@b.c", *names] for key in nine(name)), HOP)
    assert len(lines) == HEADER.count("\n")


def lines_read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the lines that are read one by one, in the order in which they will be."""
    lines: list[bytes] = []
    real = entries.line_of

    def line_of(line: bytes) -> entries.Line | None:
        lines.append(line)
        return real(line)

    monkeypatch.setattr(lists, "line_of", line_of)
    monkeypatch.setattr(entries, "line_of", line_of)
    return lines


def test_list_that_begins_like_a_comment_is_refused() -> None:
    text = lmtp_text(["ants@b.c"], HOP, regex=True) + only(lmtp_text(["#x@b.c"], HOP, regex=True))
    with pytest.raises(Refused, match=rf'^{PLACE}:15: "#x" is not a local part'):
        parse_routes(source_file(PLACE, text), fold_unicode, Policy())


def test_each_domain_of_aliases_is_checked() -> None:
    for name, target in (("ants@x..c", "ants@b.c"), ("ants@x.c", "ants@b..c")):
        text = vmap_text({"bees@x.c": "bees@b.c"}) + only(vmap_text({name: target}))
        line = text.partition("\nants@")[0].count("\n") + 2
        with pytest.raises(Refused, match=rf'^{PLACE}:{line}: "[bx]\.\.c" is not a mail domain'):
            parse_aliases(source_file(PLACE, text), fold_unicode, Policy())


@pytest.mark.parametrize("piece", [300, PIECE])
@pytest.mark.parametrize(
    "last",
    [
        f"ants@b.c {OTHER}\n",
        f"Ants-Owner@b.c {OTHER}\n",
        "".join(f"{key} {OTHER}\n" for key in nine("ants-owner@b.c")),
        "".join(f"{key} {OTHER}\n" for key in nine("ants@b.c")),
    ],
)
def test_second_value_of_an_address_is_refused_with_its_line(last: str, piece: int) -> None:
    text = lmtp_text(["ants@b.c", "bees@b.c"], HOP)
    with pytest.raises(Refused) as caught:
        parse_routes(source_file(PLACE, text + last, piece), fold_unicode, Policy())
    line = text.count("\n") + 1
    key = "ants-owner@b.c" if "wner" in last.partition("@")[0] else "ants@b.c"
    assert caught.value.message.startswith(
        f'{PLACE}:{line}: duplicate key "{key}", with another value; refused'
    )


@pytest.mark.parametrize("piece", [100, PIECE])
def test_comments_count_where_they_are(piece: int) -> None:
    """A thousand and one are too many before the first entry, not after it."""
    comments, entry = "#\n" * (MAX_OTHER_LINES + 1), f"ants@b.c {HOP}\n"
    assert parse_routes(source_file(PLACE, entry + comments, piece), fold_unicode, Policy())
    with pytest.raises(Refused, match=rf":{MAX_OTHER_LINES + 1}: too many comments"):
        parse_routes(source_file(PLACE, comments + entry * 2, piece), fold_unicode, Policy())


def test_single_addresses_have_a_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_SINGLE_BYTES", 100)
    names = [f"list{number}@b.c" for number in range(100)]
    table = parse_routes(source_file(PLACE, lmtp_text(names, HOP)), fold_unicode, Policy())
    assert len(table) == 900
    text = "".join(f"{name} {HOP}\n" for name in names)
    with pytest.raises(Refused, match=r":\d+: the addresses up to here that are not in Mailman's"):
        parse_routes(source_file(PLACE, text, 200), fold_unicode, Policy())


class Counted(io.BytesIO):
    """A file that counts the bytes that are read of it, and knows the most at once."""

    read_bytes = most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and count."""
        found = super().read(size)
        self.read_bytes += len(found)
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize(
    ("content", "line", "times"),
    [
        (b"#a\n" * 2**20, 1001, 0.1),
        (b"\n" * 2**22, 1001, 0.1),
        (b"\0" * 2**22, 1, 1),
        (b"\0" * 2**22 + b"\n", 1, 1),
        (b"@" * 2**21 + b"\n", 1, 1),
        ((b"-" * 2000 + b"\n") * 1000, 1, 0.2),
        ((b"a" * 1000 + b"@" + b"b." * 500 + b"\n") * 1000, 1, 0.2),
    ],
    ids=["comments", "blank lines", "NULs", "NULs, newline", "@", "-", "domains"],
)
def test_bad_file_is_read_once_at_most_and_in_pieces(
    content: bytes, line: int, times: float
) -> None:
    for parse in (parse_routes, parse_domains, parse_aliases):
        stream = Counted(content)
        with pytest.raises(Refused, match=f"^{PLACE}:{line}: "):
            parse(SourceFile(PLACE, stream, len(content)), fold_unicode, Policy())
        assert stream.most <= PIECE
        assert stream.read_bytes <= times * len(content) + PIECE + 1


def test_no_more_is_read_than_the_file_had_when_it_was_opened() -> None:
    text = f"ants@b.c {HOP}\n".encode()
    file = SourceFile(PLACE, io.BytesIO(text + b"bees"), len(text), 7)
    assert parse_routes(file, fold_unicode, Policy()) == {"ants@b.c": HOP}
    assert [tile[-1] for piece in tiles(file, BY_LINE) for tile in piece] == [text[:-1]]
    assert isinstance(parse_aliases(source_file(PLACE, ""), fold_unicode, Policy()), Aliases)
