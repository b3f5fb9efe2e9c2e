"""Text for a terminal: wrapped by visible width, aligned, and without control characters."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.cli.terminal import Cell, Colour, ProgressLine, Terminal

NARROW = Terminal(width=40)
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


class Tty(io.StringIO):
    """A stream that is a terminal according to isatty()."""

    def isatty(self) -> bool:
        return True


def width(line: str) -> int:
    """Return the columns that a line takes."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in line)
    return len(line) + wide - sum(unicodedata.combining(letter) > 0 for letter in line)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours_are_used_only_on_terminals_without_no_color(
    environment: dict[str, str], coloured: bool
) -> None:
    assert Terminal.of(Tty(), environment).coloured is coloured
    assert not Terminal.of(io.StringIO(), environment).coloured


@pytest.mark.parametrize(
    ("columns", "width"), [("", 80), ("20", 40), ("80", 80), ("90", 90), ("300", 100)]
)
def test_width_is_the_terminals_from_40_to_100_columns(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Terminal.of(io.StringIO(), {}).width == width


@given(TEXTS, st.text(alphabet=" ", max_size=12))
def test_wrapped_text_fits_and_is_complete(text: str, indent: str) -> None:
    lines = NARROW.wrap(text, first=Cell(indent), indent=indent)
    assert all(width(line) <= 40 for line in lines)
    assert all(line.isprintable() for line in lines)
    kept = "".join(lines).replace(" ", "")
    assert kept == "".join(
        letter for letter in text if letter.isprintable() and letter != " "
    ) or any(not letter.isprintable() for letter in text)


def test_following_lines_are_indented_below_the_first() -> None:
    lines = NARROW.wrap("one two three " * 4, first=Cell("ok       "), indent=" " * 9)
    assert lines == [
        "ok       one two three one two three one",
        "         two three one two three",
    ]


def test_words_that_fill_a_line_exactly_are_not_wrapped() -> None:
    assert NARROW.wrap("x" * 19 + " " + "y" * 20 + " z") == ["x" * 19 + " " + "y" * 20, "z"]


def test_word_longer_than_a_line_is_cut() -> None:
    assert NARROW.wrap("see " + "/x" * 30) == ["see", "/x" * 20, "/x" * 10]


def test_wide_characters_take_two_columns() -> None:
    assert NARROW.wrap("リ" * 21) == ["リ" * 20, "リ"]


def test_newlines_in_text_are_kept() -> None:
    assert NARROW.wrap("one\ntwo", first=Cell("- "), indent="  ") == ["- one", "  two"]


def test_control_characters_are_escaped() -> None:
    assert NARROW.wrap("\x1b[31mred\r\x07") == ["\\x1b[31mred\\r\\x07"]
    assert NARROW.columns([[Cell("\x1b]0;x\x07"), Cell("\n")]]) == ["\\x1b]0;x\\x07  \\n"]


def test_columns_are_aligned_by_visible_width() -> None:
    rows = [
        [Cell("name"), Cell("lists", right=True), Cell("state")],
        [Cell("リスト"), Cell("7", right=True), Cell("ok")],
        [Cell("b"), Cell("1200", right=True), Cell("stale")],
    ]
    assert NARROW.columns(rows) == [
        "name    lists  state",
        "リスト      7  ok",
        "b        1200  stale",
    ]


def test_too_long_name_is_on_lines_above_its_row() -> None:
    rows = [[Cell("short"), Cell("ok")], [Cell("n" * 45), Cell("ok")]]
    assert NARROW.columns(rows) == ["short  ok", "n" * 40 + "\n" + "n" * 5 + "\n       ok"]


def test_colours_do_not_count_as_width() -> None:
    rows = [[Cell("a", Colour.GOOD), Cell("b")], [Cell("aaa"), Cell("b")]]
    assert Terminal(40, coloured=True).columns(rows) == ["\x1b[32ma\x1b[0m    b", "aaa  b"]
    [line] = Terminal(40, coloured=True).wrap("x", first=Cell("ok ", Colour.GOOD))
    assert line == "\x1b[32mok \x1b[0mx"
    assert Terminal(40).paint("x", Colour.BAD) == "x"


def test_progress_line_is_cut_escaped_and_erased_at_the_end() -> None:
    stream = Tty()
    with ProgressLine(stream, {"TERM": "xterm"}, enabled=True) as line:
        line.show("asking\x07 " + "x" * 200)
    shown, erased = stream.getvalue().split("\r\x1b[K")[1:]
    assert shown.startswith("asking\\x07 xxx")
    assert len(shown) < 100
    assert erased == ""


@pytest.mark.parametrize(
    ("stream", "environment", "enabled"),
    [
        (io.StringIO(), {"TERM": "xterm"}, True),
        (Tty(), {"TERM": "dumb"}, True),
        (Tty(), {"TERM": "xterm"}, False),
    ],
)
def test_progress_line_needs_a_capable_terminal_and_must_be_enabled(
    stream: io.StringIO, environment: dict[str, str], enabled: bool
) -> None:
    with ProgressLine(stream, environment, enabled=enabled) as line:
        line.show("asking")
    assert stream.getvalue() == ""
