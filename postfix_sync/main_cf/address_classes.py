"""Which address class Postfix gives to each domain that the maps are for (ADDRESS_CLASS_README)."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from postfix_sync.main_cf.lookup import Tables
from postfix_sync.main_cf.match_list import Pattern, Style, below, decision, items, keys, patterns
from postfix_sync.main_cf.wiring import CLASSES, Classes
from postfix_sync.model import ALIASES, DOMAINS, RECIPIENTS
from postfix_sync.postfix import Postfix, list_file


async def classify(tables: Tables) -> Classes:
    """The classes of the mail domains of all lists, and of those that postfix_vmap has."""
    domains = frozenset(tables.own[DOMAINS])
    mail_hosts = frozenset(key.rpartition("@")[2] for key in tables.own[ALIASES])
    postfix = tables.postfix
    listed = {one: list(patterns(postfix.parameters[one], list_file)) for one in CLASSES}
    # There the maps can only be by mistake, and are taken out.
    listed["virtual_alias_domains"] = [
        one for one in listed["virtual_alias_domains"] if not tables.name(one.text)
    ]
    decided = {
        parameter: await _decide(tables, parameter, found, domains | mail_hosts)
        for parameter, found in listed.items()
    }
    others = [one for one in listed["relay_domains"] if not tables.name(one.text)]
    anyway = await _decide(tables, "relay_domains", others, domains)
    named = {
        parameter: {domain for domain, is_named in found.items() if is_named}
        for parameter, found in decided.items()
    }
    return Classes(
        domains=domains,
        mail_hosts=mail_hosts,
        named=named,
        relayed_anyway={domain for domain, is_named in anyway.items() if is_named},
        kept_out={one for one, is_named in decided["relay_domains"].items() if is_named is False},
        self_aliased=await _self_aliased(tables, domains & named["virtual_alias_domains"]),
    )


async def _decide(
    tables: Tables, parameter: str, listed: list[Pattern], domains: AbstractSet[str]
) -> Mapping[str, bool | None]:
    """What a parameter says of each domain; see `match_list.decision`."""
    style = _style(tables.postfix, parameter)
    held = {
        one.text: await tables.ask(
            one.text, {key for domain in domains for key in keys(one.text, domain, style)}
        )
        for one in listed
        if one.is_table
    }
    return {
        domain: decision(domain, listed, style, lambda table, key: key in held[table])
        for domain in domains
    }


async def _self_aliased(tables: Tables, domains: AbstractSet[str]) -> AbstractSet[str]:
    """The domains whose lists virtual_alias_maps leads to themselves, after one list of each."""
    maps = tables.postfix.parameters["virtual_alias_maps"]
    found = set()
    samples = {address.rpartition("@")[2]: address for address in tables.own[RECIPIENTS]}
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
