"""The settings of main.cf that the maps require, and the values that setup gives them."""

from dataclasses import replace

import pytest

from postfix_sync.errors import ApplyError, NotPermitted
from postfix_sync.model.finding import Verdict
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.main_cf.advice import advice
from postfix_sync.postfix.main_cf.classes import CLASSES, Classes
from postfix_sync.postfix.main_cf.parameter import Installation
from postfix_sync.postfix.main_cf.requirements import cluster_notices, notices, settings
from postfix_sync.postfix.processes import Processes
from tests.parts.parameters import (
    DOMAINS,
    LOCAL,
    MAILBOX,
    MAPS,
    RECIPIENTS,
    TWO,
    VOLUME,
    WIRED,
    classes,
    postfix,
    values,
    wanted,
)


def found(
    main_cf: Postfix, domains: frozenset[str] = DOMAINS, hosts: bool = True
) -> dict[str, str]:
    ours = Installation(MAPS, "lmdb", hosts_used=hosts)
    listed = notices(main_cf, ours, classes(main_cf, domains))
    by_parameter = {notice.message.split()[1]: notice.hint for notice in listed}
    assert len(by_parameter) == len(listed)
    return by_parameter


def test_complete_main_cf_has_no_notices() -> None:
    assert found(postfix(**WIRED)) == {}


def test_main_cf_without_the_maps_has_a_notice_for_each_parameter() -> None:
    assert found(postfix()) == {
        "transport_maps": "postconf -e 'transport_maps = lmdb:/etc/postfix/mailman/postfix_lmtp'"
        " && postfix reload",
        "relay_domains": "postconf -e 'relay_domains = lmdb:/etc/postfix/mailman/postfix_domains'"
        " && postfix reload",
        "relay_recipient_maps": "postconf -e"
        " 'relay_recipient_maps = lmdb:/etc/postfix/mailman/postfix_recipients'"
        " && postfix reload",
        "virtual_alias_maps": "postconf -e"
        " 'virtual_alias_maps = lmdb:/etc/postfix/mailman/postfix_vmap' && postfix reload",
        "lmtp_host_lookup": "postconf -e 'lmtp_host_lookup = native' && postfix reload",
    }


def test_present_value_is_extended() -> None:
    main_cf = postfix(**{**WIRED, "transport_maps": "hash:/etc/postfix/transport"})
    assert (
        "'transport_maps = hash:/etc/postfix/transport, lmdb:/etc/"
        in found(main_cf)["transport_maps"]
    )


def test_reference_that_expands_to_nothing_is_not_kept() -> None:
    main_cf = postfix()
    main_cf = replace(
        main_cf, unexpanded={**main_cf.unexpanded, "virtual_alias_maps": "$virtual_maps"}
    )
    assert "'virtual_alias_maps = lmdb:/etc/" in found(main_cf)["virtual_alias_maps"]
    given = {**main_cf.parameters, "transport_maps": "hash:/x"}
    main_cf = replace(
        main_cf, parameters=given, unexpanded={**given, "transport_maps": "hash:$dir/x"}
    )
    assert "'transport_maps = hash:$dir/x, lmdb:/etc/" in found(main_cf)["transport_maps"]


def test_hint_names_another_instance() -> None:
    hint = found(postfix(directory="/etc/postfix-out"))["transport_maps"]
    assert hint.startswith("postconf -c /etc/postfix-out -e ")
    assert hint.endswith(" && postfix -c /etc/postfix-out reload")


def test_hint_for_a_stopped_postfix_has_no_reload() -> None:
    """`postfix reload` would fail."""
    stopped = Postfix(**vars(postfix(queue_directory="/nonexistent")))
    assert found(stopped)["transport_maps"].startswith("postconf -e ")
    assert not any("reload" in hint for hint in found(stopped).values())


class UnknownProcesses(Processes):
    """Processes that the user has no permission to see."""

    @property
    def master(self) -> int:
        raise NotPermitted("spool/pid/master.pid: Permission denied")


class Unknown(Postfix):
    """A Postfix as seen by a user other than root."""

    @property
    def processes(self) -> Processes:
        return UnknownProcesses(self.config_directory, self.queue_directory)


