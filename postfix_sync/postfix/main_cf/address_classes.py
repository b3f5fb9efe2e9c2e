"""Find the address class that Postfix gives to each list domain (ADDRESS_CLASS_README)."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.errors import SyncError
from postfix_sync.model.list_addresses import domain_of
from postfix_sync.model.map_names import ALIASES, RECIPIENTS
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.classes import CLASSES, Classes
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.match_list import (
    Pattern,
    Style,
    below,
    decision,
    items,
    keys,
    patterns,
    unproxied,
)


async def classify(tables: Tables) -> Classes:
    """Find the classes of the mail domains of all lists, and of the domains in postfix_vmap."""
    domains = frozenset(tables.own[RECIPIENTS].domains())
    mail_hosts = frozenset(tables.own[ALIASES].domains())
    postfix = tables.postfix
    listed = {
        parameter: list(patterns(postfix.parameters[parameter], tables.read))
        for parameter in CLASSES
    }
    # A map is in virtual_alias_domains only by mistake, and setup removes it from there.
    listed["virtual_alias_domains"] = [
        pattern for pattern in listed["virtual_alias_domains"] if not tables.name(pattern.text)
    ]
    every = domains | mail_hosts
    decided = {name: await _decide(tables, name, found, every) for name, found in listed.items()}
    others = [pattern for pattern in listed["relay_domains"] if not tables.name(pattern.text)]
    anyway = await _decide(tables, "relay_domains", others, every)
    named = {parameter: _those(found, True) for parameter, found in decided.items()}
    self_aliased = await _self_aliased(tables, domains & named["virtual_alias_domains"])

    def unknown(domain: str) -> SyncError | None:
        """Return why a domain's class is unknown; the first parameter that names it decides."""
        for parameter, found in {**decided, "relay_domains": anyway}.items():
            said = found[domain]
            if isinstance(said, SyncError):
                return said
            if said and parameter == "virtual_alias_domains" and domain not in self_aliased:
                return tables.error(postfix.parameters["virtual_alias_maps"])
            if said:
                return None
        return None

    return Classes(
        domains=domains,
        mail_hosts=mail_hosts,
        named=named,
        relayed_anyway=_those(anyway, True),
        kept_out=_those(decided["relay_domains"], False),
        self_aliased=self_aliased,
        unknown={domain: error for domain in every if (error := unknown(domain))},
    )


def _those(decided: Mapping[str, bool | SyncError | None], said: bool) -> AbstractSet[str]:
    return {domain for domain, found in decided.items() if found is said}


async def _decide(
    tables: Tables, parameter: str, listed: list[Pattern], domains: AbstractSet[str]
) -> Mapping[str, bool | SyncError | None]:
    """Decide for each domain whether a parameter names it; an error if that is unknown.

    See `match_list.decision`.
    """
    style = _style(tables.postfix, parameter)
    held = {
        pattern.text: await tables.query(
            pattern.text, {key for domain in domains for key in keys(pattern.text, domain, style)}
        )
        for pattern in listed
        if pattern.is_table
    }

    def holds(table: str, key: str) -> bool:
        if error := tables.unreadable.get(unproxied(table)):
            raise error
        return key in held[table]

    def decide(domain: str) -> bool | SyncError | None:
        try:
            return decision(domain, listed, style, holds)
        except SyncError as error:
            return error

    return {domain: decide(domain) for domain in domains}


async def _self_aliased(tables: Tables, domains: AbstractSet[str]) -> AbstractSet[str]:
    """Return the domains whose lists virtual_alias_maps maps to themselves.

    One list of each domain is queried, as a sample.
    """
    if not domains:
        return frozenset()
    maps = tables.postfix.parameters["virtual_alias_maps"]
    found = set()
    recipients = tables.own[RECIPIENTS]
    samples = {domain_of(address): address for address in (*recipients.others, *recipients.lists)}
    for domain in domains & samples.keys():
        address = samples[domain]
        alias = await tables.find(maps, [address])
        if alias and address in items(alias.value.lower()):
            found.add(domain)
    return found


def _style(postfix: Postfix, parameter: str) -> Style:
    if parameter != "relay_domains":
        return Style.EXACT
    return below(parameter, postfix.parameters["parent_domain_matches_subdomains"])
