"""Whether one of Postfix's match lists names a domain, as match_list(3) decides."""

import pytest

from postfix_sync.postfix.match_list import Style, decision, items, keys, patterns

FILES = {
    "/etc/one": "example.com /etc/two",
    "/etc/two": "example.org /etc/one example.net",
    "/etc/domains": "# ours\nlists.example.net\n  !far.example.org, example.org\n",
}
TABLES = {
    ("hash:/d", "lists.example.net"),
    ("hash:/d", "example.org"),
    ("hash:/d", ".example.edu"),
    ("regexp:{{/a b/ x}}", "example.org"),
}


def decide(domain: str, value: str, style: Style = Style.EXACT) -> bool | None:
    listed = list(patterns(value, lambda path: FILES.get(path, "")))
    return decision(domain, listed, style, lambda table, key: (table, key) in TABLES)


def test_items_are_separated_only_outside_braces() -> None:
    assert items("a, b\tc\n d,,") == ["a", "b", "c", "d"]
    assert items("x, regexp:{{/a b/ OK}}, inline:{a=b, c=d} y") == [
        *("x", "regexp:{{/a b/ OK}}", "inline:{a=b, c=d}", "y"),
    ]
    assert items("") == []


@pytest.mark.parametrize(
    ("domain", "value", "style", "named"),
    [
        ("lists.example.net", "localhost Lists.Example.NET", Style.EXACT, True),
        ("lists.example.net", "example.net", Style.EXACT, None),
        ("lists.example.net", "example.net", Style.PARENTS, True),
        ("lists.example.net", "example.net", Style.DOTTED, None),
        ("lists.example.net", ".example.net", Style.DOTTED, True),
        ("lists.example.net", ".example.net", Style.EXACT, None),
        ("xexample.net", "example.net", Style.PARENTS, None),
        # The first item that matches decides.
        ("lists.example.net", "!lists.example.net, example.net", Style.PARENTS, False),
        ("lists.example.net", "example.net, !lists.example.net", Style.PARENTS, True),
        ("lists.example.net", "!!lists.example.net", Style.EXACT, True),
        # Files, with negated items, and negated as a whole.
        ("lists.example.net", "/etc/domains", Style.EXACT, True),
        ("far.example.org", "/etc/domains", Style.PARENTS, False),
        ("far.example.org", "!/etc/domains", Style.PARENTS, True),
        ("example.org", "!/etc/domains", Style.PARENTS, False),
        ("example.org", "/etc/none, example.org", Style.EXACT, True),
        # Tables; an address in brackets is not a table, although it may have colons.
        ("lists.example.net", "hash:/d", Style.EXACT, True),
        ("far.example.org", "hash:/d", Style.EXACT, None),
        ("far.example.org", "hash:/d", Style.PARENTS, True),
        ("far.example.org", "!hash:/d", Style.PARENTS, False),
        ("far.example.edu", "hash:/d", Style.DOTTED, True),
        ("far.example.edu", "hash:/d", Style.PARENTS, None),
        ("far.example.org", "regexp:{{/a b/ x}}", Style.PARENTS, None),
        ("example.org", "[2001:db8::1], [192.0.2.1]", Style.PARENTS, None),
    ],
)
def test_match_list_names_a_domain(
    domain: str, value: str, style: Style, named: bool | None
) -> None:
    assert decide(domain, value, style) is named


def test_tables_are_queried_for_the_keys_of_the_style() -> None:
    assert keys("hash:/d", "a.b.c", Style.EXACT) == ["a.b.c"]
    assert keys("proxy:hash:/d", "a.b.c", Style.PARENTS) == ["a.b.c", "b.c", "c"]
    assert keys("hash:/d", "a.b.c", Style.DOTTED) == ["a.b.c", ".b.c", ".c"]
    assert keys("proxy:pcre:/d", "a.b.c", Style.PARENTS) == ["a.b.c"]


def test_files_that_include_each_other_are_read_once() -> None:
    for value, expected in (
        ("/etc/one", ["example.com", "example.org", "example.net"]),
        ("/etc/two", ["example.org", "example.com", "example.net"]),
    ):
        assert [pattern.text for pattern in patterns(value, lambda path: FILES[path])] == expected


def test_unreadable_file_is_an_error_only_if_no_item_before_matches() -> None:
    listed = list(patterns("example.com, !/etc/none, example.org", lambda path: None))
    assert [pattern.text for pattern in listed] == ["example.com", "/etc/none", "example.org"]

    def holds(table: str, key: str) -> bool:
        raise LookupError(table)

    assert decision("example.com", listed, Style.EXACT, holds) is True
    with pytest.raises(LookupError, match="/etc/none"):
        decision("example.org", listed, Style.EXACT, holds)
