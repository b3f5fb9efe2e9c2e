"""What setup changes in main.cf, and how it is taken out, whatever was changed there since."""

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
        # Nobody has touched it.
        (ADDED_TO_NOTHING, OURS, None),
        (ADDED, f"{THEIRS}, {OURS}", THEIRS),
        (TO_A_DEFAULT, f"{PASSWD}, {OURS}", None),
        (TO_AN_EMPTY_ONE, OURS, ""),
        (REPLACED, f"{OURS}, {THEIRS}", f"hash:/mailman, {THEIRS}"),
        (SCALAR, "native", None),
        (DELIMITER, "-+", "-"),
        # Something was added to it, or taken away.
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
def test_what_was_added_goes_and_the_rest_stays(
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
def test_where_nothing_of_it_is_left_nothing_is_taken_out(
    change: Change, present: str | None
) -> None:
    assert change.reversed(present) is None
    assert not change.is_overwritten(present)


@pytest.mark.parametrize(
    ("change", "present"), [(SCALAR, "dns, native"), (SCALAR, "dns"), (DELIMITER, "+")]
)
def test_a_value_that_was_replaced_again_is_left_and_told(change: Change, present: str) -> None:
    step = Step("", "", (change,))
    assert undoing([step], {change.parameter: present}) == []
    assert overwritten([step], {change.parameter: present}) == [change]


def test_several_setups_are_taken_out_from_the_last_to_the_first() -> None:
    first = Step("", "", (Change("relay_domains", None, "lmdb:/d"),))
    second = Step("", "", (Change("relay_domains", "lmdb:/d", "!x.example, lmdb:/d"),))
    third = Step("", "", (Change("transport_maps", None, OURS),))
    present = {"relay_domains": "!x.example, lmdb:/d", "transport_maps": f"{OURS} {THEN}"}
    back = {one.parameter: one.after for one in undoing([first, second, third], present)}
    assert back == {"relay_domains": None, "transport_maps": THEN}
    present["relay_domains"] = "!x.example, lmdb:/d, y.example"
    back = {one.parameter: one.after for one in undoing([first, second, third], present)}
    assert back == {"relay_domains": "y.example", "transport_maps": THEN}


def test_routes_come_before_what_accepts_mail_for_them() -> None:
    names = ["relay_domains", "lmtp_host_lookup", "virtual_alias_maps", "transport_maps"]
    steps = in_order([Change(name, None, "x") for name in names])
    assert [[one.parameter for one in step] for step in steps] == [
        ["lmtp_host_lookup", "transport_maps"],
        ["relay_domains", "virtual_alias_maps"],
    ]
    assert in_order([]) == []
    assert len(in_order([Change("relay_domains", None, "x")])) == 1


def test_the_record_holds_any_bytes() -> None:
    text = bytes(range(256)).decode("latin-1")
    steps = (Step(text, f"{text}x", (ADDED, SCALAR), confirmed=True), Step("", "a", ()))
    assert from_json(to_json(steps)) == steps


@pytest.mark.parametrize("content", [b"", b"[]", b'{"steps": [{}]}', b'{"steps": [{"before": 1}]}'])
def test_what_is_no_record(content: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json(content)
