"""The text of an installed map: any bytes give a table or None."""

from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.postfix.map_text import parse_installed, render


@given(st.binary())
def test_installed_text_is_a_table_or_none(content: bytes) -> None:
    table = parse_installed(content)
    assert table is None or parse_installed(render(table)) in (table, None)
