"""What is known to be wrong: (shape, class, phase) to the reason.

A phase that is not wrong any more fails its test, so that its entry is removed. Numbers such as D3
are those of the findings of 2026-11-27.
"""

from collections.abc import Mapping

KNOWN: Mapping[tuple[str, str, str], str] = {}
