"""tests/README.md lists every fixture, part and scenario, and names tests that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
INDEX = (TESTS / "README.md").read_text()
ROW = re.compile(
    r"^\| `(\w+)` \| .+ \| `([\w/.]+)` \| `(?:([\w/.]+)::)?(test_\w+)` \|$", re.MULTILINE
)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_fixture(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(one).startswith("pytest.fixture") for one in function.decorator_list)


def test_index_lists_each_fixture_with_its_file() -> None:
    defined = sorted(
        (function.name, str(path.relative_to(TESTS)))
        for path in TESTS.rglob("*.py")
        for function in functions(path)
        if is_fixture(function)
    )
    assert sorted(row[:2] for row in ROW.findall(INDEX)) == defined


def test_index_names_tests_that_exist() -> None:
    for _, fixture_file, file, test in ROW.findall(INDEX):
        path = TESTS / (file or fixture_file)
        assert test in [function.name for function in functions(path)], f"{path}: {test}"


def test_index_lists_each_part_and_scenario() -> None:
    for directory in ("parts", "scenarios"):
        section = INDEX.partition(f"| module of `{directory}/`")[2].partition("\n## ")[0]
        listed = re.findall(r"^\| `(\w+\.py)` \| .+ \|$", section, re.MULTILINE)
        modules = [path.name for path in (TESTS / directory).glob("*.py")]
        assert listed == sorted({*modules} - {"__init__.py"})
