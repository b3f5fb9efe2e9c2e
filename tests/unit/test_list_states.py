"""Every pair of states is tested by the transition matrix, or left out for a reason."""

from tests.scenarios.list_states import ANOTHER, KINDS, LEFT_OUT, STATES, changes, generated


def test_every_generated_pair_is_tested_or_left_out() -> None:
    of_kind = {another: state for state, another in ANOTHER.items()}
    tested = [(one.first, of_kind.get(one.second, one.second)) for one in changes()]
    assert len({*tested}) == len(tested)
    assert {*tested}.isdisjoint(LEFT_OUT)
    assert {*tested, *LEFT_OUT} == {*generated()}
    assert len([*generated()]) == len(STATES) ** 2


def test_every_pair_left_out_has_a_reason() -> None:
    assert all(reason.strip() for reason in LEFT_OUT.values())


def test_names_of_changes_are_unique() -> None:
    names = [one.name for one in changes()]
    assert len({*names}) == len(names)


def test_kinds_are_in_the_matrix_and_have_every_state() -> None:
    assert {*KINDS} <= {*changes()}
    assert {state for one in KINDS for state in (one.first, one.second)} >= {*STATES}
