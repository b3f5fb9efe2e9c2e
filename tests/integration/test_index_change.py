"""An index that is changed, and not rebuilt, holds exactly the entries of its text."""

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postfix_sync.errors import ApplyError
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.installed import Condition
from postfix_sync.model.map_names import RECIPIENTS, ROUTES
from postfix_sync.model.table import Table
from postfix_sync.postfix import index_change
from postfix_sync.postfix.index_change import Publish, small_change
from postfix_sync.postfix.installed_text import installed_version
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.map_text import render
from postfix_sync.postfix.publish import publish, staging_of, write_texts
from postfix_sync.reconcile import apply
from tests.parts.common import public_directory
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

HOP, OTHER = "lmtp:[127.0.0.1]:8024", "lmtp:[127.0.0.1]:8025, [127.0.0.2]:8024"
LISTS = ["ants@b.c", "ants-owner@b.c", "bees@b.c", "gr\u00fcn@b.c", "an..ts+x=y@d.e"]
TYPES = ["lmdb", "hash", "btree", "cdb"]

TABLES = st.dictionaries(st.sampled_from(LISTS), st.sampled_from([HOP, OTHER])).map(
    lambda lists: Table.of({key: hop for name, hop in lists.items() for key in nine(name)})
)


def dumped(directory: MapDirectory, keys: Sequence[str]) -> dict[str, str]:
    """Return all entries of the index; of a cdb, which can't be dumped, those of `keys`."""
    table = f"{directory.map_type}:{directory.path / ROUTES}"
    option = ["-q", "-"] if directory.map_type == "cdb" else ["-s"]
    done = subprocess.run(
        ["postmap", "-c", str(directory.postfix.config_directory), *option, table],
        input="".join(f"{key}\n" for key in keys),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done
    pairs = (line.split("\t") for line in done.stdout.splitlines())
    return {key: value for key, value in pairs if key != "YP_LAST_MODIFIED"}


def maps_in(path: Path, postfix: PostfixInstance, map_type: str) -> MapDirectory:
    """Return a map directory; nothing is there yet."""

    async def found() -> MapDirectory:
        instance = await inspect(postfix.config_directory)
        return MapDirectory(path / "maps", await instance.index_type(map_type), instance)

    return asyncio.run(found())


def publish_one(directory: MapDirectory, step: Publish) -> None:
    """Publish the routes."""

    async def published(lock: int) -> None:
        with staging_of(directory):
            made = await publish(directory, step, lock)
            if not made.text:
                await write_texts(directory, {ROUTES: [step]})

    with Path("/dev/null").open() as lock:
        asyncio.run(published(lock.fileno()))


@pytest.mark.parametrize("map_type", TYPES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=st.lists(TABLES, min_size=2, max_size=5))
def test_index_holds_its_text_after_any_changes(
    idle_postfix: PostfixInstance,
    monkeypatch: pytest.MonkeyPatch,
    map_type: str,
    tables: list[Table[str]],
) -> None:
    monkeypatch.setattr(index_change, "SMALL", dict.fromkeys(index_change.SMALL, 0))
    every = sorted({key for table in tables for key in table})
    before = None
    with public_directory() as path:
        directory = maps_in(path, idle_postfix, map_type)
        for table in tables:
            step = Publish(ROUTES, table, fresh=before is None)
            step = step if before is None else step.over(before)
            publish_one(directory, step)
            assert dumped(directory, every) == table
            assert (directory.path / ROUTES).read_bytes() == b"".join(render(table))
            installed = asyncio.run(directory.read()).maps[ROUTES]
            assert installed.table == table
            assert installed.condition is Condition.SOUND
            before = table


def lists(*numbers: int) -> Table[str]:
    """Return the routes of some lists."""
    return Table.of({key: HOP for number in numbers for key in nine(f"list{number}@b.c")})


@pytest.mark.parametrize(
    ("opened", "count", "changed"),
    [("lmdb", 1000, True), ("lmdb", 100, False), ("hash", 100, True), ("cdb", 1000, False)],
)
def test_index_is_changed_where_that_is_cheaper(opened: str, count: int, changed: bool) -> None:
    before, after = lists(*range(count)), lists(*range(count + 1))
    change = small_change(Publish(ROUTES, after).over(before), opened)
    assert (change is not None) is changed
    if change:
        assert change.added == lists(count)
        assert not change.removed
        assert not change.changed
    assert small_change(Publish(ROUTES, after), opened) is None
    assert small_change(Publish(ROUTES, lists()).over(before), opened) is None
    assert small_change(Publish(ROUTES, after, fresh=True).over(before), opened) is None


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_change_of_an_index_that_lacks_a_list_is_an_error(
    idle_postfix: PostfixInstance, monkeypatch: pytest.MonkeyPatch, map_type: str
) -> None:
    """Another process removed it meanwhile; the staged text stays, and marks a map in doubt."""
    state = {"lmdb": "may hold a part of the change", "hash": "is unchanged"}[map_type]
    monkeypatch.setattr(index_change, "SMALL", dict.fromkeys(index_change.SMALL, 0))
    with public_directory() as path:
        directory = maps_in(path, idle_postfix, map_type)
        publish_one(directory, Publish(ROUTES, lists(1), fresh=True))
        step = Publish(ROUTES, lists(1)).over(lists(1, 2))
        with pytest.raises(ApplyError, match=state):
            publish_one(directory, step)
        assert (directory.staging / ROUTES).exists()


def test_index_is_rebuilt_if_a_removed_key_may_be_another_ones_by_case() -> None:
    """postmap -d folds: removing Ants@b.c would remove ants@b.c (seen with an edited text)."""
    entries = dict(lists(*range(1000)))
    edited = Table.of({**entries, "Ants@b.c": HOP})
    step = Publish(ROUTES, Table.of({**entries, "ants@b.c": HOP})).over(edited)
    assert small_change(step, "lmdb") is None
    assert small_change(Publish(ROUTES, Table.of(entries)).over(edited), "hash") is None


def test_few_keys_of_lmdb_are_changed_as_each_is_written_to_the_disk() -> None:
    before, few, many = lists(*range(20_000)), lists(*range(20_020)), lists(*range(20_040))
    assert small_change(Publish(ROUTES, few).over(before), "lmdb")
    assert small_change(Publish(ROUTES, many).over(before), "lmdb") is None
    assert small_change(Publish(ROUTES, many).over(before), "hash")


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_map_whose_second_change_failed_stays_in_doubt(
    idle_postfix: PostfixInstance, monkeypatch: pytest.MonkeyPatch, map_type: str
) -> None:
    monkeypatch.setattr(index_change, "SMALL", dict.fromkeys(index_change.SMALL, 0))
    with public_directory() as path, Path("/dev/null").open() as lock:
        directory = maps_in(path, idle_postfix, map_type)
        publish_one(directory, Publish(ROUTES, lists(1), fresh=True))
        before = (directory.path / ROUTES).read_bytes()
        first = Publish(ROUTES, lists(1, 2)).over(lists(1))
        second = Publish(ROUTES, lists(2)).over(lists(1, 2))

        async def change() -> None:
            with staging_of(directory):
                await publish(directory, first, lock.fileno())
                failed = apply._Taken(None, failed=second, error=ApplyError("x"))
                taken = [apply._Taken(None), apply._Taken(None, published=first), failed]
                assert await apply._written(taken, directory) == ({}, None)
                raise ApplyError("x")

        with pytest.raises(ApplyError):
            asyncio.run(change())
        assert (directory.path / ROUTES).read_bytes() == before
        installed = asyncio.run(directory.read()).maps[ROUTES]
        assert installed.condition is Condition.STALE


def test_text_that_can_not_be_written_does_not_stop_the_other_ones(
    idle_postfix: PostfixInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_change, "SMALL", dict.fromkeys(index_change.SMALL, 0))
    with public_directory() as path, Path("/dev/null").open() as lock:
        directory = maps_in(path, idle_postfix, "lmdb")
        old, new = (
            {ROUTES: lists(*n), RECIPIENTS: Aliases.of_itself(lists(*n))} for n in [(1,), (1, 2)]
        )
        for name, table in old.items():
            publish_one(directory, Publish(name, table, fresh=True))
        steps = [Publish(name, new[name]).over(old[name]) for name in old]

        async def change() -> None:
            with staging_of(directory):
                for step in steps:
                    await publish(directory, step, lock.fileno())
                (directory.path / RECIPIENTS).unlink()
                (directory.path / RECIPIENTS).mkdir()
                texts, error = await write_texts(directory, {one.name: [one] for one in steps})
                assert {name: text.table for name, text in texts.items()} == {ROUTES: new[ROUTES]}
                assert error is not None
                assert str(directory.path / RECIPIENTS) in error.message

        asyncio.run(change())


def test_edit_during_a_sync_is_not_taken_over(
    idle_postfix: PostfixInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is written after the index was changed, and after any wait for a reload."""
    monkeypatch.setattr(index_change, "SMALL", dict.fromkeys(index_change.SMALL, 0))
    with public_directory() as path, Path("/dev/null").open() as lock:
        directory = maps_in(path, idle_postfix, "lmdb")
        publish_one(directory, Publish(ROUTES, lists(1), fresh=True))
        text = directory.path / ROUTES
        version = installed_version(text)
        step = Publish(ROUTES, lists(1, 2)).over(lists(1), text=version)

        async def change() -> None:
            with staging_of(directory):
                await publish(directory, step, lock.fileno())
                text.write_bytes(text.read_bytes() + b"mallory@b.c\tlmtp:[evil]:24\n")
                texts, error = await write_texts(directory, {ROUTES: [step]})
                assert error is None
                assert texts[ROUTES].version == installed_version(text)

        asyncio.run(change())
        assert text.read_bytes() == b"".join(render(step.table))
