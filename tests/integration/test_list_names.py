"""Every list name that Mailman's own code accepts is accepted, in both of its formats."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from postfix_sync.mailman.files import read_tables
from postfix_sync.mailman.names import check_address
from postfix_sync.model.map_names import ALIASES, DOMAINS, ROUTES
from postfix_sync.model.source import Policy, Snapshot
from postfix_sync.postfix.folding import fold_ascii, fold_unicode
from tests.parts.mailman import Mailman
from tests.parts.mailman_files import lists_of, source_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

MAIL_HOST, ALIAS_DOMAIN = "lists.red.example.net", "postfix.example.net"

# One character of each kind. Python's regular expressions count the last four as letters.
CHARACTERS = "aA0-_.+=!$*{}~#/@\"' \t|^%&`?,;:<>()[]\\ß\u017f\u212a\u0130\u0131"
DOTTED = ("an..ts", "ants.", ".ants", "..", ".")
OTHERS = ("owner+x=y.z", "a" * 200, "ants-owner", "İstanbul")
SIX_DOTS = "a.b.c.d"
"""With the dots of its domain, postfix_vmap has no blank after its regular expression."""


def names() -> Iterator[str]:
    """Return every local part of one and two characters, of three around dots, and some others."""
    for length in (1, 2):
        yield from map("".join, itertools.product(CHARACTERS, repeat=length))
    yield from map("".join, itertools.product("a.-+", repeat=3))
    yield from (*DOTTED, *OTHERS, SIX_DOTS)


@pytest.mark.parametrize("table", ["hash", "regex"])
def test_every_list_name_of_mailman_is_accepted(public: Path, table: str) -> None:
    mailman = Mailman(public / "mailman", table=table)
    created = mailman.create_lists(MAIL_HOST, ALIAS_DOMAIN, names())
    assert {f"{name}@{MAIL_HOST}" for name in (*DOTTED, "owner+x=y.z", SIX_DOTS)} <= {*created}
    assert len(created) > 300
    assert all(check_address(name) == name for name in created)

    routes, domains, aliases = (
        source_file(name, (mailman.data / name).read_bytes()) for name in (ROUTES, DOMAINS, ALIASES)
    )
    for fold in (fold_unicode, fold_ascii):
        found = read_tables(Snapshot(routes, domains, aliases), fold, Policy())
        assert lists_of(found.aliases) == {fold(name) for name in created}
        assert lists_of(found.routes) == {
            fold(name.replace(MAIL_HOST, ALIAS_DOMAIN)) for name in created
        }
    glued = rb"/^a\.b\.c\.d-confirm(\+.*)?@lists\.red\.example\.net$/a.b.c.d-confirm@"
    assert (glued in (mailman.data / ALIASES).read_bytes()) == (table == "regex")
