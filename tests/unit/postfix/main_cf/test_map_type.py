"""The choice of the map type, by the types that main.cf names and Postfix supports."""

import pytest

from postfix_sync.errors import ConfigError
from postfix_sync.postfix.main_cf.map_type import choose_map_type
from tests.parts.parameters import MAPS, postfix


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
def test_map_type_is_chosen_by_configuration_main_cf_and_support(
    types: str, parameters: dict[str, str], configured: str, expected: str
) -> None:
    assert choose_map_type(postfix(types, **parameters), MAPS, configured) == expected


@pytest.mark.parametrize("configured", ["btree", "auto"])
def test_two_types_with_the_same_file_name_are_refused(configured: str) -> None:
    named = {
        "transport_maps": "hash:/etc/postfix/mailman/postfix_lmtp",
        "relay_domains": "btree:/etc/postfix/mailman/postfix_domains",
    }
    with pytest.raises(ConfigError, match="the same names"):
        choose_map_type(postfix("hash btree", **named), MAPS, configured)


@pytest.mark.parametrize("configured", ["lmdb", "auto"])
def test_postfix_without_a_supported_map_type_is_refused(configured: str) -> None:
    with pytest.raises(ConfigError, match="has no map type"):
        choose_map_type(postfix("regexp texthash"), MAPS, configured)


def test_map_in_mydestination_decides_the_type_too() -> None:
    main_cf = postfix(mydestination="localhost, hash:/etc/postfix/mailman/postfix_domains")
    assert choose_map_type(main_cf, MAPS, "auto") == "hash"
