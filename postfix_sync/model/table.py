"""The entries of one map, held by list. Pure.

Nine addresses follow from a list's name, so a table holds a list as one entry: 100,000 lists are
100,000 entries, and not 900,000. It is used as the mapping of all addresses that it stands for. An
address that is not part of a whole list, as after an edit by hand, is an entry of its own.

Two lists may share an address: `ants` has ants-owner@, which may be a list, too. A list is held as
one entry if the table has all nine addresses with the values that follow from the list's value; so
lists that share an address agree on its value, and equal mappings are equal tables.
"""

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Self, TypeVar

from postfix_sync.model.list_addresses import (
    ADDRESSES_PER_LIST,
    addresses_of,
    domain_of,
    is_of_list,
    list_with,
    possible_lists,
    shared_names,
)
from postfix_sync.model.selection import of_names, without

V = TypeVar("V")
W = TypeVar("W")


class Table(Mapping[str, V]):
    """The entries of one map: folded key -> value. It does not change.

    All nine addresses of a list have the list's value.
    """

    __slots__ = ("_domains", "_itself", "_shared", "lists", "others")

    def __init__(
        self,
        lists: Mapping[str, V],
        others: Mapping[str, V],
        shared: AbstractSet[str] | None = None,
    ) -> None:
        """Hold `lists` by name, and `others` by address, of which no list has one.

        `of` and the methods make tables of which that is true. `shared` are the names of that
        property, if they are known.
        """
        self.lists = lists
        self.others = others
        self._shared = shared
        self._domains: AbstractSet[str] | None = None
        self._itself: Table[str] | None = None  # see Aliases.of_itself

    @property
    def shared(self) -> AbstractSet[str]:
        """The names of whole lists that are an address of another whole list, too."""
        if self._shared is None:
            self._shared = shared_names(self.lists)
        return self._shared

    @classmethod
    def of(cls, entries: Mapping[str, V]) -> Self:
        """Make a table of entries by address or domain."""
        if isinstance(entries, cls):
            return entries
        names = {list_with(address) for address in entries if "-bounces@" in address} - {""}
        lists = {name: entries[name] for name in names if cls._has_list(entries, name)}
        table = cls(lists, {})
        if len(table) == len(entries):
            return table
        return cls(lists, {key: v for key, v in entries.items() if not is_of_list(lists, key)})

    @classmethod
    def _has_list(cls, entries: Mapping[str, V], name: str) -> bool:
        """Return whether the entries of a list follow from the value of its name."""
        value = entries.get(name)
        return value is not None and all(
            entries.get(address) == each for address, each in cls._entries(name, value)
        )

    @classmethod
    def of_lists(cls, lists: Mapping[str, V], others: Mapping[str, V]) -> Self:
        """Make a table of values by list, and of values of single addresses.

        An address that two lists share has the value of the list that has it as its name.
        """
        shared = {name: list_with(name) for name in shared_names(lists)}
        broken = {other for name, other in shared.items() if lists[other] != lists[name]}
        if not broken:
            return cls.joined(lists, others) if others else cls(lists, {}, shared.keys())
        loose = {
            key: value
            for name in broken
            for key, value in cls._entries(name, lists[name])
            if key == name or key not in lists
        }
        whole = {name: value for name, value in lists.items() if name not in broken}
        return cls.joined(whole, {**others, **loose})

    @classmethod
    def joined(cls, lists: Mapping[str, V], entries: Mapping[str, V]) -> Self:
        """Make a table of whole lists and of more entries, which may be parts of lists.

        The lists agree with each other and with the entries on the values of shared addresses.
        """
        table = cls(lists, entries)
        whole = {
            name: table[name]
            for name in possible_lists(entries) - lists.keys()
            if cls._has_list(table, name)
        }
        joined = {**lists, **whole} if whole else lists
        # An address may also be one of a list that was whole before.
        return cls(joined, {key: v for key, v in entries.items() if not is_of_list(joined, key)})

    @staticmethod
    def _entries(name: str, value: V) -> Iterator[tuple[str, V]]:
        """Yield the nine entries of a list with this value."""
        return ((address, value) for address in addresses_of(name))

    @staticmethod
    def _value_at(_address: str, value: V) -> V:
        """Return the value of one of the other eight addresses of a list with this value."""
        return value

    def __getitem__(self, address: str) -> V:
        for entries in (self.others, self.lists):
            if address in entries:
                return entries[address]
        name = list_with(address)
        if name in self.lists:
            return self._value_at(address, self.lists[name])
        raise KeyError(address)

    def __contains__(self, address: object) -> bool:
        return address in self.others or is_of_list(self.lists, str(address))

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._all())

    def _all(self) -> Iterator[tuple[str, V]]:
        """Yield all entries; an address that two lists share, with the list of that name."""
        whole = (
            entry
            for name, value in self.lists.items()
            for entry in self._entries(name, value)
            if not self.shared or entry[0] == name or entry[0] not in self.lists
        )
        return chain(whole, self.others.items())

    def items(self) -> ItemsView[str, V]:
        """Return all entries."""
        return _Items(self)

    def __len__(self) -> int:
        return ADDRESSES_PER_LIST * len(self.lists) - len(self.shared) + len(self.others)

    def __bool__(self) -> bool:
        return bool(self.lists or self.others)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Table):
            lists = self.lists is other.lists or self.lists == other.lists
            return bool(lists and self.others == other.others)
        if isinstance(other, Mapping):
            return len(self) == len(other) and all(other.get(key) == v for key, v in self._all())
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mapping, which may be equal to a dict

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lists!r}, {self.others!r})"

    def __or__(self, other: Self) -> Self:
        """Return the entries of both tables; where both have an address, those of `other`."""
        if not (self and other):
            return other or self
        broken = {
            name
            for name in self._overlapping(other, self.lists.keys() - other.lists.keys())
            if any(other.get(key, each) != each for key, each in self.entries_of(name))
        }
        lists = {**without(self.lists, broken), **other.lists}
        loose = {
            **{key: value for key, value in self.others.items() if key not in other},
            **{
                key: value
                for name in broken
                for key, value in self.entries_of(name)
                if key not in other
            },
            **other.others,
        }
        return self.joined(lists, loose)

    def entries_of(self, name: str) -> Iterator[tuple[str, V]]:
        """Yield the nine entries of a list that is one entry here."""
        return self._entries(name, self.lists[name])

    def has_addresses_of(self, other: "Table[W]") -> bool:
        """Return whether both tables have the same addresses, if that is known without a search."""
        return other is self or other is self._itself or other._itself is self

    def _overlapping(self, other: "Table[W]", alone: AbstractSet[str]) -> AbstractSet[str]:
        """Return the lists of `alone`, which `other` does not have, of which it has a part.

        Their names are sought in the table that makes less work.
        """
        if len(alone) < len(other.lists) + len(other.others):
            return {name for name in alone if any(key in other for key in addresses_of(name))}
        addresses = chain(other.others, *map(addresses_of, other.lists))
        return alone & {name for key in addresses for name in (key, list_with(key))}

    def names(self) -> AbstractSet[str]:
        """Return the names of all lists, also of those whose addresses have different values."""
        if not self.others:
            return self.lists.keys()
        return self.lists.keys() | {
            name
            for name in possible_lists(self.others)
            if all(address in self for address in addresses_of(name))
        }

    def parts(self) -> AbstractSet[str]:
        """Return the addresses that are not one of the nine of a list."""
        names = self.names() if self.others else frozenset[str]()
        return {key for key in self.others if not is_of_list(names, key)}

    def units(self) -> AbstractSet[str]:
        """Return the names of all lists, and the addresses that are not part of one."""
        return self.names() | self.parts()

    def distinct_values(self) -> AbstractSet[V]:
        """Return the values of the entries, in the form that a list's entry has."""
        return {*self.lists.values(), *self.others.values()}

    def domains(self) -> AbstractSet[str]:
        """Return the domains of all addresses."""
        if self._domains is None:
            keys = chain(self.lists, self.others)
            self._domains = {key.rpartition("@")[2] for key in keys}  # inline: it is often done
        return self._domains

    def within(self, is_wanted: Callable[[str], bool]) -> Self:
        """Return the entries in the domains for which `is_wanted` is true."""
        wanted = {domain for domain in self.domains() if is_wanted(domain)}
        return self._of_parts(
            lambda entries: {k: v for k, v in entries.items() if domain_of(k) in wanted}
        )

    def with_values_in(self, values: AbstractSet[V]) -> Self:
        """Return the entries that have one of these values."""
        return self._of_parts(lambda entries: {k: v for k, v in entries.items() if v in values})

    def _of_parts(self, selected: Callable[[Mapping[str, V]], Mapping[str, V]]) -> Self:
        """Return a part of the table of which each list is part as a whole, or not at all."""
        return type(self)(selected(self.lists), selected(self.others))

    def of_units(self, units: Iterable[str]) -> Self:
        """Return the entries of some lists, and of some single addresses; see `units`."""
        names = self.names()
        whole: dict[str, V] = {}
        loose: dict[str, V] = {}
        for unit in units:
            if unit in self.lists:
                whole[unit] = self.lists[unit]
            elif unit in names:
                loose.update((key, self[key]) for key in addresses_of(unit))
            else:
                loose[unit] = self[unit]
        return self.joined(whole, loose)

    def without(self, addresses: Iterable[str]) -> Self:
        """Return the table without these addresses."""
        gone = {address for address in addresses if address in self}
        if not gone:
            return self
        broken = {
            name for address in gone for name in (address, list_with(address)) if name in self.lists
        }
        lists = without(self.lists, broken)
        loose = {
            **{key: value for key, value in self.others.items() if key not in gone},
            **{
                key: value
                for name in broken
                for key, value in self.entries_of(name)
                if key not in gone
            },
        }
        return self.joined(lists, loose)

    def beyond(self, other: "Table[W]") -> Self:
        """Return the entries whose addresses `other` does not have."""
        return self.divided(other)[0]

    def divided(self, other: "Table[W]") -> tuple[Self, AbstractSet[str]]:
        """Return the entries beyond `other`, and the lists of which it has only a part."""
        if self.has_addresses_of(other):
            return type(self)({}, {}), frozenset()
        if not (self and other):
            return self, frozenset()
        alone = self.lists.keys() - other.lists.keys()
        broken = self._overlapping(other, alone)
        lists = of_names(self.lists, alone - broken)
        loose = {key: value for key, value in self.others.items() if key not in other}
        for name in broken:
            loose.update((key, value) for key, value in self.entries_of(name) if key not in other)
        return self.joined(lists, loose), broken

    def common(self, other: "Table[W]") -> Self:
        """Return the entries whose addresses `other` has, too."""
        if self.has_addresses_of(other) or not self:
            return self
        if not other:
            return type(self)({}, {})
        alone = self.lists.keys() - other.lists.keys()
        lists = of_names(self.lists, self.lists.keys() - alone) if alone else self.lists
        loose = {key: value for key, value in self.others.items() if key in other}
        for name in self._overlapping(other, alone):
            loose.update((key, value) for key, value in self.entries_of(name) if key in other)
        return self.joined(lists, loose)

    def with_value(self, value: str) -> "Table[str]":
        """Return a table of the same addresses that all have one value."""
        return Table.joined(dict.fromkeys(self.lists, value), dict.fromkeys(self.others, value))

    def mapped(self, new: Callable[[V], V]) -> Self:
        """Return the table with new values, each made from a list's or a single entry's value."""
        return self.joined(
            {name: new(value) for name, value in self.lists.items()},
            {key: new(value) for key, value in self.others.items()},
        )


class _Items(ItemsView[str, V]):
    """The entries of a table, made of its lists without a look-up for each address."""

    _mapping: Table[V]

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return self._mapping._all()