def test_hint_has_a_reload_if_it_is_unknown_whether_postfix_runs() -> None:
    main_cf = Unknown(**vars(postfix()))
    assert found(main_cf)["transport_maps"].endswith(" && postfix reload")


def test_map_with_another_type_is_replaced() -> None:
    main_cf = postfix(
        **{**WIRED, "transport_maps": "cdb:/x, hash:/etc/postfix/mailman/postfix_lmtp"}
    )
    assert (
        "'transport_maps = cdb:/x, lmdb:/etc/postfix/mailman/" in found(main_cf)["transport_maps"]
    )


def test_proxied_map_is_accepted() -> None:
    proxied = "proxy:lmdb:/etc/postfix/mailman/postfix_lmtp"
    assert found(postfix(**{**WIRED, "transport_maps": proxied})) == {}


def test_relay_domains_may_list_the_domains() -> None:
    assert found(postfix(**{**WIRED, "relay_domains": "example.org, lists.example.net"})) == {}


def test_local_list_domain_needs_local_recipient_maps() -> None:
    assert values(postfix(**LOCAL)) == {
        "local_recipient_maps": f"proxy:unix:passwd.byname $alias_maps, {RECIPIENTS}"
    }
    assert values(postfix(**{**LOCAL, "local_recipient_maps": ""})) == {}
    assert values(postfix(**{**LOCAL, "local_recipient_maps": f"hash:/x {RECIPIENTS}"})) == {}


def test_virtual_mailbox_list_domain_needs_virtual_mailbox_maps() -> None:
    assert values(postfix(**MAILBOX)) == {
        "virtual_mailbox_maps": f"lmdb:/etc/postfix/mailboxes, {RECIPIENTS}"
    }
    # Without maps every address is accepted, and must not be refused later.
    assert values(postfix(**{**MAILBOX, "virtual_mailbox_maps": ""})) == {}


def test_relay_domains_exclude_virtual_list_domains() -> None:
    """postfix_domains has all list domains, and Postfix warns of a virtual one in relay_domains."""
    main_cf = postfix(**{**MAILBOX, "relay_domains": "example.edu"})
    assert values(main_cf, TWO)["relay_domains"] == (
        "example.edu, !lists.example.net, lmdb:/etc/postfix/mailman/postfix_domains"
    )
    named = {**WIRED, **{k: v for k, v in MAILBOX.items() if k.startswith("virtual_mailbox")}}
    found = wanted(postfix(**named), TWO)["relay_domains"]
    assert found.wanted == "!lists.example.net, lmdb:/etc/postfix/mailman/postfix_domains"
    assert found.verdict is Verdict.WARNING
    fixed = {**named, "relay_domains": found.wanted}
    assert "relay_domains" not in wanted(postfix(**fixed), TWO)
    # Postfix does not warn of a local domain.
    local = {**WIRED, "mydestination": "lists.example.net"}
    assert list(wanted(postfix(**local), TWO)) == ["local_recipient_maps"]


def test_list_domain_below_an_excluded_one_is_named_first() -> None:
    domains = frozenset({"example.com", "lists.example.com"})
    main_cf = postfix(**{**MAILBOX, "virtual_mailbox_domains": "example.com"})
    assert values(main_cf, domains)["relay_domains"] == (
        "lists.example.com, !example.com, lmdb:/etc/postfix/mailman/postfix_domains"
    )


@pytest.mark.parametrize(
    ("present", "fixed"),
    [
        ("!lists.example.net, {}", "{}"),
        ("example.org, !lists.example.net,  {}", "example.org, {}"),
        ("!example.net, {}", "lists.example.net, !example.net, {}"),
    ],
)
def test_excluded_list_domain_is_included_again(present: str, fixed: str) -> None:
    domains = "lmdb:/etc/postfix/mailman/postfix_domains"
    recipients = f"hash:/etc/postfix/relay_recipients, {RECIPIENTS}"
    main_cf = {
        **WIRED,
        "relay_recipient_maps": recipients,
        "relay_domains": present.format(domains),
    }
    assert values(postfix(**main_cf)) == {"relay_domains": fixed.format(domains)}


