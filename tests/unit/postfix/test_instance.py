"""What the version of a Postfix tells."""

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
def test_which_postfix_takes_several_next_hops(version: str, several: bool) -> None:
    """Compared as numbers; an older one would stop all LMTP delivery over them."""
    assert replace(postfix(), version=version).several_next_hops == several
