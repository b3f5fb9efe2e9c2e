"""Whether a list of Postfix's names a domain: as match_list(3) decides it."""

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


def test_items_are_apart_outside_of_braces_only() -> None:
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
        # The first that matches decides.
        ("lists.example.net", "!lists.example.net, example.net", Style.PARENTS, False),
        ("lists.example.net", "example.net, !lists.example.net", Style.PARENTS, True),
        ("lists.example.net", "!!lists.example.net", Style.EXACT, True),
        # Files, and what is negated in them, and as a whole.
        ("lists.example.net", "/etc/domains", Style.EXACT, True),
        ("far.example.org", "/etc/domains", Style.PARENTS, False),
        ("far.example.org", "!/etc/domains", Style.PARENTS, True),
        ("example.org", "!/etc/domains", Style.PARENTS, False),
        ("example.org", "/etc/none, example.org", Style.EXACT, True),
        # Tables; an address in brackets is none, though it may have colons.
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
def test_whether_a_list_names_a_domain(
    domain: str, value: str, style: Style, named: bool | None
) -> None:
    assert decide(domain, value, style) is named


def test_what_tables_are_asked() -> None:
    assert keys("hash:/d", "a.b.c", Style.EXACT) == ["a.b.c"]
    assert keys("proxy:hash:/d", "a.b.c", Style.PARENTS) == ["a.b.c", "b.c", "c"]
    assert keys("hash:/d", "a.b.c", Style.DOTTED) == ["a.b.c", ".b.c", ".c"]
    assert keys("proxy:pcre:/d", "a.b.c", Style.PARENTS) == ["a.b.c"]


def test_files_that_name_each_other_have_an_end() -> None:
    for value, expected in (
        ("/etc/one", ["example.com", "example.org", "example.net"]),
        ("/etc/two", ["example.org", "example.com", "example.net"]),
    ):
        assert [one.text for one in patterns(value, lambda path: FILES[path])] == expected


def test_a_file_that_can_not_be_read_decides_only_what_nothing_before_it_has() -> None:
    listed = list(patterns("example.com, !/etc/none, example.org", lambda path: None))
    assert [one.text for one in listed] == ["example.com", "/etc/none", "example.org"]

    def holds(table: str, key: str) -> bool:
        raise LookupError(table)

    assert decision("example.com", listed, Style.EXACT, holds) is True
    with pytest.raises(LookupError, match="/etc/none"):
        decision("example.org", listed, Style.EXACT, holds)
