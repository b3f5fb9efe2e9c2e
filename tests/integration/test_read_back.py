"""An index is read back: which key it does not hold as the text says."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postfix_sync.errors import ApplyError
from postfix_sync.model.table import Table
from postfix_sync.postfix import postmap
from postfix_sync.postfix.index_type import IndexType
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.map_text import render
from tests.parts.common import public_directory
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

TYPES = ["lmdb", "hash", "btree", "cdb"]
HOP = "lmtp:[127.0.0.1]:8024"
LISTS = ["ants@b.c", "bees@b.c", "gr\u00fcn@b.c", "an..ts+x=y@d.e", "ants@xn--bcher-kva.example"]
TEXT = b"".join(render(Table.of({key: HOP for name in LISTS for key in nine(name)})))
COMMENT, *LINES = TEXT.decode().splitlines(keepends=True)

WRONG = {
    "removed": "",
    "changed": "{key}\tlmtp:[127.0.0.1]:8025\n",
    "longer": "{key}\t" + HOP + ", [127.0.0.2]:8024\n",
    "shorter": "{key}\t" + HOP[:-1] + "\n",
    "renamed": "x{key}\t" + HOP + "\n",
}


async def _build(postfix: PostfixInstance, map_type: str, path: Path) -> IndexType:
    """Build an index of the text at `path`; return its type."""
    instance = await inspect(postfix.config_directory)
    kind = await instance.index_type(map_type)
    await instance.postmap.build(kind, path, len(TEXT), 0)
    return kind


async def _differing(
    postfix: PostfixInstance, path: Path, text: Path | bytes, kind: IndexType
) -> str | None:
    instance = await inspect(postfix.config_directory)
    return await instance.postmap.differing(kind, path, text)


def differing(
    postfix: PostfixInstance, map_type: str, indexed: bytes, text: bytes, *, from_file: bool = True
) -> str | None:
    """Return the first key of `text` that an index built from `indexed` does not hold so."""
    with public_directory() as directory:
        path = directory / "map"
        path.write_bytes(indexed)
        kind = asyncio.run(_build(postfix, map_type, path))
        path.write_bytes(text)
        # postmap(1) prints that the index is older than its text, which is not a failure.
        os.utime(kind.index(path), (0, 0))
        os.utime(path, (1000, 1000))
        return asyncio.run(_differing(postfix, path, path if from_file else text, kind))


@pytest.mark.parametrize("map_type", TYPES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(LINES) - 1),
    how=st.sampled_from(sorted(WRONG)),
    chunk=st.sampled_from([1, 100, len(TEXT) - 1, 2**20]),
    from_file=st.booleans(),
)
def test_one_wrong_entry_is_found_by_its_key(
    idle_postfix: PostfixInstance,
    monkeypatch: pytest.MonkeyPatch,
    map_type: str,
    at: int,
    how: str,
    chunk: int,
    from_file: bool,
) -> None:
    monkeypatch.setattr(postmap, "CHUNK", chunk)
    key = LINES[at].partition("\t")[0]
    lines = [*LINES[:at], WRONG[how].format(key=key), *LINES[at + 1 :]]
    indexed = "".join([COMMENT, *lines]).encode()
    assert differing(idle_postfix, map_type, indexed, TEXT, from_file=from_file) == key
    assert differing(idle_postfix, map_type, TEXT, TEXT, from_file=from_file) is None


@pytest.mark.parametrize("map_type", TYPES)
@pytest.mark.parametrize("text", [COMMENT, "", "".join(LINES)], ids=["empty", "none", "bare"])
def test_text_without_entries_or_comment_agrees_with_its_index(
    idle_postfix: PostfixInstance, map_type: str, text: str
) -> None:
    assert differing(idle_postfix, map_type, text.encode(), text.encode()) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("ants@b.c\tx\nBees@b.c\tx\n", "Bees@b.c"),
        ("Ants@b.c\tx\n", "Ants@b.c"),
        ("ants@b.c\tx\nbees@b.c x\n", "bees@b.c x"),
        ("ants@b.c\tx\nbees@b.c\tx", "bees@b.c"),
        ("ants@b.c\tx\n# comment\nbees@b.c\tx\n", "# comment"),
        ("ants@b.c\tx\nbees@b.c\tx\r\n", "bees@b.c"),
        ("ants@b.c\tx\nants@b.c\tx\nbees@b.c\tx \n", "bees@b.c"),
    ],
    ids=["capital", "first", "blank", "cut", "comment", "dos", "trailing"],
)
def test_text_of_another_form_differs_from_its_index(
    idle_postfix: PostfixInstance, text: str, key: str
) -> None:
    """postmap(1) reads these lines otherwise than they are written."""
    indexed = text.replace("ants@b.c\tx\nants@b.c\tx\n", "ants@b.c\tx\n").encode()
    assert differing(idle_postfix, "lmdb", indexed, text.encode()) == key


@pytest.mark.parametrize("map_type", TYPES)
def test_damaged_index_is_an_error(idle_postfix: PostfixInstance, map_type: str) -> None:
    with public_directory() as directory:
        path = directory / "map"
        path.write_bytes(TEXT)
        kind = asyncio.run(_build(idle_postfix, map_type, path))
        kind.index(path).write_bytes(b"no index")
        with pytest.raises(ApplyError, match="postmap"):
            asyncio.run(_differing(idle_postfix, path, path, kind))
