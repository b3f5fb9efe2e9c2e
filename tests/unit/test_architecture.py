"""docs/architecture.md names every package of the program."""

from pathlib import Path

import postfix_sync

PACKAGE = Path(postfix_sync.__file__).parent


def test_each_package_is_described_in_the_architecture() -> None:
    text = (PACKAGE.parent / "docs/architecture.md").read_text()
    packages = [path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")]
    names = [str(one) for one in packages if one.name]
    assert names
    assert [name for name in names if f"`{name}/`" not in text] == []