def test_list_domain_in_virtual_alias_domains_is_excluded_there() -> None:
    main_cf = {**WIRED, "virtual_alias_domains": "$virtual_alias_maps, lists.example.net"}
    assert values(postfix(**main_cf)) == {
        "virtual_alias_domains": "!lists.example.net, $virtual_alias_maps, lists.example.net"
    }
    works = replace(classes(postfix(**main_cf), DOMAINS), self_aliased=DOMAINS)
    listed = settings(postfix(**main_cf), Installation(MAPS, "lmdb"), works)
    assert {setting.parameter: setting.wanted for setting in listed} == {
        "relay_domains": "!lists.example.net, lmdb:/etc/postfix/mailman/postfix_domains"
    }


def test_mail_host_of_aliases_is_relayed_or_a_virtual_alias_domain() -> None:
    main_cf = {**WIRED, "virtual_alias_domains": "$virtual_alias_maps"}
    hosts = frozenset({"example.com"})
    assert values(postfix(**main_cf), DOMAINS, hosts) == {}
    local = {
        **main_cf,
        "mydestination": "lists.example.net",
        "relay_domains": "",
        "local_recipient_maps": WIRED["relay_recipient_maps"] + " unix:passwd.byname",
    }
    assert values(postfix(**local), DOMAINS, hosts)["virtual_alias_domains"] == (
        "$virtual_alias_maps, example.com"
    )
    for parameter in CLASSES:
        named = f"{main_cf.get(parameter, '')} example.com".strip()
        elsewhere = values(postfix(**{**main_cf, parameter: named}), DOMAINS, hosts)
        assert "virtual_alias_domains" not in elsewhere


def test_aliases_decide_whether_a_missing_vmap_loses_mail() -> None:
    main_cf = postfix(**{**WIRED, "virtual_alias_maps": "hash:/etc/postfix/virtual"})
    assert wanted(main_cf)["virtual_alias_maps"].verdict is Verdict.WARNING
    with_aliases = wanted(main_cf, DOMAINS, frozenset({"lists.example.net"}))
    assert with_aliases["virtual_alias_maps"].verdict is Verdict.FAILURE


def test_domain_of_unknown_class_causes_no_class_settings() -> None:
    """Nothing follows for what depends on it; routes and aliases don't."""
    error = ApplyError("mysql:/x: query error")
    main_cf = postfix(local_recipient_maps="hash:/x", unknown_relay_recipient_reject_code="450")
    unknown = Classes(DOMAINS, unknown=dict.fromkeys(DOMAINS, error))
    ours = Installation(MAPS, "lmdb")
    assert unknown.relayed == frozenset()
    assert [setting.parameter for setting in settings(main_cf, ours, unknown)] == [
        "transport_maps",
        "virtual_alias_maps",
    ]
    assert advice(main_cf, ours, unknown, frozenset()) == []
    # postfix_domains has the domain, so it must not be added to relay_domains for another one.
    named = {"relay_domains": frozenset({"lists.example.org"})}
    unknown = Classes(TWO, named=named, unknown=dict.fromkeys(DOMAINS, error))
    assert {setting.parameter for setting in settings(main_cf, ours, unknown)} == {
        "transport_maps",
        "virtual_alias_maps",
    }


def test_subdomains_of_a_virtual_list_domain_stay_relayed() -> None:
    """A `!` item before them would match them first."""
    named = {k: v for k, v in MAILBOX.items() if k.startswith("virtual_mailbox")}
    relayed = f"sub.lists.example.net, {WIRED['relay_domains']}"
    main_cf = postfix(**{**WIRED, **named, "relay_domains": relayed})
    assert values(main_cf)["relay_domains"] == (
        f"sub.lists.example.net, !lists.example.net, {WIRED['relay_domains']}"
    )
    both = postfix(**{**WIRED, **named, "relay_domains": "lists.example.net"})
    assert "relay_domains" not in values(both)


