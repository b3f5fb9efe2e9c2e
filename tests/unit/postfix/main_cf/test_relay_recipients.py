"""In which relay domains every address stays accepted, and how the others are closed."""

from dataclasses import replace

import pytest

from postfix_sync.model.finding import Verdict
from postfix_sync.postfix.main_cf.advice import advice
from postfix_sync.postfix.main_cf.parameter import Installation
from postfix_sync.postfix.main_cf.relay_recipients import left_open
from tests.parts.parameters import (
    DOMAINS,
    MAPS,
    RECIPIENTS,
    TWO,
    WIRED,
    classes,
    postfix,
    values,
    wanted,
)


def test_mail_host_of_aliases_is_closed_with_the_list_domains() -> None:
    """Also by the setup that makes relay_domains name postfix_domains."""
    hosts = frozenset({"example.com"})
    one = {"virtual_alias_domains": "", "relay_domains": "example.org", "relay_recipient_maps": ""}
    closed = r"regexp:{{!/@(example\.com|lists\.example\.net)$$/ OK}}"
    wanted = f"{RECIPIENTS}, {closed}"
    assert values(postfix(**{**WIRED, **one}), DOMAINS, hosts)["relay_recipient_maps"] == wanted
    # Where the list domain is relayed anyway, postfix_domains brings in no mail host.
    one["relay_domains"] = "lists.example.net"
    found = values(postfix(**{**WIRED, **one}), DOMAINS, hosts)
    assert found == {"virtual_alias_domains": "example.com"}


def test_other_relay_domains_stay_accepted() -> None:
    """An empty relay_recipient_maps accepts every address; with one map in it, only list ones."""
    others = r"regexp:{{!/@(lists\.example\.net)$$/ OK}}"
    one = {**WIRED, "relay_recipient_maps": "", "relay_domains": "example.org, hash:/x"}
    assert values(postfix(**one)) == {
        "relay_domains": "example.org, hash:/x, lmdb:/etc/postfix/mailman/postfix_domains",
        "relay_recipient_maps": f"{RECIPIENTS}, {others}",
    }
    assert wanted(postfix(**one))["relay_recipient_maps"].verdict is Verdict.WARNING
    # Where recipients are listed, the others have their entries already.
    listed = values(postfix(**{**one, "relay_recipient_maps": "hash:/r"}))["relay_recipient_maps"]
    assert listed == f"hash:/r, {RECIPIENTS}"
    assert (
        wanted(postfix(**{**one, "relay_recipient_maps": "hash:/r"}))[
            "relay_recipient_maps"
        ].verdict
        is Verdict.FAILURE
    )
    # Without a list domain, or before 3.7, it can't be said what the others are.
    assert "relay_recipient_maps" not in wanted(postfix(**one), frozenset())
    assert "relay_recipient_maps" not in wanted(replace(postfix(**one), version="3.6.9"))


def test_new_list_domain_is_added_to_the_pattern_of_list_domains() -> None:
    present = (
        r"lmdb:/etc/postfix/mailman/postfix_recipients, regexp:{{!/@(lists\.example\.net)$$/ OK}}"
    )
    one = postfix(
        **{
            **WIRED,
            "relay_domains": "example.edu, lmdb:/etc/postfix/mailman/postfix_domains",
            "relay_recipient_maps": present,
        }
    )
    assert values(one) == {}
    both = r"(lists\.example\.net|lists\.example\.org)"
    assert values(one, TWO) == {
        "relay_recipient_maps": present.replace(r"(lists\.example\.net)", both)
    }


SHARED = "example.net"
"""A list domain that others use, too."""


@pytest.mark.parametrize("named", [SHARED, "Example.NET, example.org", "example.org, example.net"])
@pytest.mark.parametrize("version", ["3.6.9", "3.7"])
def test_list_domain_that_main_cf_names_accepts_every_address(named: str, version: str) -> None:
    one = replace(postfix(**{**WIRED, "relay_recipient_maps": "", "relay_domains": named}))
    one = replace(one, version=version)
    domains = frozenset({SHARED})
    assert values(one, domains) == {}
    assert advice(one, Installation(MAPS, "lmdb"), classes(one, domains), frozenset()) == []
    assert list(left_open(one, classes(one, domains))) == [SHARED]
    # Where recipients are listed, its own are among them, and the lists are added.
    listed = replace(one, parameters={**one.parameters, "relay_recipient_maps": "hash:/r"})
    listed = replace(listed, unexpanded=listed.parameters)
    assert values(listed, domains) == {"relay_recipient_maps": f"hash:/r, {RECIPIENTS}"}
    assert left_open(listed, classes(listed, domains)) == {}


def test_list_domain_below_one_that_main_cf_names_accepts_every_address() -> None:
    one = postfix(**{**WIRED, "relay_recipient_maps": "", "relay_domains": SHARED})
    assert values(one) == {}
    assert list(left_open(one, classes(one, DOMAINS))) == ["lists.example.net"]


def test_only_domains_that_just_the_maps_name_refuse_unknown_addresses() -> None:
    one = postfix(**{**WIRED, "relay_recipient_maps": "", "relay_domains": "example.org"})
    domains = frozenset({"example.org", "lists.example.edu"})
    others = r"regexp:{{!/@(lists\.example\.edu)$$/ OK}}"
    assert values(one, domains) == {
        "relay_domains": "example.org, lmdb:/etc/postfix/mailman/postfix_domains",
        "relay_recipient_maps": f"{RECIPIENTS}, {others}",
    }
    old = replace(one, version="3.6.9")
    assert list(values(old, domains)) == ["relay_domains"]
    (advised,) = advice(old, Installation(MAPS, "lmdb"), classes(old, domains), frozenset())
    assert r"!/@(lists\.example\.edu)$/ OK" in advised.first
    done = postfix(**{**one.parameters, **values(one, domains)})
    assert values(done, domains) == {}
    assert list(left_open(done, classes(done, domains))) == ["example.org"]


def test_domain_closed_by_setup_is_not_opened_when_main_cf_names_it() -> None:
    """Somebody has written it into relay_domains since."""
    others = r"regexp:{{!/@(lists\.example\.net|lists\.example\.org)$$/ OK}}"
    one = postfix(
        **{
            **WIRED,
            "relay_domains": f"lists.example.net, example.edu, {WIRED['relay_domains']}",
            "relay_recipient_maps": f"{RECIPIENTS}, {others}",
        }
    )
    assert values(one, TWO) == {}
    assert left_open(one, classes(one, TWO)) == {}


def test_virtual_alias_domain_refuses_unknown_addresses_when_relayed() -> None:
    """Unknown addresses of it were refused before, though relay_domains names it, too."""
    named = {"virtual_alias_domains": SHARED, "relay_domains": SHARED, "relay_recipient_maps": ""}
    one = postfix(**{**WIRED, **named})
    found = values(one, frozenset({SHARED}))
    assert found["virtual_alias_domains"] == f"!{SHARED}, {SHARED}"
    assert found["relay_recipient_maps"] == RECIPIENTS
