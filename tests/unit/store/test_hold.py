"""The hold is in its file until it is removed; a file that can't be read is a hold, too."""

from pathlib import Path

import pytest

from postfix_sync.store.hold import Hold, HoldFile


def test_an_order_is_there_until_it_is_taken_away(tmp_path: Path) -> None:
    file = HoldFile(tmp_path)
    assert file.read() is None
    order = Hold(3, 1_790_000_000.5, 7)
    file.write(order)
    assert file.read() == order
    assert str(order) == "held at generation 3 since 2026-09-21T14:13:20Z"
    file.write(Hold(1, 0, None))
    assert file.read() == Hold(1, 0, None)
    file.remove()
    assert file.read() is None
    file.remove()


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"generation": null, "since": 0, "before": 1}']
)
def test_an_order_that_can_not_be_read_is_one(tmp_path: Path, content: str) -> None:
    file = HoldFile(tmp_path)
    file.path.write_text(content)
    order = file.read()
    assert order
    assert order.generation is None
