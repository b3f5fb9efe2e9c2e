"""The entries of a map in which each address leads to an address, held by list. Pure."""

from collections.abc import Iterator
from typing import TypeVar

from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.table import Table

V = TypeVar("V")


class Aliases(Table[str]):
    """A table in which each address of a list leads to the same address of another list."""

    @staticmethod
    def _entries(name: str, value: str) -> Iterator[tuple[str, str]]:
        return zip(addresses_of(name), addresses_of(value), strict=True)

    @staticmethod
    def _value_at(_address: str, value: str) -> str:
        subaddress = _address.rpartition("@")[0].rpartition("-")[2]
        local, _, domain = value.rpartition("@")
        return f"{local}-{subaddress}@{domain}"

    @classmethod
    def of_itself(cls, table: Table[V]) -> "Aliases":
        """Return the addresses of a table, each with itself as its value.

        It is made once of each table.
        """
        made = table._itself
        if not isinstance(made, Aliases):
            lists = dict(zip(table.lists, table.lists, strict=True))
            others = {address: address for address in table.others}
            made = cls.joined(lists, others) if others else cls(lists, {}, table._shared)
            made._domains, table._itself = table._domains, made
        return made

    def targets(self) -> "Aliases":
        """Return the addresses that aliases lead to, each with itself as its value."""
        return self.joined(
            {name: name for name in self.lists.values()},
            {address: address for address in self.others.values()},
        )
