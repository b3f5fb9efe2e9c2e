"""--dry-run writes nothing, and prints exactly what a sync would do.

The tests compare every file of the site and of its Postfix before and after: path, type, inode,
mode, owner, time and content.
"""

from collections.abc import Callable

import pytest

from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES
from tests.parts.disk import tree
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

MakeSite = Callable[..., Site]

ANTS, BEES, CATS = "ants@lists.example.net", "bees@lists.example.net", "cats@cats.example"
ONE, TWO = "lmtp:[one]:8024", "lmtp:[two]:8024"

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def site(make_site: MakeSite, idle_postfix: PostfixInstance) -> Site:
    """A site with a hosts file to fill; main.cf names its maps."""
    made = make_site("hash", source={"address": "127.0.0.9"})
    hosts = {"virtual_alias_domains": "$virtual_alias_maps, mail.example"}
    idle_postfix.postconf(**mailman_parameters(made.maps, "hash"), **hosts)
    made.files.write(ANTS, BEES, hop=ONE)
    made.configure()
    return made


def dry_run(site: Site, status: int = 0) -> list[str]:
    """Return the output of a dry run; check that it writes no file, and nothing to stderr."""
    before = tree(site.directory)
    done = site.call("--once", "--dry-run")
    assert tree(site.directory) == before
    assert done.returncode == status, done
    assert not done.stderr
    return done.stdout.splitlines()


def block(lines: list[str], title: str) -> list[str]:
    """Return the lines between a title and the next one."""
    rest = lines[lines.index(title) + 1 :]
    marks = ("+ ", "- ", "~ ", "(", "reload")
    end = next((i for i, line in enumerate(rest) if not line.startswith(marks)), len(rest))
    return rest[:end]


def test_dry_run_before_the_first_install_lists_all_entries(site: Site) -> None:
    lines = dry_run(site)
    assert not site.maps.exists()
    assert not site.state.exists()
    keys = sorted([*nine(ANTS), *nine(BEES)])
    assert block(lines, ROUTES) == [f"+ {key} {ONE}" for key in keys]
    assert block(lines, RECIPIENTS) == [f"+ {key} {key}" for key in keys]
    assert block(lines, DOMAINS) == ["+ lists.example.net lists.example.net"]
    assert block(lines, str(site.hosts)) == ["+ one 127.0.0.9"]
    assert block(lines, "postfix") == ["reload"]


def test_dry_run_lists_every_kind_of_change(site: Site) -> None:
    assert site.once() == ""
    site.files.write(BEES, CATS, hop=TWO, aliases={"cats@mail.example": CATS})
    lines = dry_run(site)
    assert block(lines, ROUTES) == sorted(
        [
            *(f"~ {key} {ONE} -> {TWO}" for key in nine(BEES)),
            *(f"+ {key} {TWO}" for key in nine(CATS)),
        ],
        key=lambda line: line.split()[1],
    )
    assert block(lines, RECIPIENTS) == sorted(
        [*(f"- {key} {key}" for key in nine(ANTS)), *(f"+ {key} {key}" for key in nine(CATS))],
        key=lambda line: line.split()[1],
    )
    assert block(lines, DOMAINS) == ["+ cats.example mail.example"]
    assert block(lines, ALIASES) == [
        f"+ {key} {value}"
        for key, value in sorted(zip(nine("cats@mail.example"), nine(CATS), strict=True))
    ]
    assert block(lines, str(site.hosts)) == ["+ two 127.0.0.9"]
    assert block(lines, "postfix") == ["reload"]
    # The sync then makes exactly these changes.
    assert site.once() == ""
    assert site.installed(ROUTES) == {
        **dict.fromkeys([*nine(BEES), *nine(CATS)], TWO),
        **dict.fromkeys(nine(ANTS), ONE),
    }
    assert dry_run(site) == []


def test_hint_before_the_first_install_makes_the_maps_before_main_cf_names_them(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    """Postfix defers all mail while main.cf names a map that does not exist."""
    idle_postfix.postconf(transport_maps="")
    done = site.call("--once", "--dry-run")
    [hint] = (line for line in done.stderr.splitlines() if " postconf " in line)
    assert f"postfix-sync -c {site.config} --once && postconf " in hint
    assert block(done.stdout.splitlines(), ALIASES) == ["(built; empty)"]


def test_dry_run_prints_nothing_if_in_sync(site: Site) -> None:
    assert site.once() == ""
    assert dry_run(site) == []


def test_dry_run_reports_an_interrupted_sync_and_changes_nothing(site: Site) -> None:
    assert site.once() == ""
    staging = site.maps / ".staging"
    staging.mkdir()
    (site.maps / ".reload").touch()
    (staging / DOMAINS).write_bytes(b"half")
    (staging / f"{DOMAINS}.db").write_bytes(b"half")
    (site.hosts.parent / ".hosts.postfix-sync").write_bytes(b"half")
    lines = dry_run(site)
    assert block(lines, DOMAINS) == ["(built again; its entries stay as they are)"]
    assert block(lines, "postfix") == ["reload"]
    assert site.once() == ""
    assert site.stray() == set()
    assert dry_run(site) == []


def test_dry_run_refuses_a_bad_source(site: Site) -> None:
    assert site.once() == ""
    site.files.put(ROUTES, "ants")
    before = tree(site.directory)
    done = site.call("--once", "--dry-run")
    assert done.returncode == 65
    assert "truncated" in done.stderr
    assert done.stdout == ""
    assert tree(site.directory) == before
