"""Every configuration of the corpus: does doctor say what mail does, and does setup harm others?

Too long for every run: `make corpus`. The table of all results is printed at its end.
"""

from collections.abc import Iterator

import pytest

from tests.conftest import Measured
from tests.corpus.check import ALL, check_shape, name_of, need_postfix
from tests.corpus.host import CorpusHost, corpus_host
from tests.corpus.shape import Shape

pytestmark = [pytest.mark.corpus, pytest.mark.slow]


@pytest.fixture(scope="module")
def host() -> Iterator[CorpusHost]:
    """A host that takes on one shape after another."""
    need_postfix()
    with corpus_host() as started:
        yield started


@pytest.mark.parametrize(("shape", "list_class"), ALL, ids=[name_of(*each) for each in ALL])
def test_verdict_is_what_mail_does_and_others_keep_their_mail(
    host: CorpusHost, shape: Shape, list_class: str, measured: Measured
) -> None:
    check_shape(host, shape, list_class, measured)
