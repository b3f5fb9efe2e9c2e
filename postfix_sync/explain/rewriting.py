"""Follow what cleanup(8) makes of a recipient: canonical mapping, masquerading, virtual aliases.

cleanup(8) can't be asked without a message, so its steps are computed here; the tables are queried.
Sources: canonical(5), virtual(5), ADDRESS_REWRITING_README; cleanup_addr.c, cleanup_map11.c,
cleanup_map1n.c, cleanup_masquerade.c and mail_addr_find.c in Postfix's source.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from postfix_sync.errors import SyncError
from postfix_sync.explain.steps import COMPUTED, Step, Verdict
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.postfix.main_cf.lookup import Found, Tables, alias_forms
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.queue import without_extension

PARAMETERS = (
    "canonical_classes",
    "canonical_maps",
    "masquerade_classes",
    "masquerade_domains",
    "masquerade_exceptions",
    "myorigin",
    "propagate_unmatched_extensions",
    "recipient_canonical_classes",
    "recipient_canonical_maps",
    "recipient_delimiter",
    "virtual_alias_maps",
)
"""The parameters of cleanup(8) that are used here."""

TABLES = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
"""Those of them that name tables, in the order in which cleanup(8) queries them."""

LEVELS = 5
"""How often the results of tables are queried together: each time is a process for each table."""

MAPPINGS_AT_MOST = 10
"""How often canonical mapping is repeated (cleanup_map11.c)."""

ALIASES_AT_MOST = 100
"""How many recipients are followed; virtual_alias_expansion_limit is 1000."""


@dataclass(frozen=True)
class Cleanup:
    """A cleanup(8) service: the parameters that it uses, and the tables."""

    name: str
    parameters: Mapping[str, str]
    tables: Tables
    place: Callable[[str], str]
    """Names a parameter with its line in main.cf."""
    local_domains: frozenset[str]
    """The domains, folded, in which a table is queried for a local part alone."""

    async def query_at_once(self, addresses: Iterable[str]) -> None:
        """Query each table once for all addresses, and again for what these lead to.

        Each query is a process, so that the queries for single addresses would take long.
        """
        pending, seen = set(addresses), set[str]()
        for _ in range(LEVELS):
            if not pending:
                return
            await self._query_tables(pending)
            seen |= pending
            pending = {result for one in pending for result in await self._led_to(one)} - seen

    async def _query_tables(self, addresses: Iterable[str]) -> None:
        delimiters = self.parameters["recipient_delimiter"]
        forms = {
            form
            for one in addresses
            for form in alias_forms(one, delimiters, local=self._local(one))
        }
        for table in dict.fromkeys(
            item for name in TABLES for item in items(self.parameters[name])
        ):
            if ":" in table:
                await self.tables.query(table, forms)

    async def _led_to(self, address: str) -> list[str]:
        """Return the results that the tables have for an address, and its masqueraded form."""
        results = [self._masqueraded(address)]
        for name in TABLES:
            if found := await self._find(self.parameters[name], address):
                kind = "virtual" if name == "virtual_alias_maps" else "canonical"
                results += self._results(address, found, kind)
        return results

    async def rewritten(self, address: str) -> tuple[str, list[Step]]:
        """Apply canonical mapping and masquerading to an address."""
        steps = []
        for parameter, classes in (
            ("recipient_canonical_maps", "recipient_canonical_classes"),
            ("canonical_maps", "canonical_classes"),
        ):
            if "envelope_recipient" in items(self.parameters[classes]):
                mapped, step = await self._mapped(address, parameter)
                steps += [step] if step else []
                address = mapped
        hidden = self._masqueraded(address)
        if hidden != address:
            by = f"{self.place('masquerade_domains')} = {self.parameters['masquerade_domains']}"
            steps.append(Step("masquerade", address, hidden, by, COMPUTED))
        return hidden, steps

    async def _mapped(self, address: str, parameter: str) -> tuple[str, Step | None]:
        """Map an address by one parameter until it does not change any more."""
        value = self.parameters[parameter]
        mapped, by = address, ""
        for _ in range(MAPPINGS_AT_MOST if value else 0):
            found = await self._find(value, mapped)
            new = next(iter(self._results(mapped, found, "canonical")), mapped) if found else mapped
            if found is None or new == mapped:
                break
            entry = f"{found.table} has {found.key} {found.value}"
            mapped, by = new, f"{self.place(parameter)}: {entry}"
        if error := self.tables.error(value):
            return mapped, self._unanswered("canonical", address, error, parameter)
        if mapped == address:
            return address, None
        return mapped, Step("canonical", address, mapped, by)

    def _masqueraded(self, address: str) -> str:
        """Strip subdomains, as masquerade_domains says (cleanup_masquerade.c)."""
        if "envelope_recipient" not in items(self.parameters["masquerade_classes"]):
            return address
        local, _, domain = address.rpartition("@")
        if local in items(self.parameters["masquerade_exceptions"]):
            return address
        for item in items(self.parameters["masquerade_domains"].lower()):
            name = item.lstrip("!")
            if domain == name or domain.endswith(f".{name}"):
                return address if item.startswith("!") else f"{local}@{name}"
        return address

    async def aliased(self, address: str) -> tuple[list[str], list[Step]]:
        """Expand virtual aliases of an address; return the final recipients."""
        value = self.parameters["virtual_alias_maps"]
        final: list[str] = []
        steps: list[Step] = []
        pending, seen = [address], {address}
        while pending and value:
            one = pending.pop(0)
            found = await self._find(value, one)
            results = self._results(one, found, "virtual") if found else [one]
            new = [result for result in results if result not in seen]
            if one in results or not found or len(seen) > ALIASES_AT_MOST:
                final.append(one)
            if found and results != [one]:
                entry = f"{found.table} has {found.key} {found.value}"
                by = f"{self.place('virtual_alias_maps')}: {entry}"
                steps.append(Step("virtual_alias", one, ", ".join(results), by))
            seen.update(new)
            pending += new
        if error := self.tables.error(value):
            steps.append(self._unanswered("virtual_alias", address, error, "virtual_alias_maps"))
        return (final if value else [address]), steps

    def _unanswered(self, step: str, address: str, error: SyncError, parameter: str) -> Step:
        """Return the step of a table that can't be queried: Postfix defers the mail."""
        by = self.place(parameter)
        return Step(step, address, error.message, by, ok=False, outcome=Verdict.DEFERRED)

    async def _find(self, value: str, address: str) -> Found | None:
        """Find an address in tables: whole, without its extension, its local part, its domain."""
        delimiters = self.parameters["recipient_delimiter"]
        forms = alias_forms(address, delimiters, local=self._local(address))
        return await self.tables.find(value, forms)

    def _local(self, address: str) -> bool:
        return domain_of(address) in self.local_domains

    def _results(self, address: str, found: Found, kind: str) -> Sequence[str]:
        """Return the addresses of an entry, completed as mail_addr_map.c does."""
        bare = without_extension(address, self.parameters["recipient_delimiter"])
        local = address.rpartition("@")[0]
        extension = local[len(bare.rpartition("@")[0]) :]
        lost = found.key in {bare, bare.rpartition("@")[0]} and bare != address
        propagated = kind in items(self.parameters["propagate_unmatched_extensions"])
        results = []
        for item in items(found.value):
            result = self.tables.postfix.fold(item)
            if result.startswith("@"):
                result = f"{local}{result}"
            elif "@" not in result:
                result = f"{result}@{self.parameters['myorigin'].lower()}"
            if lost and propagated:
                name, _, domain = result.rpartition("@")
                result = f"{name}{extension}@{domain}"
            results.append(result)
        return results
