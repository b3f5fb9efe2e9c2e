"""What doctor advises beyond what the maps need."""

from dataclasses import replace

import pytest

from postfix_sync.model.finding import Verdict
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.advice import advice
from postfix_sync.postfix.main_cf.fixes import remedy
from postfix_sync.postfix.main_cf.parameter import Installation
from tests.parts.parameters import DOMAINS, LOCAL, MAPS, RECIPIENTS, WIRED, classes, postfix, values


def told(one: Postfix, *recipients: str) -> dict[str, str]:
    """What is advised where these are the lists' addresses."""
    listed = advice(one, Installation(MAPS, "lmdb"), classes(one, DOMAINS), frozenset(recipients))
    return {setting.parameter: setting.wanted for setting in listed}


def test_delimiters_that_cut_names() -> None:
    ants = ("ants@lists.example.net", "ants-bounces@lists.example.net")
    team = ("dev-team@lists.example.net", "dev-team-bounces@lists.example.net")
    owner = ("owner@lists.example.net", "owner-bounces@lists.example.net")
    both = postfix(**{**WIRED, "recipient_delimiter": "-+", "owner_request_special": "yes"})
    assert told(both, *ants) == {}
    assert told(both, *ants, *team) == {"recipient_delimiter": "+"}
    assert told(both, *ants, *owner) == {"owner_request_special": "no"}
    plus = postfix(**{**WIRED, "owner_request_special": "yes"})
    assert told(plus, *ants, *team, *owner) == {}


def test_codes_matter_where_there_is_a_list_of_that_class() -> None:
    relay = "unknown_relay_recipient_reject_code"
    codes = {relay: "450", "unknown_local_recipient_reject_code": "450"}
    assert told(postfix(**WIRED, **codes)) == {relay: "550"}
    assert told(postfix(**LOCAL, **codes)) == {"unknown_local_recipient_reject_code": "550"}


def test_other_relay_domains_that_are_refused() -> None:
    """Only told, where somebody has closed them; see `test_other_relay_domains_stay_accepted`."""
    domains = f"example.org, {WIRED['relay_domains']}"
    one = postfix(**{**WIRED, "relay_domains": domains})
    assert values(one) == {}
    others = r"regexp:{{!/@(lists\.example\.net)$$/ OK}}"
    assert told(one) == {"relay_recipient_maps": f"{RECIPIENTS}, {others}"}


@pytest.mark.parametrize("present", [RECIPIENTS, ""])
def test_other_relay_domains_before_a_table_can_stand_in_main_cf(present: str) -> None:
    """Then it is a file of the operator's; setup leaves an empty parameter as it is."""
    domains = f"example.org, {WIRED['relay_domains']}"
    parameters = {**WIRED, "relay_domains": domains, "relay_recipient_maps": present}
    one = replace(postfix(**parameters), version="3.6.4")
    assert values(one) == {}
    advised = advice(one, Installation(MAPS, "lmdb"), classes(one, DOMAINS), frozenset())
    told_of = {setting.parameter: setting for setting in advised}["relay_recipient_maps"]
    assert told_of.verdict is Verdict.WARNING
    assert told_of.present == present
    path = "/etc/postfix/outside_of_list_domains"
    assert remedy(one, told_of) == (
        rf"echo '!/@(lists\.example\.net)$/ OK' > {path}"
        f" && postconf -e 'relay_recipient_maps = {RECIPIENTS}, regexp:{path}' && postfix reload"
    )
