"""Generations: how earlier states are kept, on a real disk, without a Postfix."""

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest

from postfix_sync.errors import ApplyError
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.store.generations import Generations, NoSuchGeneration, pack
from postfix_sync.store.hold import Hold, HoldFile
from tests.parts.disk import names, tree
from tests.parts.mailman_files import nine

HOP = "lmtp:[mailman]:8024"


def mailman(*lists: str, hop: str = HOP) -> MailmanTables:
    """Return the tables of these lists."""
    routes = {key: hop for name in lists for key in nine(name)}
    return MailmanTables.of(routes, {name.rpartition("@")[2]: "x.example" for name in lists}, {})


def texts(number: int) -> dict[str, tuple[int, int]]:
    """Return a version of the maps' texts."""
    return {"postfix_lmtp": (number, 1)}


def keep(kept: Generations, tables: MailmanTables, number: int = 0) -> int:
    """Keep a state; each `number` stands for other texts of the maps."""
    return asyncio.run(kept.keep(pack(tables), {"mailman": "127.0.0.9"}, texts(number)))


A, B, C, D = (mailman(f"{name}@x.example") for name in "abcd")


@pytest.fixture
def kept(tmp_path: Path) -> Generations:
    """The generations, three at most, of a state directory that does not exist yet."""
    return Generations(tmp_path / "state", 3, "postfix-sync rollback")


def test_kept_generation_can_be_loaded(kept: Generations) -> None:
    tables = MailmanTables.of(
        {
            **dict.fromkeys(nine("a@x.example"), HOP),
            **dict.fromkeys(nine("ü@y.example"), "lmtp:[b]:24, [c]:24"),
        },
        {"x.example": "x.example", "y.example": "z.example"},
        dict(zip(nine("a@z.example"), nine("a@x.example"), strict=True)),
    )
    assert keep(kept, tables) == 1
    found = asyncio.run(kept.load(1))
    assert (found.number, found.tables, found.hosts) == (1, tables, {"mailman": "127.0.0.9"})
    assert found.at == pytest.approx(kept.path(1).stat().st_mtime)


def test_order_of_lists_makes_no_other_generation(kept: Generations) -> None:
    hops = {"c": "lmtp:[z]:24", "a": "lmtp:[z]:24", "b": "lmtp:[m]:24", "d": "lmtp:[z]:24"}
    tables = [
        MailmanTables(
            Table({f"{name}@x.example": hops[name] for name in order}, {}),
            {"x.example": "x.example"},
            Aliases.of({}),
        )
        for order in ("cabd", "bdca", "abcd")
    ]
    assert {keep(kept, one) for one in tables} == {1}
    assert asyncio.run(kept.load(1)).tables == tables[0]


def test_state_that_returns_gets_its_previous_number_and_is_the_newest(kept: Generations) -> None:
    assert [keep(kept, tables) for tables in (A, B, A, B, A)] == [1, 2, 1, 2, 1]
    assert kept.numbers() == [1, 2]
    other = MailmanTables.of(dict(sorted(B.routes.items(), reverse=True)), B.domains, B.aliases)
    assert keep(kept, other) == 2
    assert keep(kept, mailman("b@x.example", hop="lmtp:[other]:8024")) == 3


def test_oldest_generation_is_removed_and_no_number_is_used_again(kept: Generations) -> None:
    assert [keep(kept, tables) for tables in (A, B, C, A, D)] == [1, 2, 3, 1, 4]
    assert kept.numbers() == [4, 1, 3]
    with pytest.raises(NoSuchGeneration) as error:
        asyncio.run(kept.load(2))
    assert "there is no generation 2" in error.value.message
    assert "there are 1, 3, 4:" in error.value.hint
    for number in kept.numbers():
        kept.path(number).unlink()
    assert keep(kept, B) == 5, "the note remembers the last number"


def test_single_generation_can_be_kept(tmp_path: Path) -> None:
    kept = Generations(tmp_path, 1, "postfix-sync rollback")
    assert [keep(kept, tables) for tables in (A, B, A)] == [1, 2, 3]
    assert kept.numbers() == [3]


