"""Define which numbers generations may have. Pure."""

from typing import Annotated, TypeAlias

LAST_NUMBER = 999_999_999
"""The largest number of a generation: 30 years of one change a second."""


def _is_number(number: int) -> bool:
    return 0 < number <= LAST_NUMBER


Number: TypeAlias = Annotated[int, _is_number]
"""The number of a generation in a stored file, for json_reader.py."""
