"""Mailman's text to tables: what is accepted, what is refused, and that nothing else can happen."""

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postfix_sync.errors import HalfWritten, Refused
from postfix_sync.mailman.entries import (
    MAX_DESTINATIONS,
    MAX_LISTS,
    MAX_OTHER_LINES,
    Checks,
    parse_entries,
)
from postfix_sync.mailman.files import (
    parse_aliases,
    parse_domains,
    parse_routes,
    read_tables,
)
from postfix_sync.mailman.lists import T
from postfix_sync.mailman.names import check_address
from postfix_sync.mailman.tiles import MAX_LINE
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.destination import Destination
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST, addresses_of
from postfix_sync.model.source import Policy, Snapshot, SourceFile
from postfix_sync.model.table import Table
from postfix_sync.postfix.folding import Fold, fold_ascii, fold_unicode
from postfix_sync.postfix.map_text import parse_installed, render
from tests.parts.mailman_files import (
    HEADER,
    decorated,
    domains_text,
    lists_of,
    lmtp_text,
    nine,
    source_file,
    vmap_text,
)

HOP = "lmtp:[mailman-test]:8024"
ANY = Policy()


def file(content: str | bytes) -> SourceFile:
    return source_file("/m/postfix_lmtp", content)


def routes(content: str | bytes, policy: Policy = ANY) -> dict[str, str]:
    return dict(parse_routes(file(content), fold_unicode, policy))


def snapshot(lmtp: str, domains: str, vmap: str | None = None) -> Snapshot:
    return Snapshot(
        source_file("/m/postfix_lmtp", lmtp),
        source_file("/m/postfix_domains", domains),
        source_file("/m/postfix_vmap", vmap) if vmap is not None else None,
    )


@pytest.mark.parametrize("regex", [False, True], ids=["plain", "regex"])
def test_both_formats_say_the_same(regex: bool) -> None:
    name = "ants.red+x@lists.example.net"
    found = read_tables(
        snapshot(
            lmtp_text([name], HOP, regex=regex),
            domains_text({"lists.example.net": "example.net"}, regex=regex),
            vmap_text({"ants.red+x@example.net": name}, regex=regex),
        ),
        fold_unicode,
        ANY,
    )
    assert found.routes == dict.fromkeys(nine(name), HOP)
    assert found.domains == {"lists.example.net": "example.net"}
    assert found.aliases == dict(zip(nine("ants.red+x@example.net"), nine(name), strict=True))


def test_dots_may_be_anywhere_in_a_local_part() -> None:
    for name in ("an..ts@b.c", "ants.@b.c", ".ants@b.c", ".@b.c"):
        for regex in (False, True):
            assert routes(lmtp_text([name], HOP, regex=regex)).keys() == {*nine(name)}


def test_an_absent_vmap_is_an_empty_table() -> None:
    found = read_tables(
        snapshot(lmtp_text(["a@b.c"], HOP), domains_text({"b.c": "b.c"})), fold_unicode, ANY
    )
    assert found.aliases == {}


def test_keys_are_folded_as_postmap_does() -> None:
    text = f"Straße.ANTS@Lists.Example.NET {HOP}\n"
    assert routes(text) == {"strasse.ants@lists.example.net": HOP}
    assert dict(parse_routes(file(text), fold_ascii, ANY)) == {"straße.ants@lists.example.net": HOP}


