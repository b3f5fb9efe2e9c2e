"""Doctor's advice on settings that the maps do not require."""

from dataclasses import replace

import pytest

from postfix_sync.model.finding import Verdict
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.advice import advice
from postfix_sync.postfix.main_cf.fixes import remedy
from postfix_sync.postfix.main_cf.parameter import Installation
from tests.parts.parameters import DOMAINS, LOCAL, MAPS, RECIPIENTS, WIRED, classes, postfix, values


def advised_for(main_cf: Postfix, *recipients: str) -> dict[str, str]:
    """Return the advised settings if the lists have these addresses."""
    listed = advice(
        main_cf, Installation(MAPS, "lmdb"), classes(main_cf, DOMAINS), frozenset(recipients)
    )
    return {setting.parameter: setting.wanted for setting in listed}


def test_delimiter_that_splits_list_addresses_is_advised_against() -> None:
    ants = ("ants@lists.example.net", "ants-bounces@lists.example.net")
    team = ("dev-team@lists.example.net", "dev-team-bounces@lists.example.net")
    owner = ("owner@lists.example.net", "owner-bounces@lists.example.net")
    both = postfix(**{**WIRED, "recipient_delimiter": "-+", "owner_request_special": "yes"})
    assert advised_for(both, *ants) == {}
    assert advised_for(both, *ants, *team) == {"recipient_delimiter": "+"}
    assert advised_for(both, *ants, *owner) == {"owner_request_special": "no"}
    plus = postfix(**{**WIRED, "owner_request_special": "yes"})
    assert advised_for(plus, *ants, *team, *owner) == {}


def test_reject_code_is_advised_for_classes_of_the_lists_only() -> None:
    relay = "unknown_relay_recipient_reject_code"
    codes = {relay: "450", "unknown_local_recipient_reject_code": "450"}
    assert advised_for(postfix(**WIRED, **codes)) == {relay: "550"}
    assert advised_for(postfix(**LOCAL, **codes)) == {"unknown_local_recipient_reject_code": "550"}


def test_refused_addresses_of_other_relay_domains_are_only_advised() -> None:
    """An operator has closed them; see also `test_other_relay_domains_stay_accepted`."""
    domains = f"example.org, {WIRED['relay_domains']}"
    main_cf = postfix(**{**WIRED, "relay_domains": domains})
    assert values(main_cf) == {}
    others = r"regexp:{{!/@(lists\.example\.net)$$/ OK}}"
    assert advised_for(main_cf) == {"relay_recipient_maps": f"{RECIPIENTS}, {others}"}


@pytest.mark.parametrize("present", [RECIPIENTS, ""])
def test_pattern_table_is_a_file_before_postfix_3_7(present: str) -> None:
    """The operator has to create the file, so setup does not change an empty parameter."""
    domains = f"example.org, {WIRED['relay_domains']}"
    parameters = {**WIRED, "relay_domains": domains, "relay_recipient_maps": present}
    main_cf = replace(postfix(**parameters), version="3.6.4")
    assert values(main_cf) == {}
    advised = advice(main_cf, Installation(MAPS, "lmdb"), classes(main_cf, DOMAINS), frozenset())
    setting = {setting.parameter: setting for setting in advised}["relay_recipient_maps"]
    assert setting.verdict is Verdict.WARNING
    assert setting.present == present
    path = "/etc/postfix/outside_of_list_domains"
    assert remedy(main_cf, setting) == (
        rf"echo '!/@(lists\.example\.net)$/ OK' > {path}"
        f" && postconf -e 'relay_recipient_maps = {RECIPIENTS}, regexp:{path}' && postfix reload"
    )
