"""The maps with some addresses left as they are installed. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.map_names import ALIASES, DOMAINS, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import Maps
from postfix_sync.model.source import MailmanTables
from postfix_sync.model.table import Table


def held_back(maps: Maps, installed: Maps, held: Table[str]) -> Maps:
    """Leave some addresses as they are installed, or uninstalled, and all others as in `maps`.

    `held` has the addresses. Their aliases, and domains that nothing else needs, are held back with
    them.
    """
    kept = {
        name: maps[name].beyond(held) | installed[name].common(held)
        for name in (ROUTES, RECIPIENTS)
    }
    entering = _leading_to(maps[ALIASES], held, wanted=False)
    staying = _leading_to(installed[ALIASES], held.common(kept[ROUTES]), wanted=True)
    kept[ALIASES] = entering | staying.beyond(kept[ROUTES])
    used = _domains(kept)
    gone = _domains(maps.tables) - used
    present = installed[DOMAINS].within(used.__contains__)
    kept[DOMAINS] = present | maps[DOMAINS].without(gone)
    return Maps({name: kept[name] for name in MAP_NAMES})


def with_unclaimed(maps: Maps, installed: Maps, known: Iterable[MailmanTables]) -> Maps:
    """Add to `maps` what is installed and in none of `known`: no source has dropped it."""
    kept = dict(installed.tables)
    for tables in known:
        for name in (ROUTES, RECIPIENTS, ALIASES):
            kept[name] = kept[name].beyond(tables.routes).beyond(tables.aliases)
        kept[DOMAINS] = kept[DOMAINS].without(tables.domains)
    # Routes of removed lists are kept without this, and no source claims them.
    targets = Aliases.of(kept[ALIASES]).targets()
    needed = kept[RECIPIENTS].with_value("") | targets.with_value("")
    kept[ROUTES] = kept[ROUTES].common(needed)
    used = _domains(kept) | kept[DOMAINS].keys()
    kept[DOMAINS] = installed[DOMAINS].within(used.__contains__)
    kept[ALIASES] = kept[ALIASES].beyond(maps[ROUTES])
    return Maps({name: kept[name] | maps[name] for name in MAP_NAMES})


def _leading_to(aliases: Table[str], targets: Table[str], *, wanted: bool) -> Table[str]:
    """Return the aliases that lead to one of `targets`, or to none of them."""
    led = Aliases.of(aliases).targets().common(targets)
    if not led:
        return aliases.of_units(()) if wanted else aliases
    chosen = {key for key, target in aliases.items() if (target in led) == wanted}
    return aliases.without(aliases.keys() - chosen)


def _domains(tables: Mapping[str, Table[str]]) -> AbstractSet[str]:
    """Return the domains of the addresses that the maps accept."""
    return tables[RECIPIENTS].domains() | tables[ALIASES].domains()
