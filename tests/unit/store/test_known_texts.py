"""The entries of the installed texts: kept as they are, or by the record that has them."""

import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postfix_sync.model.installed import KnownText, TextVersion
from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table
from postfix_sync.store.known_texts import Known, KnownTexts, Recorded
from tests.parts.mailman_files import nine

HOPS = ("lmtp:[m]:8024", "lmtp:[n]:8024, [m]:8024")
LISTS = st.dictionaries(
    st.sampled_from(["ants@b.c", "ants-owner@b.c", "bees@d.e", "gr\u00fcn@d.e"]),
    st.sampled_from(HOPS),
)


def tables_of(lists: Mapping[str, str]) -> MailmanTables:
    """Return the tables of a Mailman with some lists, each with an alias."""
    routes = {key: hop for name, hop in lists.items() for key in nine(name)}
    aliases = {key.replace("@", "@x."): key for name in lists for key in nine(name)}
    return MailmanTables.of(routes, {"b.c": "b.c"}, aliases)


def known(maps: Maps, checked_at: float = 1.5) -> Known:
    """Return what is known if these maps are installed."""
    texts = {
        name: KnownText(TextVersion(number, 7 * number), maps[name])
        for number, name in enumerate(MAP_NAMES)
    }
    return Known(texts, checked_at)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LISTS, st.sets(st.sampled_from(nine("ants@b.c"))))
def test_texts_are_read_as_they_were_written(
    tmp_path: Path, lists: dict[str, str], refused: set[str]
) -> None:
    maps = Maps.of(tables_of(lists))
    maps = Maps({**maps.tables, RECIPIENTS: maps[RECIPIENTS].without(refused)})
    file = KnownTexts(tmp_path / "texts.json")
    file.update(Known(), known(maps), ())
    assert file.read(()) == known(maps)


def test_entries_of_a_record_are_kept_by_its_version(tmp_path: Path) -> None:
    tables = tables_of({"ants@b.c": HOPS[0]})
    record = Recorded("lists", (1, 2), tables)
    file = KnownTexts(tmp_path / "texts.json")
    file.update(
        Known(), known(Maps.of(tables)), [Recorded("others", (3, 4), tables_of({})), record]
    )
    assert b"ants" not in file.path.read_bytes()
    found = file.read([record])
    assert (found.texts, found.record) == (known(Maps.of(tables)).texts, record)
    assert found.texts[ROUTES].table is tables.routes
    for wrong in ([], [Recorded("lists", (1, 3), tables)], [Recorded("others", (1, 2), tables)]):
        assert file.read(wrong) == Known(checked_at=1.5)


@given(
    st.sampled_from(MAP_NAMES),
    st.sets(st.integers(0, 99), max_size=3),
    st.dictionaries(st.integers(0, 9), st.sampled_from(HOPS), max_size=3),
    st.dictionaries(st.sampled_from(nine("list7@b.c")), st.sampled_from(HOPS), max_size=3),
)
def test_little_that_differs_from_a_record_is_kept_beside_it(
    name: str, removed: set[int], changed: dict[int, str], loose: dict[str, str]
) -> None:
    lists = {f"list{number}@b.c": HOPS[0] for number in range(400)}
    record = Recorded("lists", (1, 2), tables_of(lists))
    maps = Maps.of(record.tables)
    table = maps[name].without(
        key for number in removed for key in (*nine(f"list{number}@b.c"), f"list{number}@b.c")
    )
    table |= type(table).of(
        {key: hop for number, hop in changed.items() for key in nine(f"list{number}@b.c")}
    )
    table |= type(table).of(loose)
    new = known(Maps({**maps.tables, name: table}))
    with tempfile.TemporaryDirectory() as directory:
        file = KnownTexts(Path(directory) / "texts.json")
        file.update(Known(), new, [record, Recorded("few", (3, 4), tables_of({}))])
        assert file.read([record]) == replace(new, record=record)
        assert b"list199" not in file.path.read_bytes()


def test_much_that_differs_from_a_record_is_kept_without_it(tmp_path: Path) -> None:
    lists = {f"list{number}@b.c": HOPS[0] for number in range(100)}
    record = Recorded("lists", (1, 2), tables_of(lists))
    fewer = known(Maps.of(tables_of({f"list{number}@b.c": HOPS[0] for number in range(97)})))
    file = KnownTexts(tmp_path / "texts.json")
    file.update(Known(), fewer, [record])
    assert file.read(()) == fewer


@pytest.mark.parametrize(
    "difference",
    [[], {ROUTES: []}, {ROUTES: {"new": {}}}, {ROUTES: {"new": {"x": 1}, "gone": []}}],
)
def test_damaged_difference_is_not_known(tmp_path: Path, difference: object) -> None:
    tables = tables_of({"ants@b.c": HOPS[0]})
    record = Recorded("lists", (1, 2), tables)
    file = KnownTexts(tmp_path / "texts.json")
    file.update(Known(), known(Maps.of(tables)), [record])
    first = json.loads(file.path.read_bytes().partition(b"\n")[0])
    second = json.dumps(difference).encode()
    first["checksum"] = zlib.crc32(second)
    file.path.write_bytes(json.dumps(first).encode() + b"\n" + second)
    assert file.read([record]) == Known()


@pytest.mark.parametrize("part", ["texts", "checked_at", "record", "nothing"])
def test_file_is_written_only_if_something_has_changed(tmp_path: Path, part: str) -> None:
    tables = tables_of({"ants@b.c": HOPS[0]})
    record = Recorded("lists", (1, 2), tables)
    file = KnownTexts(tmp_path / "texts.json")
    file.update(Known(), known(Maps.of(tables)), [record])
    old = file.read([record])
    before = file.path.stat().st_ino
    kept = file.path.with_name("kept")
    kept.hardlink_to(file.path)  # so that its inode is not used again
    maps = {**Maps.of(tables).tables, ROUTES: Table.of({})} if part == "texts" else None
    new = known(Maps(maps) if maps else Maps.of(tables), 2.5 if part == "checked_at" else 1.5)
    if part == "texts":
        new = Known({**new.texts, ROUTES: KnownText(TextVersion(9, 9), Table.of({}))}, 1.5)
    records = [Recorded("lists", (1, 9), tables)] if part == "record" else [record]
    file.update(old, new, records)
    assert (file.path.stat().st_ino == before) is (part == "nothing")
    assert file.read(records).texts == new.texts
