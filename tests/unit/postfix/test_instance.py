"""Features that depend on the version of Postfix."""

from dataclasses import replace

import pytest

from tests.parts.parameters import postfix


@pytest.mark.parametrize(
    ("version", "several"),
    [
        ("3.4.29", False),
        ("3.5.0", True),
        ("3.7.11", True),
        ("3.10.0-RC1", True),
        ("3.11-20251112", True),
        ("4.0.0", True),
        ("2.11.3", False),
        ("", False),
    ],
)
def test_several_next_hops_depend_on_the_version(version: str, several: bool) -> None:
    """Versions are compared as numbers; in older ones such a route stops all LMTP delivery."""
    assert replace(postfix(), version=version).several_next_hops == several