@pytest.mark.parametrize(
    ("parameter", "present", "fixed"),
    [
        # The map for the parameter replaces another map of ours.
        ("transport_maps", "{vmap}", "{lmtp}"),
        ("transport_maps", "hash:/x, {recipients}", "hash:/x, {lmtp}"),
        ("transport_maps", "{domains} {lmtp}", "{lmtp}"),
        ("virtual_alias_maps", "{lmtp}, hash:/x", "{vmap}, hash:/x"),
        ("relay_domains", "example.org {lmtp}", "example.org {domains}"),
        ("relay_recipient_maps", "{lmtp}", "{recipients}"),
        ("relay_recipient_maps", "{domains} hash:/x", "{recipients} hash:/x"),
        ("alias_maps", "hash:/etc/aliases, {lmtp}", "hash:/etc/aliases"),
        ("alias_maps", "hash:/etc/aliases,{lmtp},hash:/y", "hash:/etc/aliases, hash:/y"),
        ("canonical_maps", "{vmap}", ""),
        ("virtual_alias_domains", "example.com {domains}", "example.com"),
        # Mailman's own files, as in common instructions.
        ("transport_maps", "regexp:{volume}/postfix_lmtp", "{lmtp}"),
        ("transport_maps", "hash:/x, hash:{volume}/postfix_lmtp", "hash:/x, {lmtp}"),
        ("transport_maps", "{lmtp}, regexp:{volume}/postfix_lmtp", "{lmtp}"),
        ("relay_domains", "regexp:{volume}/postfix_domains", "{domains}"),
        ("local_recipient_maps", "proxy:unix:p, regexp:{volume}/postfix_lmtp", "proxy:unix:p"),
        # Another map type.
        (
            "local_recipient_maps",
            "hash:/x, proxy:hash:{maps}/postfix_recipients",
            "hash:/x, {recipients}",
        ),
    ],
)
def test_maps_in_a_wrong_parameter_are_replaced(parameter: str, present: str, fixed: str) -> None:
    places = {
        "lmtp": WIRED["transport_maps"],
        "domains": WIRED["relay_domains"],
        "recipients": RECIPIENTS,
        "vmap": WIRED["virtual_alias_maps"],
        "volume": str(VOLUME),
        "maps": str(MAPS),
    }
    others = r", regexp:{{!/@(lists\.example\.net)$$/ OK}}"
    main_cf = {**WIRED, "local_recipient_maps": "hash:/x", parameter: present.format(**places)}
    expected = {parameter: fixed.format(**places)}
    assert values(postfix(**main_cf)) == expected, others


def test_maps_referenced_by_another_parameter_are_fixed_there() -> None:
    lmtp = WIRED["transport_maps"]
    expanded = {
        **LOCAL,
        "alias_maps": f"hash:/etc/aliases {lmtp}",
        "local_recipient_maps": f"proxy:unix:passwd.byname hash:/etc/aliases {lmtp} {RECIPIENTS}",
    }
    main_cf = postfix(**expanded)
    spelt = {"local_recipient_maps": f"proxy:unix:passwd.byname $alias_maps {RECIPIENTS}"}
    main_cf = replace(main_cf, unexpanded={**main_cf.unexpanded, **spelt})
    assert values(main_cf) == {"alias_maps": "hash:/etc/aliases"}


def test_escaped_dollar_is_kept_escaped() -> None:
    """postconf -x prints `$` for `$$`; the value that is written needs both."""
    main_cf = postfix(
        **{**WIRED, "transport_maps": f"regexp:{{{{/a$/ x:}}}} hash:{MAPS}/postfix_lmtp"}
    )
    spelt = "regexp:{{/a$$/ x:}} hash:$there/postfix_lmtp"
    main_cf = replace(main_cf, unexpanded={**main_cf.unexpanded, "transport_maps": spelt})
    lmtp = WIRED["transport_maps"]
    assert values(main_cf) == {"transport_maps": f"regexp:{{{{/a$$/ x:}}}} {lmtp}"}


@pytest.mark.parametrize(
    ("present", "value", "fixed"),
    [
        ("${{$compatibility_level} <level {2} ? {$mydestination} : {}}", "", ""),
        (
            "${{$compatibility_level} <level {3} ? {a.b} : {}}",
            "a.b",
            "${{$compatibility_level} <level {3} ? {a.b} : {}}, ",
        ),
        ("${{$compatibility_level} <level {2} ? {$mydestination} : {}}", "a.b", "$mydestination, "),
        ("$mydestination", "", "$mydestination, "),
        ("$mine", "", "$mine, "),
    ],
)
def test_value_of_the_default_is_kept(present: str, value: str, fixed: str) -> None:
    main_cf = postfix(**{**WIRED, "relay_domains": value, "relay_recipient_maps": "hash:/x"})
    main_cf = replace(main_cf, unexpanded={**main_cf.unexpanded, "relay_domains": present})
    assert values(main_cf)["relay_domains"] == f"{fixed}lmdb:/etc/postfix/mailman/postfix_domains"


