"""A message for the operator that is not an error. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """A message for the operator that is reported once."""

    message: str
    hint: str = ""