def test_a_key_may_stand_twice_with_one_value() -> None:
    text = lmtp_text(["ants@b.c", "ants-owner@b.c"], HOP)
    assert text.count("\nants-owner@b.c ") == 2
    assert lists_of(routes(text)) == {"ants@b.c", "ants-owner@b.c"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ants@b.c", "is not a key, blanks and a value"),
        (f" ants@b.c {HOP}", "begins with a blank"),
        (f"\tants@b.c {HOP}", "begins with a blank"),
        (f"ants@b.c {HOP} more", "is not a next hop of the form"),
        (f"ants@b.c {HOP}\r", "carriage return"),
        (f"an\0ts@b.c {HOP}", "NUL"),
        (f"\ufeffants@b.c {HOP}", "byte order mark"),
        (f"ants {HOP}", "not a full address"),
        (f"* {HOP}", "not a full address"),
        (f".b.c {HOP}", "not a full address"),
        (f"b.c {HOP}", "not a full address"),
        (f"@b.c {HOP}", "not a local part"),
        (f"ants@ {HOP}", "the domain is missing"),
        (f"ants@.b.c {HOP}", "not a mail domain"),
        (f"ants@b..c {HOP}", "not a mail domain"),
        (f"ants@-b.c {HOP}", "not a mail domain"),
        (f"ants@[127.0.0.1] {HOP}", "not a mail domain"),
        (f'"a b"@b.c {HOP}', "not a full address"),
        (f"a\u00a0b@b.c {HOP}", "not a local part"),
        (f"a\u202eb@b.c {HOP}", "not a local part"),
        ("ants@b.c smtp:[mailman]:8024", "is not a next hop of the form"),
        ("ants@b.c lmtp:mailman:8024", "is not a next hop of the form"),
        ("ants@b.c lmtp:[mailman]", "is not a next hop of the form"),
        ("ants@b.c lmtp:[mailman:8024", "is not a next hop of the form"),
        ("ants@b.c lmtp:[mailman]:8024, lmtp:[b]:8024", "is not a next hop of the form"),
        ("ants@b.c lmtp:[]:8024", "names no host"),
        ("ants@b.c lmtp:[a b]:8024", "more than one host"),
        ("ants@b.c lmtp:[172.17.0.3 172.18.0.3]:8024", "more than one host"),
        ("ants@b.c lmtp:[0.0.0.0]:8024", "an address to listen on"),
        ("ants@b.c lmtp:[::]:8024", "an address to listen on"),
        ("ants@b.c lmtp:[0:0:0:0:0:0:0:0]:8024", "an address to listen on"),
        ("ants@b.c lmtp:[224.0.0.1]:8024", "is not an address of a single host"),
        ("ants@b.c lmtp:[::1%lo]:8024", "is not an address of a single host"),
        ("ants@b.c lmtp:[127.1]:8024", "neither a host name nor an IP address"),
        ("ants@b.c lmtp:[0127.0.0.1]:8024", "neither a host name nor an IP address"),
        ("ants@b.c lmtp:[12345]:8024", "neither a host name nor an IP address"),
        ("ants@b.c lmtp:[mailman.]:8024", "neither a host name nor an IP address"),
        ("ants@b.c lmtp:[-mailman]:8024", "neither a host name nor an IP address"),
        ("ants@b.c lmtp:[a..b]:8024", "neither a host name nor an IP address"),
        (f"ants@b.c lmtp:[{'a' * 64}]:8024", "neither a host name nor an IP address"),
        ("ants@b.c lmtp:[mailman]:0", "not between 1 and 65535"),
        ("ants@b.c lmtp:[mailman]:65536", "not between 1 and 65535"),
        ("ants@b.c lmtp:[mailman]:24x", "not a next hop"),
        (f"{'a' * MAX_LINE}@b.c {HOP}", f"{MAX_LINE} at most"),
        (f"/^ants@b.c$/ {HOP}", "not a regular expression that Mailman writes"),
        (f"/^ants@b\\.c$/i {HOP}", "is not a next hop of the form"),
        ("/^ants@b\\.c$/", "is not a key, blanks and a value"),
        (f"/^(ants|bees)@b\\.c$/ {HOP}", "not a local part"),
        (f"/^ants(\\+.*)?@b\\.c$/ {HOP}", "only -bounces and -confirm"),
        (f"/^ants\\d@b\\.c$/ {HOP}", "not a regular expression that Mailman writes"),
        (f"/^#ants@b\\.c$/ {HOP}", "not a local part"),
    ],
)
def test_refused_with_line_and_reason(line: str, problem: str) -> None:
    with pytest.raises(Refused, match=re.escape(problem)) as caught:
        routes(f"# a comment\n\n{line}\n")
    assert caught.value.message.startswith("/m/postfix_lmtp:3: ")
    assert len(caught.value.message) < 400
    assert caught.value.hint


