"""The corpus: names are unique, and what is known to be wrong names shapes that exist."""

from tests.corpus.check import ALL, name_of
from tests.corpus.examination import PHASES
from tests.corpus.known import KNOWN
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
