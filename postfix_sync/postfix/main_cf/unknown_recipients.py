"""Find tables of recipients that have addresses which do not exist, by querying them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from postfix_sync.model.list_addresses import domain_of
from postfix_sync.postfix.main_cf.lookup import alias_forms
from postfix_sync.postfix.match_list import items

if TYPE_CHECKING:
    from postfix_sync.postfix.main_cf.classes import Classes
    from postfix_sync.postfix.main_cf.lookup import Tables

NO_SUCH_USER = "postfix-sync-no-such-user"


async def accepting_tables(tables: "Tables", classes: "Classes") -> Mapping[str, str]:
    """Return the list domains in which relay_recipient_maps has any address, each with the table.

    These are domains that have only lists, as only the operator knows which other addresses exist
    in any other domain. A table that does not answer counts as one without such addresses.
    """
    value = tables.postfix.parameters["relay_recipient_maps"]
    if not any(":" in item and not tables.name(item) for item in items(value)):
        return {}
    delimiters = tables.postfix.parameters["recipient_delimiter"]
    unknown = [f"{NO_SUCH_USER}@{domain}" for domain in sorted(classes.only_lists)]
    forms = {address: alias_forms(address, delimiters, local=False) for address in unknown}
    found = await tables.find_all(value, forms)
    return {domain_of(address): entry.table for address, entry in found}
