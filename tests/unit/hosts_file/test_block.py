"""Our block in a hosts file: all bytes outside it are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.errors import ApplyError
from postfix_sync.hosts_file.block import BEGIN, END, parse

NAMES = {"mailman-test": "127.0.0.1", "mm.example.net": "::1"}
BLOCK = BEGIN + b"\n127.0.0.1\tmailman-test\n::1\tmm.example.net\n" + END + b"\n"


def put(content: bytes, names: dict[str, str]) -> bytes:
    return parse(content, "/etc/hosts").with_block(names)


def test_new_block_is_added_at_the_end() -> None:
    assert put(b"127.0.0.1 localhost\n", NAMES) == b"127.0.0.1 localhost\n" + BLOCK
    assert put(b"", NAMES) == BLOCK


def test_new_block_is_put_before_a_last_line_without_newline() -> None:
    assert put(b"a\n127.0.0.1 localhost", NAMES) == b"a\n" + BLOCK + b"127.0.0.1 localhost"


def test_block_is_replaced_in_place() -> None:
    content = b"1.2.3.4 a\r\n" + BLOCK + b"\n# after\n"
    assert put(content, {"mm": "10.0.0.1"}) == (
        b"1.2.3.4 a\r\n" + BEGIN + b"\n10.0.0.1\tmm\n" + END + b"\n\n# after\n"
    )


def test_names_of_file_and_block_are_parsed() -> None:
    hosts = parse(b"127.0.0.1 localhost LOCAL # no\n#1.2.3.4 x\nbad y\n" + BLOCK, "/etc/hosts")
    assert hosts.foreign() == {"localhost": "127.0.0.1", "local": "127.0.0.1"}
    assert hosts.block == NAMES
    assert hosts.lookup() == {**NAMES, **hosts.foreign()}


def test_first_line_that_has_a_name_gives_its_address() -> None:
    """As the resolver reads hosts(5), also if our block is between the two lines."""
    hosts = parse(b"192.0.2.1 a\n192.0.2.2 b A\n" + BLOCK + b"192.0.2.3 b c\n", "/etc/hosts")
    assert hosts.foreign() == {"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"}


def test_lookup_prefers_the_address_outside_the_block() -> None:
    hosts = parse(BLOCK + b"192.0.2.1 mailman-test\n", "/etc/hosts")
    assert hosts.lookup() == {**NAMES, "mailman-test": "192.0.2.1"}


def test_first_line_of_the_block_that_has_a_name_gives_its_address() -> None:
    block = BEGIN + b"\n192.0.2.1 mm\n192.0.2.2 mm\n" + END + b"\n"
    assert parse(block, "/etc/hosts").block == {"mm": "192.0.2.1"}


@pytest.mark.parametrize(
    "content",
    [
        BEGIN + b"\n",
        END + b"\n",
        END + b"\n" + BEGIN + b"\n",
        BEGIN + b"\n" + BEGIN + b"\n" + END + b"\n",
        BLOCK + BLOCK,
    ],
)
def test_unbalanced_markers_are_an_error(content: bytes) -> None:
    with pytest.raises(ApplyError, match="do not enclose one block"):
        parse(content, "/etc/hosts")


hosts_bytes = st.one_of(
    st.binary(),
    st.lists(
        st.sampled_from(
            [b"127.0.0.1 localhost\n", b"\n", b"\r\n", b"# x", b"\xff\0", b"1.2.3.4 mailman-test "]
        )
    ).map(b"".join),
).filter(lambda content: b"postfix-sync" not in content)
names = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True),
    st.ip_addresses().map(str),
    min_size=1,
    max_size=3,
)


@given(hosts_bytes, names, names)
def test_bytes_outside_the_block_are_kept(
    content: bytes, first: dict[str, str], second: dict[str, str]
) -> None:
    once = put(content, first)
    assert put(once, first) == once
    hosts = parse(put(once, second), "/etc/hosts")
    assert hosts.block == second
    assert hosts.before + hosts.after == content
    assert put(put(once, second), {}) == content