@pytest.mark.parametrize("line", ["", "    ", "#a", "#" * MAX_LINE])
def test_more_lines_without_an_entry_than_mailman_writes_are_refused(line: str) -> None:
    entry = f"ants@b.c {HOP}\n"
    for entries in (0, 1, 1000):
        most = MAX_OTHER_LINES + entries
        assert routes(entry * entries + f"{line}\n" * most).keys() <= {"ants@b.c"}
        with pytest.raises(Refused, match="too many comments and blank lines") as caught:
            routes(entry * entries + f"{line}\n" * (most + 1) + "beyond, nothing is read\n")
        assert caught.value.message.startswith(f"/m/postfix_lmtp:{entries + most + 1}: ")


def test_more_domains_than_lists_may_be_are_refused() -> None:
    text = "".join(f"d{number}.b.c b.c\n" for number in range(MAX_LISTS + 1))
    with pytest.raises(Refused, match=rf":{MAX_LISTS + 1}: the file has more than {MAX_LISTS} "):
        parse_domains(file(text), fold_unicode, ANY)


def test_more_next_hops_than_mailman_writes_are_refused() -> None:
    text = "".join(f"a{number}@b.c lmtp:[m{number}]:24\n" for number in range(MAX_DESTINATIONS + 1))
    assert len(routes(text[: text.rindex("a")])) == MAX_DESTINATIONS
    with pytest.raises(Refused, match=r":33: the file has more than 32 different next hops"):
        routes(text)


def test_invalid_utf8_is_refused_with_its_line() -> None:
    with pytest.raises(Refused, match=r":2: byte 2 is not valid UTF-8"):
        routes(b"#\na\xff@b.c lmtp:[m]:1\n")


def test_a_last_line_without_an_end_is_cut_short() -> None:
    with pytest.raises(Refused, match=r":2: the last line has no newline"):
        routes(f"ants@b.c {HOP}\nbees@b.c lmtp:[mailman-test]:802")


def test_two_values_for_one_key() -> None:
    with pytest.raises(Refused, match=r':2: duplicate key "ants@b.c"'):
        routes(f"ants@b.c {HOP}\nANTS@b.c lmtp:[other]:8024\n")


def test_two_formats_in_one_file() -> None:
    with pytest.raises(Refused, match=r":2: plain keys and regular expressions in one file"):
        routes(f"ants@b.c {HOP}\n/^bees@b\\.c$/ {HOP}\n")


def test_what_mailman_wrote_does_not_matter_with_a_destination() -> None:
    policy = Policy(destination=Destination("mm", 24))
    assert routes("ants@b.c lmtp:[0.0.0.0 ::]:0\n", policy) == {"ants@b.c": "lmtp:[mm]:24"}


def test_domains_confine_every_file() -> None:
    policy = Policy(domains=frozenset({"B.c"}))
    assert routes(f"ants@b.C {HOP}\n", policy)
    for parse in (parse_routes, parse_aliases):
        with pytest.raises(Refused, match="not among the domains"):
            parse(file("ants@evil.example lmtp:[m]:1\n"), fold_unicode, policy)
    with pytest.raises(Refused, match="not among the domains"):
        parse_aliases(file("ants@b.c ants@evil.example\n"), fold_unicode, policy)
    with pytest.raises(Refused, match="not among the domains"):
        parse_domains(file("evil.example b.c\n"), fold_unicode, policy)


def test_domain_that_is_not_allowed_is_named_with_the_line_to_add() -> None:
    """Also one of a list's route: Mailman would write it again."""
    policy = Policy(domains=frozenset({"b.c"}))
    files = snapshot(
        lmtp_text(["ants@x.c"], HOP),
        domains_text({"x.c": "b.c"}),
        vmap_text({"ants@b.c": "ants@x.c"}),
    )
    with pytest.raises(Refused) as caught:
        read_tables(files, fold_unicode, policy)
    assert caught.value.message.startswith(
        '/m/postfix_domains:5: "x.c" is the alias_domain of "b.c", and is not among the domains'
    )
    assert caught.value.hint.endswith("add it to the source's domains: - x.c")
    with pytest.raises(Refused, match=r'"x.c" is not among the domains') as caught:
        parse_routes(files.lmtp, fold_unicode, policy)
    assert caught.value.hint.endswith("add it to the source's domains: - x.c")
    assert read_tables(files, fold_unicode, Policy(domains=frozenset({"b.c", "x.c"}))).aliases
    with pytest.raises(Refused, match=r'postfix_vmap:5: "b.c" is not among the domains') as caught:
        read_tables(files, fold_unicode, Policy(domains=frozenset({"x.c"})))
    assert caught.value.hint.endswith("add it to the source's domains: - b.c")


