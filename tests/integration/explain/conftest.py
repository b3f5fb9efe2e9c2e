"""A host whose Postfix explain and doctor are asked about."""

from collections.abc import Iterator

import pytest

from tests.parts.explaining import explaining_host, restored
from tests.parts.mail_host import Host


@pytest.fixture(scope="module")
def started() -> Iterator[Host]:
    """A host that is started once for all tests of this file."""
    with explaining_host() as host:
        yield host


@pytest.fixture
def host(started: Host) -> Iterator[Host]:
    """The host, set up, with two lists; a test's changes are reverted."""
    with restored(started):
        yield started
