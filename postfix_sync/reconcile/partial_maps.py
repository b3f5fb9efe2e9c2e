"""The maps with some addresses left as they are installed. Pure."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from postfix_sync.model import (
    ALIASES,
    DOMAINS,
    MAP_NAMES,
    RECIPIENTS,
    ROUTES,
    MailmanTables,
    Maps,
    domain_of,
)


def held_back(maps: Maps, installed: Maps, keys: AbstractSet[str]) -> Maps:
    """Leave some addresses as they are installed, or uninstalled, and all others as in `maps`.

    Aliases of these addresses and domains that nothing else needs are held back with them.
    """
    kept = {
        name: {
            **{key: value for key, value in maps[name].items() if key not in keys},
            **{key: value for key, value in installed[name].items() if key in keys},
        }
        for name in (ROUTES, RECIPIENTS)
    }
    kept[ALIASES] = {
        **{key: value for key, value in maps[ALIASES].items() if value not in keys},
        **{
            key: value
            for key, value in installed[ALIASES].items()
            if value in keys & kept[ROUTES].keys() and key not in kept[ROUTES]
        },
    }
    used = {domain_of(key) for name in (RECIPIENTS, ALIASES) for key in kept[name]}
    gone = {domain_of(key) for name in (RECIPIENTS, ALIASES) for key in maps[name]} - used
    kept[DOMAINS] = {
        **{key: value for key, value in installed[DOMAINS].items() if key in used},
        **{key: value for key, value in maps[DOMAINS].items() if key not in gone},
    }
    return Maps({name: kept[name] for name in MAP_NAMES})


def with_unclaimed(maps: Maps, installed: Maps, known: Iterable[MailmanTables]) -> Maps:
    """Add to `maps` what is installed and in none of `known`: no source has dropped it."""
    claimed = [*known]
    kept = {
        name: {
            key: value
            for key, value in installed[name].items()
            if not any(tables.names(key) for tables in claimed)
        }
        for name in MAP_NAMES
    }
    # Routes of removed lists are kept without this, and no source claims them.
    needed = kept[RECIPIENTS].keys() | set(kept[ALIASES].values())
    kept[ROUTES] = {key: value for key, value in kept[ROUTES].items() if key in needed}
    used = {domain_of(address) for name in (RECIPIENTS, ALIASES) for address in kept[name]}
    kept[DOMAINS] = {
        key: value
        for key, value in installed[DOMAINS].items()
        if key in used or key in kept[DOMAINS]
    }
    kept[ALIASES] = {k: v for k, v in kept[ALIASES].items() if k not in maps[ROUTES]}
    return Maps({name: {**kept[name], **maps[name]} for name in MAP_NAMES})
