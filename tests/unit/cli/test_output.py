"""The texts that status, doctor and rollback print for people."""

import pytest

from postfix_sync.cli import output
from postfix_sync.cli.terminal import Terminal
from postfix_sync.model.finding import Finding, Verdict
from postfix_sync.model.source import MailmanTables
from postfix_sync.status.schema import (
    ClusterStatus,
    DestinationStatus,
    MapStatus,
    SourceStatus,
    Status,
    no_syncs,
)
from postfix_sync.store.generations import Generation
from postfix_sync.store.hold import Hold
from postfix_sync.text import iso
from tests.parts.mailman_files import nine

NOW = 1_790_000_000.0
PLAIN = Terminal()
COLOURED = Terminal(coloured=True)

LONG_FIX = (
    "postconf -e 'relay_domains = hash:/etc/postfix/relay,"
    " lmdb:/etc/postfix/mailman/postfix_domains' && postfix reload"
)
WELL = Finding("transport_maps", Verdict.OK, "transport_maps = lmdb:/m/postfix_lmtp")
DOUBTFUL = Finding("clock", Verdict.WARNING, "it is 1970", "the hour is wrong")
BAD = Finding("relay_domains", Verdict.FAILURE, "relay_domains = ", "no map " * 15, LONG_FIX)


def test_findings_are_ordered_with_failures_last() -> None:
    assert output.findings([BAD, WELL, DOUBTFUL, WELL], PLAIN).splitlines() == [
        "ok       transport_maps = lmdb:/m/postfix_lmtp",
        "ok       transport_maps = lmdb:/m/postfix_lmtp",
        "",
        "warning  clock",
        "         it is 1970",
        "         the hour is wrong",
        "",
        "failure  relay_domains",
        "         relay_domains =",
        "         " + ("no map " * 10).rstrip(),
        "         " + ("no map " * 5).rstrip(),
        f"           {LONG_FIX}",
        "",
        "1 failure, 1 warning, 2 ok",
    ]


def test_quiet_findings_are_only_problems() -> None:
    assert output.findings([WELL], PLAIN, problems_only=True) == ""
    text = output.findings([WELL, DOUBTFUL], PLAIN, problems_only=True)
    assert text.splitlines()[0] == "warning  clock"
    assert "transport_maps" not in text


def test_summary_counts_only_verdicts_that_occur() -> None:
    assert output.findings([WELL], PLAIN).splitlines()[-1] == "1 ok"
    assert output.findings([BAD, BAD], PLAIN).splitlines()[-1] == "2 failures, 0 ok"


def test_ok_finding_begins_with_its_name() -> None:
    finding = Finding("state_directory", Verdict.OK, "/var/lib/postfix-sync, 2 GiB free")
    assert output.findings([finding], PLAIN).splitlines()[0] == (
        "ok       state_directory: /var/lib/postfix-sync, 2 GiB free"
    )


def test_command_is_not_wrapped_and_is_coloured_as_a_whole() -> None:
    text = output.findings([BAD], COLOURED)
    assert f"           \x1b[36m{LONG_FIX}\x1b[0m\n" in text
    assert text.startswith("\x1b[1;31mfailure  \x1b[0m\x1b[1mrelay_domains\x1b[0m\n")


def status(**changed: object) -> Status:
    source = SourceStatus(
        state="ok",
        lists=12,
        entries=108,
        last_success=iso(NOW - 10),
        last_change=iso(NOW - 5 * 86400),
        error=None,
        failing_since=None,
    )
    refused = SourceStatus(
        state="refused",
        lists=1,
        entries=9,
        last_success=None,
        last_change=None,
        error={"message": "x: names no list at all; " + "kept " * 20, "hint": "mailman aliases"},
        failing_since=None,
    )
    found = Status(
        version="0.1.0",
        updated=iso(NOW - 3 * 3600),
        generation=7,
        held=False,
        held_since=None,
        waiting="",
        sources={"lists": source, "リスト": refused},
        maps={"postfix_lmtp": MapStatus(type="lmdb", entries=117, updated=iso(NOW - 600))},
        destinations={
            "127.0.0.1:8024": DestinationStatus(
                up=False,
                since=iso(NOW - 90),
                phase="greeting",
                reply="",
                seconds=10,
                error="lost",
                failures=3,
                last_failure=iso(NOW),
                last_flush=None,
            )
        },
        clusters={
            "mm": ClusterStatus(
                destinations=["a:8024", "b:8024"], last=["b:8024"], nameless=[], changed=None
            )
        },
        passes=no_syncs(),
        queue=None,
    )
    return Status(**{**found, **changed})  # type: ignore[typeddict-item]  # changed fields


