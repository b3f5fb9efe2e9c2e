"""The corpus: names are unique, and what is known to be wrong names shapes that exist."""

import pytest

from tests.corpus.check import ALL, compare, name_of
from tests.corpus.examination import PHASES
from tests.corpus.known import KNOWN
from tests.corpus.mail import Fate, Trace
from tests.corpus.shape import CLASSES


def test_shapes_have_unique_names_and_known_classes() -> None:
    names = [name_of(*each) for each in ALL]
    assert len(names) == len(set(names))
    assert {list_class for _, list_class in ALL} == {*CLASSES}
    assert len({shape.name for shape, _ in ALL}) >= 40


def test_what_is_known_to_be_wrong_names_shapes_and_phases_that_exist() -> None:
    known = {(shape, list_class) for shape, list_class, _ in KNOWN}
    assert known <= {(shape.name, list_class) for shape, list_class in ALL}
    assert {phase for _, _, phase in KNOWN} <= {*PHASES}


def test_wrong_phase_is_reported_unless_it_is_known() -> None:
    assert compare({"after": "refused"}, {}) == "after: refused"
    assert compare({"after": "refused"}, {"after": "D3"}) == ""
    assert "after: refused" in compare({"after": "refused"}, {"others": "D1"})


def test_known_phase_that_is_right_is_reported() -> None:
    assert "remove it from tests/corpus/known.py: D3" in compare({}, {"after": "D3"})


DENIED = Fate(454, "4.7.1 <a@b.example>: Relay access denied")
UNKNOWN = Fate(550, "5.1.1 <a@b.example>: User unknown")
GREYLISTED = Fate(450, "4.7.1 try again")
SENT = Fate(250, "2.0.0 Ok", ("sent relay a@b.example",))
ELSEWHERE = Fate(250, "2.0.0 Ok", ("sent local a@b.example",))
BOUNCED = Fate(250, "2.0.0 Ok", ("bounced smtp a@b.example",))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (SENT, SENT, True),
        (SENT, ELSEWHERE, False),
        (SENT, UNKNOWN, False),
        (UNKNOWN, SENT, False),
        (UNKNOWN, BOUNCED, False),
        (BOUNCED, UNKNOWN, True),
        (DENIED, UNKNOWN, True),
        (GREYLISTED, UNKNOWN, False),
    ],
)
def test_sender_sees_a_difference_unless_a_bounce_becomes_a_refusal(
    before: Fate, after: Fate, same: bool
) -> None:
    assert before.same_for_sender(after) == same


HEAD = "Nov 28 01:47:14 mx postfix/"
LOG = (
    f"{HEAD}qmgr[16]: AAA1: from=<ann@outside.example>, size=1, nrcpt=2 (queue active)\n"
    f"{HEAD}local[17]: AAA1: to=<bob@example.net>, relay=local, delay=0.01, delays=0/0/0/0,"
    " dsn=2.0.0, status=sent (delivered to file: /dev/null)\n"
)
FILTERED = (
    f"{HEAD}smtp[18]: AAA1: to=<ants@example.net>, relay=127.0.0.1[127.0.0.1]:10025, delay=0.01,"
    " delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as BBB1)\n"
)
BOUNCE = (
    f"{HEAD}qmgr[16]: BBB1: from=<ann@outside.example>, size=1, nrcpt=1 (queue active)\n"
    f"{HEAD}smtp[19]: BBB1: to=<ants@example.net>, relay=none, delay=0.01, delays=0/0/0/0,"
    " dsn=5.4.4, status=bounced (Host not found)\n"
)


def test_message_is_followed_through_a_filter_until_each_recipient_has_an_outcome() -> None:
    def ends(log: str) -> list[str]:
        return [end.status if end else "" for end in Trace(log).ends("AAA1")]

    assert ends(LOG) == ["", "sent"]
    assert ends(LOG + FILTERED) == ["sent", ""]
    assert ends(LOG + FILTERED + BOUNCE) == ["sent", "bounced"]
