"""What is kept of earlier states, and how: on a real disk, without a Postfix."""

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest

from postfix_sync.errors import ApplyError
from postfix_sync.model.source import MailmanTables
from postfix_sync.store.generations import Generations, NoSuchGeneration
from postfix_sync.store.hold import Hold, HoldFile
from tests.parts.disk import names, tree
from tests.parts.mailman_files import nine

HOP = "lmtp:[mailman]:8024"


def mailman(*lists: str, hop: str = HOP) -> MailmanTables:
    """What serves these lists."""
    routes = {key: hop for name in lists for key in nine(name)}
    return MailmanTables.of(routes, {name.rpartition("@")[2]: "x.example" for name in lists}, {})


def texts(number: int) -> dict[str, tuple[int, int]]:
    """Some version of the maps' texts."""
    return {"postfix_lmtp": (number, 1)}


def keep(kept: Generations, tables: MailmanTables, number: int = 0) -> int:
    """Keeps a state, as texts that are never the same."""
    return asyncio.run(kept.keep(tables, {"mailman": "127.0.0.9"}, texts(number)))


A, B, C, D = (mailman(f"{name}@x.example") for name in "abcd")


@pytest.fixture
def kept(tmp_path: Path) -> Generations:
    """A state directory that is not there yet, for three generations."""
    return Generations(tmp_path / "state", 3, "postfix-sync rollback")


def test_what_is_kept_comes_back(kept: Generations) -> None:
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


def test_the_same_state_again_is_the_same_generation_and_the_newest(kept: Generations) -> None:
    assert [keep(kept, one) for one in (A, B, A, B, A)] == [1, 2, 1, 2, 1]
    assert kept.numbers() == [1, 2]
    other = MailmanTables.of(dict(sorted(B.routes.items(), reverse=True)), B.domains, B.aliases)
    assert keep(kept, other) == 2
    assert keep(kept, mailman("b@x.example", hop="lmtp:[other]:8024")) == 3


def test_what_was_in_place_longest_ago_goes_and_no_number_comes_again(kept: Generations) -> None:
    assert [keep(kept, one) for one in (A, B, C, A, D)] == [1, 2, 3, 1, 4]
    assert kept.numbers() == [4, 1, 3]
    with pytest.raises(NoSuchGeneration) as error:
        asyncio.run(kept.load(2))
    assert "there is no generation 2" in error.value.message
    assert "there are 1, 3, 4:" in error.value.hint
    for number in kept.numbers():
        kept.path(number).unlink()
    assert keep(kept, B) == 5, "the note remembers the last number"


def test_one_is_enough(tmp_path: Path) -> None:
    kept = Generations(tmp_path, 1, "postfix-sync rollback")
    assert [keep(kept, one) for one in (A, B, A)] == [1, 2, 3]
    assert kept.numbers() == [3]


def test_a_clock_that_was_set_back_takes_nothing_away_that_is_installed(kept: Generations) -> None:
    for one in (A, B, C):
        keep(kept, one)
    for number in kept.numbers():
        os.utime(kept.path(number), (4e9, 4e9))
    assert keep(kept, D) == 4
    assert keep(kept, mailman("e@x.example")) == 5
    assert kept.numbers()[:2] == [5, 4], "what was in place last comes first, as ever"


def test_which_one_is_installed_is_known_by_the_texts(kept: Generations) -> None:
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
    """What may become of a file, by what happened to it."""
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
def test_a_damaged_one_is_named_and_mended_when_its_state_is_there_again(
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


def test_a_route_that_is_none_and_an_alias_to_nowhere_are_damage(kept: Generations) -> None:
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


def test_what_a_rollback_has_put_back(kept: Generations) -> None:
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


def test_what_is_half_written_is_swept_away(kept: Generations) -> None:
    keep(kept, A)
    before = tree(kept.state_directory)
    for path in (kept.path(2), kept.state_directory / "held.json"):
        path.with_name(f".{path.name}.postfix-sync").write_bytes(b"half")
    assert kept.numbers() == [1]
    kept.discard_staged()
    assert names(kept.state_directory) == ["generations", "installed.json"]
    assert tree(kept.directory).keys() <= before.keys()
