"""The hosts file that podman copies into containers, according to its configuration."""

from pathlib import Path

import pytest

from postfix_sync.containers.base_hosts_file import DEFAULT, base_hosts_file


def conf(value: str) -> str:
    return f'[containers]\nbase_hosts_file = "{value}"\n'


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], DEFAULT),
        (["", "[engine]\nruntime = 'runc'\n", "[containers]\n"], DEFAULT),
        ([conf("")], DEFAULT),
        ([conf("none")], None),
        ([conf("image")], None),
        ([conf("/srv/hosts")], Path("/srv/hosts")),
        ([conf("none"), "[containers]\n"], None),
        ([conf("none"), conf("")], DEFAULT),
        ([conf("/srv/hosts"), conf("none")], None),
        (["[containers]\nbase_hosts_file = 3\n"], DEFAULT),
        (["containers = 3\n"], DEFAULT),
    ],
)
def test_last_file_that_sets_base_hosts_file_decides(
    texts: list[str], expected: Path | None
) -> None:
    assert base_hosts_file(texts) == expected


@pytest.mark.parametrize("text", [None, "[containers\n", "x = " + "[" * 100_000])
def test_unreadable_configuration_gives_the_default(text: str | None) -> None:
    assert base_hosts_file([conf("none"), text]) == DEFAULT
    assert base_hosts_file([conf("/srv/hosts"), text]) == DEFAULT
    assert base_hosts_file([text, conf("none")]) is None
