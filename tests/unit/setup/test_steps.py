"""Setup's changes in main.cf, and how they are undone after later changes of an operator."""

import pytest

from postfix_sync.setup.steps import (
    Change,
    Step,
    from_json,
    in_order,
    overwritten,
    to_json,
    undoing,
)

OURS = "lmdb:/etc/postfix/mailman/postfix_lmtp"
THEIRS = "hash:/etc/postfix/transport"
THEN = "cdb:/etc/postfix/later"
PASSWD = "proxy:unix:passwd.byname $alias_maps"

ADDED_TO_NOTHING = Change("transport_maps", None, OURS)
ADDED = Change("transport_maps", THEIRS, f"{THEIRS}, {OURS}")
IN_FRONT = Change("relay_domains", "a.example", "!b.example, a.example")
IN_BRACES = Change("relay_recipient_maps", None, f"{OURS}, regexp:{{{{!/a b/ OK}}}}")
TO_A_DEFAULT = Change("local_recipient_maps", None, f"{PASSWD}, {OURS}", PASSWD)
INSTEAD_OF_A_DEFAULT = Change("virtual_alias_maps", None, OURS, "$virtual_maps")
TO_AN_EMPTY_ONE = Change("transport_maps", "", OURS)
REPLACED = Change("transport_maps", f"hash:/mailman, {THEIRS}", f"{OURS}, {THEIRS}")
SCALAR = Change("lmtp_host_lookup", None, "native", "dns")
DELIMITER = Change("recipient_delimiter", "-", "-+")


@pytest.mark.parametrize(
    ("change", "present", "expected"),
    [
        # The value was not changed since.
        (ADDED_TO_NOTHING, OURS, None),
        (ADDED, f"{THEIRS}, {OURS}", THEIRS),
        (TO_A_DEFAULT, f"{PASSWD}, {OURS}", None),
        (TO_AN_EMPTY_ONE, OURS, ""),
        (REPLACED, f"{OURS}, {THEIRS}", f"hash:/mailman, {THEIRS}"),
        (SCALAR, "native", None),
        (DELIMITER, "-+", "-"),
        # An operator has added or removed items since.
        (ADDED_TO_NOTHING, f"{OURS}, {THEN}", THEN),
        (ADDED_TO_NOTHING, f"{THEN} {OURS}", THEN),
        (ADDED, f"{THEIRS}, {OURS},{THEN}", f"{THEIRS},{THEN}"),
        (ADDED, f"{THEN} , {THEIRS}  {OURS}", f"{THEN} , {THEIRS}"),
        (ADDED, OURS, None),
        (IN_BRACES, f"{THEN}, regexp:{{{{!/a b/ OK}}}}, {OURS}", THEN),
        (IN_FRONT, "!b.example, a.example c.example", "a.example c.example"),
        (TO_A_DEFAULT, f"{PASSWD}, {OURS}, {THEN}", f"{PASSWD}, {THEN}"),
        (TO_A_DEFAULT, f"{PASSWD} {OURS}", None),
        (TO_A_DEFAULT, OURS, None),
        (INSTEAD_OF_A_DEFAULT, f"{OURS}, {THEN}", THEN),
        (TO_AN_EMPTY_ONE, f"{OURS}, {THEN}", THEN),
        (REPLACED, f"{OURS}, {THEIRS}, {THEN}", f"hash:/mailman, {THEIRS}, {THEN}"),
        (REPLACED, f"{OURS}, hash:/mailman", "hash:/mailman"),
    ],
)
def test_undo_removes_what_was_added_and_keeps_the_rest(
    change: Change, present: str, expected: str | None
) -> None:
    back = change.reversed(present)
    assert back is not None
    assert (back.parameter, back.before, back.after) == (change.parameter, present, expected)
    assert not change.is_overwritten(present)


@pytest.mark.parametrize(
    ("change", "present"),
    [
        (ADDED_TO_NOTHING, None),
        (ADDED_TO_NOTHING, THEIRS),
        (ADDED, THEIRS),
        (ADDED, f"{THEIRS}, {OURS}.old"),
        (ADDED, f"{THEIRS}, proxy:{OURS}"),
        (SCALAR, None),
        (DELIMITER, "-"),
    ],
)
def test_undo_changes_nothing_if_the_change_is_gone(change: Change, present: str | None) -> None:
    assert change.reversed(present) is None
    assert not change.is_overwritten(present)


@pytest.mark.parametrize(
    ("change", "present"), [(SCALAR, "dns, native"), (SCALAR, "dns"), (DELIMITER, "+")]
)
def test_undo_keeps_and_reports_a_value_that_was_replaced(change: Change, present: str) -> None:
    step = Step("", "", (change,))
    assert undoing([step], {change.parameter: present}) == []
    assert overwritten([step], {change.parameter: present}) == [change]


def test_several_setups_are_undone_from_last_to_first() -> None:
    first = Step("", "", (Change("relay_domains", None, "lmdb:/d"),))
    second = Step("", "", (Change("relay_domains", "lmdb:/d", "!x.example, lmdb:/d"),))
    third = Step("", "", (Change("transport_maps", None, OURS),))
    present = {"relay_domains": "!x.example, lmdb:/d", "transport_maps": f"{OURS} {THEN}"}
    back = {change.parameter: change.after for change in undoing([first, second, third], present)}
    assert back == {"relay_domains": None, "transport_maps": THEN}
    present["relay_domains"] = "!x.example, lmdb:/d, y.example"
    back = {change.parameter: change.after for change in undoing([first, second, third], present)}
    assert back == {"relay_domains": "y.example", "transport_maps": THEN}


def test_routes_are_set_before_parameters_that_accept_mail() -> None:
    names = ["relay_domains", "lmtp_host_lookup", "virtual_alias_maps", "transport_maps"]
    steps = in_order([Change(name, None, "x") for name in names])
    assert [[change.parameter for change in step] for step in steps] == [
        ["lmtp_host_lookup", "transport_maps"],
        ["relay_domains", "virtual_alias_maps"],
    ]
    assert in_order([]) == []
    assert len(in_order([Change("relay_domains", None, "x")])) == 1


def test_record_stores_any_bytes() -> None:
    text = bytes(range(256)).decode("latin-1")
    steps = (Step(text, f"{text}x", (ADDED, SCALAR), confirmed=True), Step("", "a", ()))
    assert from_json(to_json(steps)) == steps


@pytest.mark.parametrize("content", [b"", b"[]", b'{"steps": [{}]}', b'{"steps": [{"before": 1}]}'])
def test_malformed_record_is_an_error(content: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json(content)