@pytest.mark.parametrize("regex", [False, True], ids=["plain", "regex"])
@pytest.mark.parametrize(
    ("hosts", "problem", "changed"),
    [
        (["b.c", "d.e"], '"x.c" is the alias_domain of both "b.c" and "d.e", but', "d.e"),
        (["d.e", "x.c"], '"x.c" has lists of its own and is the alias_domain of "d.e"', "d.e"),
        (["x.c", "y.z"], '"x.c" has lists of its own and is the alias_domain of "y.z"', "y.z"),
    ],
)
def test_alias_domain_that_mailman_takes_for_one_mail_host_of_two_is_refused(
    hosts: list[str], problem: str, changed: str, regex: bool
) -> None:
    key = decorated("x.c", regex=regex)
    domains = HEADER + "".join(f"{key} {host}\n" for host in hosts)
    with pytest.raises(Refused) as caught:
        read_tables(snapshot(lmtp_text(["ants@x.c"], HOP), domains), fold_unicode, ANY)
    assert not isinstance(caught.value, HalfWritten)
    assert caught.value.message.startswith(f"/m/postfix_domains:6: {problem}")
    assert f"in Mailman, give {changed} an alias_domain of its own, or none" in caught.value.hint


def test_a_list_without_its_nine_addresses() -> None:
    text = "".join(lmtp_text(["ants@b.c"], HOP).splitlines(keepends=True)[:-3])
    with pytest.raises(Refused, match="no list that has all its 9 addresses"):
        read_tables(snapshot(text, domains_text({"b.c": "b.c"})), fold_unicode, ANY)


@pytest.mark.parametrize(
    ("lists", "domains", "problem"),
    [
        (["ants@b.c", "ants@d.e"], {"b.c": "b.c"}, 'postfix_lmtp has the domain "d.e", '),
        (["ants@b.c"], {"b.c": "b.c", "d.e": "d.e"}, 'postfix_domains has the domain "d.e", '),
    ],
)
def test_a_half_updated_set(lists: list[str], domains: dict[str, str], problem: str) -> None:
    with pytest.raises(HalfWritten, match=problem):
        read_tables(snapshot(lmtp_text(lists, HOP), domains_text(domains)), fold_unicode, ANY)


def test_an_alias_that_leads_to_no_list() -> None:
    files = snapshot(
        lmtp_text(["ants@b.c"], HOP),
        domains_text({"b.c": "x.c"}),
        vmap_text({"ants@x.c": "ants@b.c", "bees@x.c": "bees@b.c"}),
    )
    with pytest.raises(HalfWritten, match=r'leads to "bees.*@b.c", which is not in'):
        read_tables(files, fold_unicode, ANY)


def test_an_alias_that_leads_to_another_list() -> None:
    files = snapshot(
        lmtp_text(["ants@b.c"], HOP),
        domains_text({"b.c": "x.c"}),
        HEADER + "".join(f"{key} ants@b.c\n" for key in nine("bees@x.c")),
    )
    with pytest.raises(Refused, match="not an address of the same list"):
        read_tables(files, fold_unicode, ANY)


def test_a_vmap_that_lost_its_bytes() -> None:
    files = snapshot(lmtp_text(["ants@b.c"], HOP), domains_text({"b.c": "b.c"}), "")
    with pytest.raises(Refused, match="postfix_vmap:1: the file is empty"):
        read_tables(files, fold_unicode, ANY)


addresses = st.from_regex(
    re.compile(
        r"[a-zA-Zäß0-9!$%&'*+=?^_`{|}~/.-]{1,9}(\.[a-z+=]{1,5})?@[a-zü0-9]{1,9}(\.[a-z]{2,5})?"
    ),
    fullmatch=True,
)


@given(st.dictionaries(addresses.map(fold_unicode), st.just(HOP)))
def test_what_is_rendered_is_parsed_to_the_same(entries: dict[str, str]) -> None:
    table = Table.of(entries)
    assert parse_installed([b"".join(render(table))], Table) == table
    assert routes(b"".join(render(table))) == table


