"""Choose the type of the maps from what main.cf names. Pure."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

from postfix_sync.errors import ConfigError
from postfix_sync.model.map_names import INDEX_SUFFIX
from postfix_sync.model.notice import Notice
from postfix_sync.postfix.main_cf.classes import HARMLESS, ROLES
from postfix_sync.postfix.main_cf.parameter import path_of, type_of
from postfix_sync.postfix.match_list import items

if TYPE_CHECKING:
    from postfix_sync.postfix.index_type import IndexType
    from postfix_sync.postfix.instance import Postfix


def choose_map_type(postfix: "Postfix", map_directory: Path, configured: str) -> str:
    """Return the type to build the maps as.

    `configured` is the configuration's postfix.map_type. "auto" is the type as which main.cf names
    our maps, else lmdb if this Postfix has it, else its default_database_type.

    Raises ConfigError if this Postfix cannot build that type, or if its index would overwrite an
    index that main.cf names as another type: hash and btree share a suffix.
    """
    named = named_types(postfix, map_directory)
    usable = INDEX_SUFFIX.keys() & postfix.map_types
    if configured != "auto":
        choices = [configured]
    else:
        default = postfix.parameters["default_database_type"]
        choices = [*named, "lmdb", default]
    for choice in choices:
        if choice in usable:
            _check_suffix(postfix, map_directory, choice, named)
            return choice
    raise ConfigError(
        f"{postfix.config_directory}: this Postfix has no map type {' or '.join(choices)} that"
        f" could be built; it has: {' '.join(sorted(postfix.map_types))}",
        "install one (apt install postfix-lmdb), or set postfix.map_type",
    )


def named_types(postfix: "Postfix", map_directory: Path) -> list[str]:
    """Return the types as which main.cf names the maps, in the order of ROLES."""
    return [
        type_of(item)
        for parameter in (*ROLES, *HARMLESS)
        for item in items(postfix.parameters[parameter])
        if path_of(item) in {str(map_directory / name) for name in at_home(parameter)}
    ]


def _check_suffix(postfix: "Postfix", map_directory: Path, choice: str, named: list[str]) -> None:
    for other in named:
        if other != choice and INDEX_SUFFIX.get(other) == INDEX_SUFFIX[choice]:
            raise ConfigError(
                f"{postfix.config_directory}/main.cf: names maps in {map_directory} as {other}; as"
                f" {choice} their indexes would have the same names, which {other} can't read",
                f"name all of them as {choice} in main.cf, or set postfix.map_type: {other}",
            )


def type_notices(kind: "IndexType", doctor: str) -> Iterator[Notice]:
    """Report a map type that works but that Postfix warns of; `doctor` is doctor's command."""
    if kind.warnings:
        yield Notice(
            f"map type {kind.name}: the maps work, but Postfix warns whenever one is used:"
            f" {'; '.join(kind.warnings)}",
            f"doctor prints the command that changes them over to another type: {doctor}",
        )


def at_home(parameter: str) -> AbstractSet[str]:
    """Return the maps that a parameter may name: the map for it, and those that do no harm."""
    role = {ROLES[parameter]} if parameter in ROLES else set()
    return role | HARMLESS.get(parameter, set())