@pytest.mark.parametrize(("present", "fixed"), [("", "+"), ("-", "-+"), ("+", ""), ("-+", "")])
def test_plus_is_added_to_recipient_delimiter(present: str, fixed: str) -> None:
    main_cf = postfix(**{**WIRED, "recipient_delimiter": present})
    assert values(main_cf).get("recipient_delimiter", "") == fixed


def test_maps_are_required_before_the_first_list() -> None:
    assert "relay_domains" in found(postfix(), domains=frozenset())
    local = {
        **WIRED,
        "relay_domains": "",
        "relay_recipient_maps": "",
        "local_recipient_maps": "$alias_maps lmdb:/etc/postfix/mailman/postfix_recipients",
    }
    assert found(postfix(**local), domains=frozenset()) == {}


def test_lmtp_host_lookup_is_required_only_if_hosts_are_used() -> None:
    assert found(postfix(**{**WIRED, "lmtp_host_lookup": "dns"}), hosts=False) == {}
    assert found(postfix(**{**WIRED, "lmtp_host_lookup": "dns, native"})) == {}
    assert list(found(postfix(**{**WIRED, "lmtp_host_lookup": "dns"}))) == ["lmtp_host_lookup"]


@pytest.mark.parametrize(("timeout", "count"), [("0s", 1), ("0", 1), ("5s", 0), ("30", 0)])
def test_cluster_without_connect_timeout_has_a_notice(timeout: str, count: int) -> None:
    listed = list(cluster_notices(postfix(lmtp_connect_timeout=timeout)))
    assert len(listed) == count
    assert all("lmtp_connect_timeout = 5s" in notice.hint for notice in listed)


@pytest.mark.parametrize("only", [RECIPIENTS, f"regexp:{VOLUME}/postfix_lmtp"])
def test_removed_local_users_are_restored(only: str) -> None:
    main_cf = postfix(**{**LOCAL, "local_recipient_maps": only})
    assert values(main_cf) == {
        "local_recipient_maps": f"proxy:unix:passwd.byname, $alias_maps, {RECIPIENTS}"
    }


@pytest.mark.parametrize("named", ["hash:/etc/postfix/mailman/", f"regexp:{VOLUME}/"])
@pytest.mark.parametrize("parameter", ["mydestination", "virtual_mailbox_domains"])
def test_table_that_gives_domains_their_class_is_replaced_by_ours(
    parameter: str, named: str
) -> None:
    """The table is Mailman's own file, or our map with another type.

    Without it the lists' mail would be refused; with a map that is not built, all mail is deferred.
    """
    main_cf = postfix(
        transport_maps=WIRED["transport_maps"],
        virtual_alias_maps=WIRED["virtual_alias_maps"],
        local_recipient_maps=f"unix:passwd.byname, {RECIPIENTS}",
        virtual_mailbox_maps=RECIPIENTS,
        **{parameter: f"example.org, {named}postfix_domains"},
    )
    ours = Installation(MAPS, "lmdb", volumes=(VOLUME,))
    found = settings(main_cf, ours, Classes(DOMAINS, named={parameter: DOMAINS}))
    assert {setting.parameter: (setting.wanted, setting.verdict) for setting in found} == {
        parameter: ("example.org, lmdb:/etc/postfix/mailman/postfix_domains", Verdict.FAILURE)
    }


@pytest.mark.parametrize(
    ("present", "fixed"), [("canonical", "canonical, virtual"), ("", "virtual")]
)
def test_aliases_of_lists_need_extensions_to_be_kept(present: str, fixed: str) -> None:
    name = "propagate_unmatched_extensions"
    main_cf = {**WIRED, "relay_domains": f"example.com {WIRED['relay_domains']}", name: present}
    hosts = frozenset({"example.com"})
    assert values(postfix(**main_cf), DOMAINS, hosts)[name] == fixed
    assert name not in values(postfix(**main_cf))
    main_cf["virtual_alias_maps"] = f"{RECIPIENTS}, {WIRED['virtual_alias_maps']}"
    assert wanted(postfix(**main_cf))[name].verdict is Verdict.FAILURE
