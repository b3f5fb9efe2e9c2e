"""docs/benchmarks.md is what the kept figures give, and charts are drawn right."""

import xml.etree.ElementTree as ET

import pytest

from tests.bench.document import PAGE, RESULTS, documents, replaced
from tests.bench.plot import Axis, Chart
from tests.bench.tables import Table, number

SVG = "{http://www.w3.org/2000/svg}"


def test_page_and_plots_are_those_of_the_kept_figures() -> None:
    """If not, run `python -m tests.bench.document`."""
    made = documents()
    assert {path.name: path.read_text() for path in made} == {
        path.name: text for path, text in made.items()
    }
    assert sorted(RESULTS.glob("*.svg")) == sorted({*made} - {PAGE})


def test_text_around_the_marks_is_kept() -> None:
    page = "before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n"
    made = replaced(page, "bench", "new")
    assert made == "before\n<!-- bench -->\n\nnew\n\n<!-- end of bench -->\nafter\n"
    assert replaced(made, "bench", "new") == made


def test_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="no marks of full"):
        replaced("<!-- full -->\n", "full", "new")


@pytest.mark.parametrize(
    ("values", "logarithmic", "ticks"),
    [
        ([10, 20_000], True, [10, 100, 1_000, 10_000, 100_000]),
        ([0.3], True, [0.1, 1]),
        ([0, 119], False, [0, 20, 40, 60, 80, 100, 120]),
        ([0.0], False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_axis_ends_at_round_numbers(
    values: list[float], logarithmic: bool, ticks: list[float]
) -> None:
    axis = Axis.of("x", values, logarithmic=logarithmic)
    assert axis.ticks() == pytest.approx(ticks)
    assert [axis.share(axis.least), axis.share(axis.most)] == pytest.approx([0, 1])


def test_chart_has_a_line_with_its_name_for_each_series() -> None:
    lines = {"a < b": [(10, 0.1), (100, 1.0)], "c": [(10, 0.1), (100, 1.0)]}
    root = ET.fromstring(Chart("Title", "lists", "seconds", lines).as_svg())
    assert len(root.findall(f"{SVG}polyline")) == 2
    texts = {text.text: float(text.attrib["y"]) for text in root.findall(f"{SVG}text")}
    assert {"Title", "lists", "seconds", "a < b", "c"} <= texts.keys()
    assert abs(texts["a < b"] - texts["c"]) >= 16  # neither is written over the other


def test_table_is_aligned_as_text_and_complete_as_markdown() -> None:
    table = Table("sync", "Seconds", ["type", "lists"], [["lmdb", "10"], ["hash", "100,000"]])
    assert table.as_text() == "Seconds\ntype    lists\nlmdb       10\nhash  100,000"
    assert table.as_markdown().endswith("| --- | ---: |\n| lmdb | 10 |\n| hash | 100,000 |")


def test_numbers_have_three_digits() -> None:
    given = (0.0123, 1.234, 12.34, 123.4, 1234.5, None)
    assert [number(value) for value in given] == ["0.012", "1.23", "12.3", "123", "1,234", "-"]