def test_clock_that_was_set_back_does_not_remove_the_installed_generation(
    kept: Generations,
) -> None:
    for tables in (A, B, C):
        keep(kept, tables)
    for number in kept.numbers():
        os.utime(kept.path(number), (4e9, 4e9))
    assert keep(kept, D) == 4
    assert keep(kept, mailman("e@x.example")) == 5
    assert kept.numbers()[:2] == [5, 4], "what was in place last comes first, as ever"


def test_installed_generation_is_found_by_the_texts_of_the_maps(kept: Generations) -> None:
    assert kept.installed(texts(1)) is None
    keep(kept, A, 1)
    keep(kept, B, 2)
    assert (kept.installed(texts(1)), kept.installed(texts(2))) == (None, 2)
    kept.note(1, texts(3))
    assert (kept.installed(texts(2)), kept.installed(texts(3))) == (None, 1)
    assert kept.numbers() == [1, 2], "in place last"
    kept.path(1).unlink()
    assert kept.installed(texts(3)) is None
    (kept.state_directory / "installed.json").write_text("[]")
    assert kept.installed(texts(3)) is None


def damages() -> dict[str, bytes]:
    """Return damaged contents of a file, by kind of damage."""
    header = json.dumps({"sha256": "0" * 64, "hosts": {}}).encode()
    content = json.dumps({"routes": {}, "domains": {}, "aliases": {}}).encode()
    return {
        "emptied": b"",
        "no gzip": b"{}\n{}",
        "no JSON": gzip.compress(b"routes\nroutes"),
        "no document": gzip.compress(b"[]\n[]"),
        "other content": gzip.compress(header + b"\n" + content),
    }


@pytest.mark.parametrize("damage", [*damages(), "cut short"])
def test_damaged_generation_is_reported_and_replaced_when_its_state_returns(
    kept: Generations, damage: str
) -> None:
    keep(kept, A)
    keep(kept, B)
    path = kept.path(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] if damage == "cut short" else damages()[damage])
    with pytest.raises(ApplyError) as error:
        asyncio.run(kept.load(1))
    assert f"{path}: is damaged, so generation 1 can't be installed" in error.value.message
    assert f"rm {path}" in error.value.hint
    assert asyncio.run(kept.load(2)).tables == B
    number = keep(kept, A)
    assert asyncio.run(kept.load(number)).tables == A


def test_generation_with_invalid_route_or_alias_is_damaged(kept: Generations) -> None:
    for tables in (
        MailmanTables.of({"a@x.example": "discard:"}, {}, {}),
        MailmanTables.of({}, {}, {"a@x.example": "b@x.example"}),
    ):
        with pytest.raises(ApplyError, match="is damaged"):
            asyncio.run(kept.load(keep(kept, tables)))


def test_new_generation_gets_no_number_that_the_hold_names(kept: Generations) -> None:
    kept.state_directory.mkdir()
    HoldFile(kept.state_directory).write(Hold(3, 0, 7))
    assert keep(kept, A) == 8


def test_hold_without_a_generation_can_not_be_loaded(kept: Generations) -> None:
    with pytest.raises(ApplyError, match=r"held\.json: can't be read"):
        asyncio.run(kept.load_held(Hold(None, 0)))


def test_restored_entries_are_those_that_the_rollback_added(kept: Generations) -> None:
    keep(kept, mailman("a@x.example", "b@y.example"))
    keep(kept, mailman("a@x.example", "c@x.example"))
    entries = asyncio.run(kept.restored(Hold(1, 0, 2)))
    assert entries
    assert (
        entries["postfix_lmtp"].keys()
        == entries["postfix_recipients"].keys()
        == {*nine("b@y.example")}
    )
    assert entries["postfix_domains"].keys() == {"y.example"}
    for unknown in (Hold(None, 0, 2), Hold(1, 0, None), Hold(1, 0, 9)):
        assert asyncio.run(kept.restored(unknown)) is None


def test_staged_files_are_removed(kept: Generations) -> None:
    keep(kept, A)
    before = tree(kept.state_directory)
    for path in (kept.path(2), kept.state_directory / "held.json"):
        path.with_name(f".{path.name}.postfix-sync").write_bytes(b"half")
    assert kept.numbers() == [1]
    kept.discard_staged()
    assert names(kept.state_directory) == ["generations", "installed.json"]
    assert tree(kept.directory).keys() <= before.keys()
