"""What main.cf lacks for the maps to work, and the values that setup gives it."""

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


def found(one: Postfix, domains: frozenset[str] = DOMAINS, hosts: bool = True) -> dict[str, str]:
    ours = Installation(MAPS, "lmdb", hosts_used=hosts)
    listed = notices(one, ours, classes(one, domains))
    by_parameter = {notice.message.split()[1]: notice.hint for notice in listed}
    assert len(by_parameter) == len(listed)
    return by_parameter


def test_all_is_there() -> None:
    assert found(postfix(**WIRED)) == {}


def test_nothing_is_there() -> None:
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


def test_what_is_there_is_added_to() -> None:
    one = postfix(**{**WIRED, "transport_maps": "hash:/etc/postfix/transport"})
    assert (
        "'transport_maps = hash:/etc/postfix/transport, lmdb:/etc/" in found(one)["transport_maps"]
    )


def test_what_comes_to_nothing_is_not_kept() -> None:
    one = postfix()
    one = replace(one, unexpanded={**one.unexpanded, "virtual_alias_maps": "$virtual_maps"})
    assert "'virtual_alias_maps = lmdb:/etc/" in found(one)["virtual_alias_maps"]
    given = {**one.parameters, "transport_maps": "hash:/x"}
    one = replace(one, parameters=given, unexpanded={**given, "transport_maps": "hash:$dir/x"})
    assert "'transport_maps = hash:$dir/x, lmdb:/etc/" in found(one)["transport_maps"]


def test_another_instance_is_named() -> None:
    hint = found(postfix(directory="/etc/postfix-out"))["transport_maps"]
    assert hint.startswith("postconf -c /etc/postfix-out -e ")
    assert hint.endswith(" && postfix -c /etc/postfix-out reload")


def test_one_that_is_stopped_is_not_reloaded() -> None:
    """The command would fail."""
    stopped = Postfix(**vars(postfix(queue_directory="/nonexistent")))
    assert found(stopped)["transport_maps"].startswith("postconf -e ")
    assert not any("reload" in hint for hint in found(stopped).values())


class UnknownProcesses(Processes):
    """Those that the user is not permitted to see."""

    @property
    def master(self) -> int:
        raise NotPermitted("spool/pid/master.pid: Permission denied")


class Unknown(Postfix):
    """Who asks is not root."""

    @property
    def processes(self) -> Processes:
        return UnknownProcesses(self.config_directory, self.queue_directory)


def test_who_can_not_know_whether_it_runs_is_told_to_reload() -> None:
    one = Unknown(**vars(postfix()))
    assert found(one)["transport_maps"].endswith(" && postfix reload")


def test_another_type_is_replaced() -> None:
    one = postfix(**{**WIRED, "transport_maps": "cdb:/x, hash:/etc/postfix/mailman/postfix_lmtp"})
    assert "'transport_maps = cdb:/x, lmdb:/etc/postfix/mailman/" in found(one)["transport_maps"]


def test_proxied_maps_count() -> None:
    proxied = "proxy:lmdb:/etc/postfix/mailman/postfix_lmtp"
    assert found(postfix(**{**WIRED, "transport_maps": proxied})) == {}


def test_relay_domains_may_name_the_domains_themselves() -> None:
    assert found(postfix(**{**WIRED, "relay_domains": "example.org, lists.example.net"})) == {}


def test_a_domain_in_mydestination() -> None:
    assert values(postfix(**LOCAL)) == {
        "local_recipient_maps": f"proxy:unix:passwd.byname $alias_maps, {RECIPIENTS}"
    }
    assert values(postfix(**{**LOCAL, "local_recipient_maps": ""})) == {}
    assert values(postfix(**{**LOCAL, "local_recipient_maps": f"hash:/x {RECIPIENTS}"})) == {}


def test_a_virtual_mailbox_domain() -> None:
    assert values(postfix(**MAILBOX)) == {
        "virtual_mailbox_maps": f"lmdb:/etc/postfix/mailboxes, {RECIPIENTS}"
    }
    # That takes every address, and must not begin to refuse any.
    assert values(postfix(**{**MAILBOX, "virtual_mailbox_maps": ""})) == {}