def test_status_has_a_table_for_each_section() -> None:
    assert output.status(status(), NOW, PLAIN).splitlines() == [
        f"postfix-sync 0.1.0, as of {iso(NOW - 3 * 3600)}, 3 h ago",
        "generation 7",
        "",
        "source  state    lists  addresses  last success  last change",
        "lists   ok          12        108  10 s ago      5 d ago",
        "リスト  refused      1          9  never         never",
        "  x: names no list at all; " + ("kept " * 10).rstrip(),
        "  " + ("kept " * 10).rstrip(),
        "  hint: mailman aliases",
        "",
        "map           type  entries  updated",
        "postfix_lmtp  lmdb      117  10 min ago",
        "",
        "destination     state  for   phase     seconds",
        "127.0.0.1:8024  DOWN   90 s  greeting       10",
        "  lost",
        "",
        "cluster mm: a:8024, b:8024; tried last: b:8024",
    ]


def test_held_status_reports_duration_and_pending_changes() -> None:
    held = {"held": True, "held_since": iso(NOW - 7200), "waiting": "+1 list: ants@a.example"}
    assert output.status(status(**held), NOW, PLAIN).splitlines()[1] == (
        "held at generation 7 for 2 h; pending: +1 list: ants@a.example"
    )
    unknown = status(**{**held, "generation": None, "waiting": ""})
    assert output.status(unknown, NOW, PLAIN).splitlines()[1] == "held for 2 h; pending: nothing"


def test_empty_sections_of_status_leave_no_blank_lines() -> None:
    text = output.status(status(sources={}, destinations={}, clusters={}), NOW, PLAIN)
    assert text.count("\n\n") == 1


@pytest.mark.parametrize("moment", ["", "yesterday"])
def test_invalid_time_in_status_is_shown_as_unknown(moment: str) -> None:
    assert output.status(status(updated=moment), NOW, PLAIN).splitlines()[0].endswith(", ? ago")


def test_states_are_coloured_by_severity() -> None:
    text = output.status(status(), NOW, COLOURED)
    assert "\x1b[32mok\x1b[0m" in text
    assert "\x1b[1;31mrefused\x1b[0m" in text
    assert "\x1b[1;31mDOWN\x1b[0m" in text


def kept(number: int, *lists: str, differs: tuple[str, ...] = ()) -> output.Kept:
    routes = {key: "lmtp:[m]:24" for name in lists for key in nine(name)}
    tables = MailmanTables.of(routes, {}, {})
    return output.Kept(Generation(number, NOW - number, tables, {}), differs)


def typed(*words: str) -> str:
    return " ".join(["postfix-sync", *words])


def test_generations_are_listed_with_their_differences() -> None:
    rows = [kept(12, "a@x.y", "b@x.y"), kept(9, "a@x.y", differs=("-1 list: b@x.y",))]
    assert output.generations(rows, None, typed, PLAIN).splitlines() == [
        "generation  last installed        lists  addresses",
        f"12          {iso(NOW - 12)}      2         18  installed",
        f"9           {iso(NOW - 9)}      1          9",
        "  -1 list: b@x.y",
        "",
        "install one and hold it:",
        "  postfix-sync rollback GENERATION",
    ]


def test_held_generation_is_reported_with_the_command_to_release() -> None:
    lines = output.generations([kept(2, "a@x.y")], Hold(2, NOW), typed, PLAIN).splitlines()
    assert lines[-2:] == [
        f"held at generation 2 since {iso(NOW)}; release the hold:",
        "  postfix-sync resume",
    ]


def test_no_generation_is_reported_with_the_command_to_sync() -> None:
    assert output.generations([], None, typed, PLAIN).splitlines() == [
        "no generation is kept yet; run a sync:",
        "  postfix-sync --once",
    ]