@given(st.binary())
@example(b"\n".join([b"a@b.c \xc2\x85"]))
def test_any_bytes_give_a_table_or_a_refusal(content: bytes) -> None:
    for parse in (parse_routes, parse_domains, parse_aliases):
        try:
            table = parse(file(content), fold_unicode, ANY)
        except Refused:
            continue
        installed = table if isinstance(table, Table) else Table.of(table)
        assert parse_installed([b"".join(render(installed))], type(installed)) == table


line_parts = st.sampled_from(
    b"ants@b.c|/^ants@b\\.c$/| |\t|\n|\r\n|#|lmtp:[m]:24|\xff|lmtp:[|]:|0|\0|\xef\xbb\xbf|"
    b"ants-owner@b.c|@|.|*".split(b"|")
)


@given(st.lists(line_parts).map(b"".join))
def test_any_mixture_of_what_the_files_are_made_of(content: bytes) -> None:
    files = [source_file(name, content) for name in ("lmtp", "domains", "vmap")]
    try:
        found = read_tables(Snapshot(*files), fold_unicode, ANY)
    except Refused:
        return
    assert all(check_address(key) for key in found.routes)
    assert set(found.routes) == {
        address for name in lists_of(found.routes) for address in addresses_of(name)
    }


def lists_by_line(kind: type[T], file: SourceFile, checks: Checks) -> T:
    """Do what parse_lists does, but line by line."""
    return kind.of(parse_entries(file, checks, MAX_LISTS * ADDRESSES_PER_LIST))


def by_line(content: bytes, policy: Policy, kind: type[Table[str]]) -> Table[str] | Refused:
    """Read a file as the parsers do, but line by line."""
    parse = parse_aliases if kind is Aliases else parse_routes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("postfix_sync.mailman.files.parse_lists", lists_by_line)
        return outcome(parse, content, policy)


def outcome(
    parse: Callable[[SourceFile, Fold, Policy], Table[str]], content: bytes, policy: Policy
) -> Table[str] | Refused:
    try:
        return parse(file(content), fold_unicode, policy)
    except Refused as error:
        return error


HOPS = (HOP, "lmtp:[other]:24")

PIECES = [
    *(
        lmtp_text([name], hop).removeprefix(HEADER)
        for name in ("ants@b.c", "ants-owner@b.c", "Bees@B.c")
        for hop in HOPS
    ),
    vmap_text({"ants@x.c": "ants@b.c"}).removeprefix(HEADER),
    vmap_text({"ants-owner@x.c": "ants-owner@b.c"}).removeprefix(HEADER),
    lmtp_text(["ants@b.c"], HOP, regex=True).removeprefix(HEADER),
    lmtp_text(["gr\u00fcn@b.c"], HOP).removeprefix(HEADER),
    "".join(f"/^{key}$/ {HOP}\n" for key in nine("ants@b\\.c")),
    "".join(f"{key} {HOP}\n" for key in nine("ants\udcff@b.c")),
    "".join(f"{key} {HOP}\0\n" for key in nine("ants@b.c")),
    "".join(f"{key} {HOP} \t\n" for key in nine("ants@b.c")),
    "".join(f"{key} {key}\n" for key in nine("a" * 200 + "@b.c")),
    f"ants-owner@b.c {HOP}\n",
    "ants@b.c lmtp:[third]:24\n",
    f"ants@b.c {HOP} x\n",
    "# a comment\n",
    " \n",
]


@given(
    st.lists(st.sampled_from(PIECES)).map("".join),
    st.integers(0, 5000),
    st.sampled_from(
        [ANY, Policy(domains=frozenset({"x.c"})), Policy(destination=Destination("m", 24))]
    ),
    st.sampled_from([Table, Aliases]),
)
def test_reading_by_list_is_reading_by_line(
    text: str, removed: int, policy: Policy, kind: type[Table[str]]
) -> None:
    """Also with one character removed. Of several problems, another one may be reported."""
    content = (text[:removed] + text[removed + 1 :]).encode(errors="surrogateescape")
    parse = parse_aliases if kind is Aliases else parse_routes
    found, wanted = outcome(parse, content, policy), by_line(content, policy, kind)
    if isinstance(found, Refused) or isinstance(wanted, Refused):
        assert type(found) is type(wanted), (found, wanted)
    else:
        assert found == wanted
        assert (found.lists, found.others) == (wanted.lists, wanted.others)
