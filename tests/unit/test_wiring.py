"""What main.cf lacks for the maps to work, and which map type to build."""

from dataclasses import replace
from pathlib import Path

import pytest

from postfix_sync.errors import ConfigError
from postfix_sync.postfix import PARAMETERS, Postfix
from postfix_sync.wiring import choose_map_type, cluster_notices, notices

MAPS = Path("/etc/postfix/mailman")
WIRED = {
    "transport_maps": "lmdb:/etc/postfix/mailman/postfix_lmtp",
    "relay_domains": "lmdb:/etc/postfix/mailman/postfix_domains",
    "relay_recipient_maps": "lmdb:/etc/postfix/mailman/postfix_recipients",
    "virtual_alias_maps": "lmdb:/etc/postfix/mailman/postfix_vmap",
    "lmtp_host_lookup": "native",
}
DOMAINS = frozenset({"lists.example.net"})


def postfix(
    types: str = "hash btree lmdb cdb", directory: str = "/etc/postfix", **parameters: str
) -> Postfix:
    values = {
        **dict.fromkeys(PARAMETERS, ""),
        "default_database_type": "hash",
        "lmtp_host_lookup": "dns",
        "local_recipient_maps": "proxy:unix:passwd.byname $alias_maps",
        **parameters,
    }
    return Postfix(Path(directory), values, values, frozenset(types.split()), lmtp_chrooted=True)


def found(one: Postfix, domains: frozenset[str] = DOMAINS, hosts: bool = True) -> dict[str, str]:
    listed = notices(one, MAPS, "lmdb", domains, hosts_used=hosts)
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
    values = {**one.parameters, "transport_maps": "hash:/x"}
    one = replace(one, parameters=values, unexpanded={**values, "transport_maps": "hash:$dir/x"})
    assert "'transport_maps = hash:$dir/x, lmdb:/etc/" in found(one)["transport_maps"]


def test_another_instance_is_named() -> None:
    hint = found(postfix(directory="/etc/postfix-out"))["transport_maps"]
    assert hint.startswith("postconf -c /etc/postfix-out -e ")
    assert hint.endswith(" && postfix -c /etc/postfix-out reload")


def test_another_type_is_replaced() -> None:
    one = postfix(**{**WIRED, "transport_maps": "cdb:/x, hash:/etc/postfix/mailman/postfix_lmtp"})
    assert "'transport_maps = cdb:/x, lmdb:/etc/postfix/mailman/" in found(one)["transport_maps"]


def test_proxied_maps_count() -> None:
    proxied = "proxy:lmdb:/etc/postfix/mailman/postfix_lmtp"
    assert found(postfix(**{**WIRED, "transport_maps": proxied})) == {}


def test_relay_domains_may_name_the_domains_themselves() -> None:
    assert found(postfix(**{**WIRED, "relay_domains": "example.org, lists.example.net"})) == {}


def test_a_domain_in_mydestination() -> None:
    local = {**WIRED, "mydestination": "localhost Lists.example.NET", "relay_domains": ""}
    assert list(found(postfix(**{**local, "relay_recipient_maps": ""}))) == ["local_recipient_maps"]
    assert found(postfix(**{**local, "local_recipient_maps": ""})) == {}


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


@pytest.mark.parametrize(
    ("types", "parameters", "configured", "expected"),
    [
        ("hash lmdb", {}, "auto", "lmdb"),
        ("hash btree", {}, "auto", "hash"),
        ("cdb", {"default_database_type": "cdb"}, "auto", "cdb"),
        ("hash lmdb", {"transport_maps": "hash:/etc/postfix/mailman/postfix_lmtp"}, "auto", "hash"),
        ("hash lmdb", {"relay_domains": "hash:/etc/postfix/mailman/other"}, "auto", "lmdb"),
        ("lmdb", {"transport_maps": "hash:/etc/postfix/mailman/postfix_lmtp"}, "auto", "lmdb"),
        ("lmdb", {"transport_maps": "regexp:/etc/postfix/mailman/postfix_lmtp"}, "auto", "lmdb"),
        ("hash lmdb btree", {}, "btree", "btree"),
    ],
)
def test_the_type_to_build(
    types: str, parameters: dict[str, str], configured: str, expected: str
) -> None:
    assert choose_map_type(postfix(types, **parameters), MAPS, configured) == expected


@pytest.mark.parametrize("configured", ["btree", "auto"])
def test_two_types_that_would_share_one_file(configured: str) -> None:
    named = {
        "transport_maps": "hash:/etc/postfix/mailman/postfix_lmtp",
        "relay_domains": "btree:/etc/postfix/mailman/postfix_domains",
    }
    with pytest.raises(ConfigError, match="the same names"):
        choose_map_type(postfix("hash btree", **named), MAPS, configured)


@pytest.mark.parametrize("configured", ["lmdb", "auto"])
def test_no_type_to_build(configured: str) -> None:
    with pytest.raises(ConfigError, match="has no map type"):
        choose_map_type(postfix("regexp texthash"), MAPS, configured)


@pytest.mark.parametrize(
    ("version", "several"),
    [
        ("3.4.29", False),
        ("3.5.0", True),
        ("3.7.11", True),
        ("3.10.0-RC1", True),
        ("3.11-20251112", True),
        ("4.0.0", True),
        ("2.11.3", False),
        ("", False),
    ],
)
def test_which_postfix_takes_several_next_hops(version: str, several: bool) -> None:
    """Compared as numbers; an older one would stop all LMTP delivery over them."""
    assert replace(postfix(), version=version).several_next_hops == several


@pytest.mark.parametrize(("timeout", "told"), [("0s", 1), ("0", 1), ("5s", 0), ("30", 0)])
def test_replicas_need_an_end_to_connecting(timeout: str, told: int) -> None:
    listed = list(cluster_notices(postfix(lmtp_connect_timeout=timeout)))
    assert len(listed) == told
    assert all("lmtp_connect_timeout = 5s" in one.hint for one in listed)