def test_domains_of_several_classes() -> None:
    """postfix_domains has all of them, and Postfix warns of one that is a virtual one, too."""
    one = postfix(**{**MAILBOX, "relay_domains": "example.edu"})
    assert values(one, TWO)["relay_domains"] == (
        "example.edu, !lists.example.net, lmdb:/etc/postfix/mailman/postfix_domains"
    )
    named = {**WIRED, **{k: v for k, v in MAILBOX.items() if k.startswith("virtual_mailbox")}}
    found = wanted(postfix(**named), TWO)["relay_domains"]
    assert found.wanted == "!lists.example.net, lmdb:/etc/postfix/mailman/postfix_domains"
    assert found.verdict is Verdict.WARNING
    mended = {**named, "relay_domains": found.wanted}
    assert "relay_domains" not in wanted(postfix(**mended), TWO)
    # Of a local domain it says nothing.
    local = {**WIRED, "mydestination": "lists.example.net"}
    assert list(wanted(postfix(**local), TWO)) == ["local_recipient_maps"]


def test_a_list_domain_below_one_that_is_kept_out() -> None:
    domains = frozenset({"example.com", "lists.example.com"})
    one = postfix(**{**MAILBOX, "virtual_mailbox_domains": "example.com"})
    assert values(one, domains)["relay_domains"] == (
        "lists.example.com, !example.com, lmdb:/etc/postfix/mailman/postfix_domains"
    )


@pytest.mark.parametrize(
    ("present", "mended"),
    [
        ("!lists.example.net, {}", "{}"),
        ("example.org, !lists.example.net,  {}", "example.org, {}"),
        ("!example.net, {}", "lists.example.net, !example.net, {}"),
    ],
)
def test_a_domain_that_is_kept_out_is_let_in(present: str, mended: str) -> None:
    domains = "lmdb:/etc/postfix/mailman/postfix_domains"
    recipients = f"hash:/etc/postfix/relay_recipients, {RECIPIENTS}"
    one = {**WIRED, "relay_recipient_maps": recipients, "relay_domains": present.format(domains)}
    assert values(postfix(**one)) == {"relay_domains": mended.format(domains)}


def test_a_virtual_alias_domain() -> None:
    one = {**WIRED, "virtual_alias_domains": "$virtual_alias_maps, lists.example.net"}
    assert values(postfix(**one)) == {
        "virtual_alias_domains": "!lists.example.net, $virtual_alias_maps, lists.example.net"
    }
    works = replace(classes(postfix(**one), DOMAINS), self_aliased=DOMAINS)
    listed = settings(postfix(**one), Installation(MAPS, "lmdb"), works)
    assert {setting.parameter: setting.wanted for setting in listed} == {
        "relay_domains": "!lists.example.net, lmdb:/etc/postfix/mailman/postfix_domains"
    }


def test_mail_host_of_aliases_is_relayed_by_the_map_or_named_where_that_is_not() -> None:
    one = {**WIRED, "virtual_alias_domains": "$virtual_alias_maps"}
    hosts = frozenset({"example.com"})
    assert values(postfix(**one), DOMAINS, hosts) == {}
    local = {
        **one,
        "mydestination": "lists.example.net",
        "relay_domains": "",
        "local_recipient_maps": WIRED["relay_recipient_maps"] + " unix:passwd.byname",
    }
    assert values(postfix(**local), DOMAINS, hosts)["virtual_alias_domains"] == (
        "$virtual_alias_maps, example.com"
    )
    for parameter in CLASSES:
        named = f"{one.get(parameter, '')} example.com".strip()
        elsewhere = values(postfix(**{**one, parameter: named}), DOMAINS, hosts)
        assert "virtual_alias_domains" not in elsewhere


def test_aliases_decide_whether_a_missing_vmap_loses_mail() -> None:
    one = postfix(**{**WIRED, "virtual_alias_maps": "hash:/etc/postfix/virtual"})
    assert wanted(one)["virtual_alias_maps"].verdict is Verdict.WARNING
    with_aliases = wanted(one, DOMAINS, frozenset({"lists.example.net"}))
    assert with_aliases["virtual_alias_maps"].verdict is Verdict.FAILURE


def test_a_domain_of_unknown_class_has_none() -> None:
    """Nothing follows for what depends on it; routes and aliases don't."""
    error = ApplyError("mysql:/x: query error")
    one = postfix(local_recipient_maps="hash:/x", unknown_relay_recipient_reject_code="450")
    unknown = Classes(DOMAINS, unknown=dict.fromkeys(DOMAINS, error))
    ours = Installation(MAPS, "lmdb")
    assert unknown.relayed == frozenset()
    assert [setting.parameter for setting in settings(one, ours, unknown)] == [
        "transport_maps",
        "virtual_alias_maps",
    ]
    assert advice(one, ours, unknown, frozenset()) == []
    # postfix_domains has the domain, too: for no other one it may enter relay_domains.
    named = {"relay_domains": frozenset({"lists.example.org"})}
    unknown = Classes(TWO, named=named, unknown=dict.fromkeys(DOMAINS, error))
    assert {setting.parameter for setting in settings(one, ours, unknown)} == {
        "transport_maps",
        "virtual_alias_maps",
    }


