"""Select entries of a mapping with many entries. Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

V = TypeVar("V")

FEW = 10
"""Entries are sought one by one if they are fewer than the FEWth part of all."""


def of_names(entries: Mapping[str, V], names: AbstractSet[str]) -> Mapping[str, V]:
    """Return the entries of `names`, each of which has one."""
    if len(names) == len(entries):
        return entries
    if len(names) * FEW < len(entries):
        return {name: entries[name] for name in sorted(names)}
    return {name: value for name, value in entries.items() if name in names}


def without(entries: Mapping[str, V], names: AbstractSet[str]) -> Mapping[str, V]:
    """Return the entries without those of `names`."""
    return of_names(entries, entries.keys() - names) if names else entries


def keys_by_value(entries: Mapping[str, V]) -> dict[V, list[str]]:
    """Return the keys of each value, in order."""
    values = set(entries.values())
    if len(values) == 1:
        return {values.pop(): [*entries]}
    found: dict[V, list[str]] = {}
    for key, value in entries.items():
        found.setdefault(value, []).append(key)
    return found
