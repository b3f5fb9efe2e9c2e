"""Ten configurations of the corpus; `make corpus` runs all."""

from collections.abc import Iterator

import pytest

from tests.conftest import Measured
from tests.corpus.check import check_shape, chosen, name_of, need_postfix
from tests.corpus.host import CorpusHost, corpus_host
from tests.corpus.shape import Shape

pytestmark = [pytest.mark.slow]

TEN = chosen(
    (
        "debian",
        "gateway",
        "regexp-star",
        "sql-mailboxes",
        "catch-all",
        "recipient-canonical",
        "content-filter",
        "recipient-access",
        "unverified-recipient",
        "local-recipients",
    )
)


@pytest.fixture(scope="module")
def host() -> Iterator[CorpusHost]:
    """A host that takes on one shape after another."""
    need_postfix()
    with corpus_host() as started:
        yield started


@pytest.mark.parametrize(("shape", "list_class"), TEN, ids=[name_of(*each) for each in TEN])
def test_verdict_is_what_mail_does_and_others_keep_their_mail(
    host: CorpusHost, shape: Shape, list_class: str, measured: Measured
) -> None:
    check_shape(host, shape, list_class, measured)