def test_subdomains_of_a_virtual_list_domain_stay_relayed() -> None:
    """A `!` before them would match them first."""
    named = {k: v for k, v in MAILBOX.items() if k.startswith("virtual_mailbox")}
    relayed = f"sub.lists.example.net, {WIRED['relay_domains']}"
    one = postfix(**{**WIRED, **named, "relay_domains": relayed})
    assert values(one)["relay_domains"] == (
        f"sub.lists.example.net, !lists.example.net, {WIRED['relay_domains']}"
    )
    both = postfix(**{**WIRED, **named, "relay_domains": "lists.example.net"})
    assert "relay_domains" not in values(both)


@pytest.mark.parametrize(
    ("parameter", "present", "mended"),
    [
        # The map for that parameter takes the place of another one.
        ("transport_maps", "{vmap}", "{lmtp}"),
        ("transport_maps", "hash:/x, {recipients}", "hash:/x, {lmtp}"),
        ("transport_maps", "{domains} {lmtp}", "{lmtp}"),
        ("virtual_alias_maps", "{lmtp}, hash:/x", "{vmap}, hash:/x"),
        ("virtual_alias_maps", "hash:/x, {vmap}, {recipients}", "hash:/x, {vmap}"),
        ("relay_domains", "example.org {lmtp}", "example.org {domains}"),
        ("relay_recipient_maps", "{lmtp}", "{recipients}"),
        ("relay_recipient_maps", "{domains} hash:/x", "{recipients} hash:/x"),
        ("alias_maps", "hash:/etc/aliases, {lmtp}", "hash:/etc/aliases"),
        ("alias_maps", "hash:/etc/aliases,{lmtp},hash:/y", "hash:/etc/aliases, hash:/y"),
        ("canonical_maps", "{vmap}", ""),
        ("virtual_alias_domains", "example.com {domains}", "example.com"),
        # Mailman's own files, as in the recipes that people follow.
        ("transport_maps", "regexp:{volume}/postfix_lmtp", "{lmtp}"),
        ("transport_maps", "hash:/x, hash:{volume}/postfix_lmtp", "hash:/x, {lmtp}"),
        ("transport_maps", "{lmtp}, regexp:{volume}/postfix_lmtp", "{lmtp}"),
        ("relay_domains", "regexp:{volume}/postfix_domains", "{domains}"),
        ("local_recipient_maps", "proxy:unix:p, regexp:{volume}/postfix_lmtp", "proxy:unix:p"),
        # Another type.
        (
            "local_recipient_maps",
            "hash:/x, proxy:hash:{maps}/postfix_recipients",
            "hash:/x, {recipients}",
        ),
    ],
)
def test_maps_in_a_wrong_place(parameter: str, present: str, mended: str) -> None:
    places = {
        "lmtp": WIRED["transport_maps"],
        "domains": WIRED["relay_domains"],
        "recipients": RECIPIENTS,
        "vmap": WIRED["virtual_alias_maps"],
        "volume": str(VOLUME),
        "maps": str(MAPS),
    }
    others = r", regexp:{{!/@(lists\.example\.net)$$/ OK}}"
    one = {**WIRED, "local_recipient_maps": "hash:/x", parameter: present.format(**places)}
    expected = {parameter: mended.format(**places)}
    assert values(postfix(**one)) == expected, others


def test_the_same_maps_by_another_parameter_are_mended_there() -> None:
    lmtp = WIRED["transport_maps"]
    expanded = {
        **LOCAL,
        "alias_maps": f"hash:/etc/aliases {lmtp}",
        "local_recipient_maps": f"proxy:unix:passwd.byname hash:/etc/aliases {lmtp} {RECIPIENTS}",
    }
    one = postfix(**expanded)
    spelt = {"local_recipient_maps": f"proxy:unix:passwd.byname $alias_maps {RECIPIENTS}"}
    one = replace(one, unexpanded={**one.unexpanded, **spelt})
    assert values(one) == {"alias_maps": "hash:/etc/aliases"}


def test_a_dollar_that_is_no_name_stays_one() -> None:
    """postconf -x gives `$` for `$$`; what is written out again needs both."""
    one = postfix(**{**WIRED, "transport_maps": f"regexp:{{{{/a$/ x:}}}} hash:{MAPS}/postfix_lmtp"})
    spelt = "regexp:{{/a$$/ x:}} hash:$there/postfix_lmtp"
    one = replace(one, unexpanded={**one.unexpanded, "transport_maps": spelt})
    lmtp = WIRED["transport_maps"]
    assert values(one) == {"transport_maps": f"regexp:{{{{/a$$/ x:}}}} {lmtp}"}


@pytest.mark.parametrize(
    ("present", "value", "mended"),
    [
        ("${{$compatibility_level} <level {2} ? {$mydestination} : {}}", "", ""),
        ("${{$compatibility_level} <level {2} ? {$mydestination} : {}}", "a.b", "$mydestination, "),
        ("$mydestination", "", "$mydestination, "),
        ("$mine", "", "$mine, "),
    ],
)
def test_what_the_default_gives_is_kept(present: str, value: str, mended: str) -> None:
    one = postfix(**{**WIRED, "relay_domains": value, "relay_recipient_maps": "hash:/x"})
    one = replace(one, unexpanded={**one.unexpanded, "relay_domains": present})
    assert values(one)["relay_domains"] == f"{mended}lmdb:/etc/postfix/mailman/postfix_domains"


@pytest.mark.parametrize(("present", "mended"), [("", "+"), ("-", "-+"), ("+", ""), ("-+", "")])
def test_extensions_need_their_delimiter(present: str, mended: str) -> None:
    one = postfix(**{**WIRED, "recipient_delimiter": present})
    assert values(one).get("recipient_delimiter", "") == mended


def test_no_list_yet() -> None:
    assert "relay_domains" in found(postfix(), domains=frozenset())
    local = {
        **WIRED,
        "relay_domains": "",
        "relay_recipient_maps": "",
        "local_recipient_maps": "$alias_maps lmdb:/etc/postfix/mailman/postfix_recipients",
    }
    assert found(postfix(**local), domains=frozenset()) == {}


def test_the_hosts_file_matters_only_where_it_is_used() -> None:
    assert found(postfix(**{**WIRED, "lmtp_host_lookup": "dns"}), hosts=False) == {}
    assert found(postfix(**{**WIRED, "lmtp_host_lookup": "dns, native"})) == {}
    assert list(found(postfix(**{**WIRED, "lmtp_host_lookup": "dns"}))) == ["lmtp_host_lookup"]


@pytest.mark.parametrize(("timeout", "told"), [("0s", 1), ("0", 1), ("5s", 0), ("30", 0)])
def test_replicas_need_an_end_to_connecting(timeout: str, told: int) -> None:
    listed = list(cluster_notices(postfix(lmtp_connect_timeout=timeout)))
    assert len(listed) == told
    assert all("lmtp_connect_timeout = 5s" in one.hint for one in listed)


@pytest.mark.parametrize("only", [RECIPIENTS, f"regexp:{VOLUME}/postfix_lmtp"])
def test_local_users_are_put_back(only: str) -> None:
    one = postfix(**{**LOCAL, "local_recipient_maps": only})
    assert values(one) == {
        "local_recipient_maps": f"proxy:unix:passwd.byname, $alias_maps, {RECIPIENTS}"
    }


@pytest.mark.parametrize("named", ["hash:/etc/postfix/mailman/", f"regexp:{VOLUME}/"])
@pytest.mark.parametrize("parameter", ["mydestination", "virtual_mailbox_domains"])
def test_what_gives_the_domains_their_class_is_not_lost(parameter: str, named: str) -> None:
    """Mailman's file there, or a map as another type, is exchanged: lists' mail is taken as before.

    Without their domain it would be refused; with a map that is not built, all mail is put off.
    """
    one = postfix(
        transport_maps=WIRED["transport_maps"],
        virtual_alias_maps=WIRED["virtual_alias_maps"],
        local_recipient_maps=f"unix:passwd.byname, {RECIPIENTS}",
        virtual_mailbox_maps=RECIPIENTS,
        **{parameter: f"example.org, {named}postfix_domains"},
    )
    ours = Installation(MAPS, "lmdb", volumes=(VOLUME,))
    found = settings(one, ours, Classes(DOMAINS, named={parameter: DOMAINS}))
    assert {setting.parameter: (setting.wanted, setting.verdict) for setting in found} == {
        parameter: ("example.org, lmdb:/etc/postfix/mailman/postfix_domains", Verdict.FAILURE)
    }
