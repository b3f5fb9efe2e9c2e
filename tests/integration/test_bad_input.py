"""Broken, hostile and unreadable sources are refused as a whole, and Postfix is not affected.

Each test replaces the files of an installed source with bad ones. The sync refuses them with the
documented exit status, one line that names the file (and the line, if one is wrong), and one hint.
It changes nothing in the map directory, and accepts the source again once it is good.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES
from tests.parts.common import public_directory
from tests.parts.disk import tree
from tests.parts.mailman_files import domains_text, lmtp_text, nine, vmap_text
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = [pytest.mark.attack, pytest.mark.slow, pytest.mark.usefixtures("root")]

LISTS = ("ants@lists.example.net", "bees@lists.example.net", "cats@two.example.net")
HOP = "lmtp:[127.0.0.1]:8024"

GOOD = lmtp_text(LISTS, HOP)
GOOD_DOMAINS = domains_text({name: name for name in ("lists.example.net", "two.example.net")})
HEADER_LINES = 4
FIRST = HEADER_LINES + 1
"""Line number of the first entry in postfix_lmtp."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """A site whose main.cf names its maps, so a good sync prints nothing."""
    with public_directory() as directory:
        postfix = PostfixInstance(
            directory / "postfix", main_cf=mailman_parameters(directory / "maps", "lmdb")
        )
        made = Site(directory, postfix.config_directory)
        made.hosts.write_bytes(b"127.0.0.1 localhost\n")
        yield made


def install(site: Site, *lists: str) -> Site:
    """Reset the site to the state in which each test begins, whatever the previous test left."""
    site.configure()
    shutil.rmtree(site.files.directory, ignore_errors=True)
    site.files.write(*lists)
    assert site.once("--force") == ""
    return site


@pytest.fixture
def site(shared: Site) -> Site:
    """A site with the good set installed."""
    return install(shared, *LISTS)


def write_good(site: Site, add: str = "") -> None:
    """Write the good lists, and the list `add` if it is given."""
    site.files.write(*LISTS, *([add] if add else []))


def assert_refused(
    site: Site, status: int, *said: str, arguments: tuple[str, ...] = (), hinted: str = ""
) -> None:
    """Check that a sync refuses the source with `status` and these words, and changes nothing."""
    before = tree(site.maps, site.hosts)
    done = site.call("--once", *arguments)
    assert done.returncode == status, done
    assert done.stdout == ""
    message, hint, *more = done.stderr.splitlines()
    assert not more, done.stderr
    assert message.startswith("postfix-sync: error: ")
    assert hint.startswith("postfix-sync: hint: ")
    assert len(hint) > len("postfix-sync: hint: ")
    assert hinted in hint
    for words in said:
        assert words in message, words
    assert len(message) < 700
    assert message.isprintable(), "what a file contains is quoted escaped"
    assert tree(site.maps, site.hosts) == before


def assert_converges(site: Site) -> None:
    """Check that a sync accepts the good lists and one more."""
    write_good(site, add="dogs@two.example.net")
    assert site.once() == ""
    expected = {key for name in (*LISTS, "dogs@two.example.net") for key in nine(name)}
    assert site.installed(ROUTES).keys() == expected
    assert site.installed(RECIPIENTS).keys() == expected
    assert site.stray() == set()


@dataclass(frozen=True)
class Bad:
    """A file that is not acceptable; `line` is the wrong line, 0 if it is not a single one."""

    content: str | bytes
    line: int
    reason: str
    file: str = ROUTES


def with_line(line: str | bytes) -> bytes:
    """Return a good postfix_lmtp with one more line after the first."""
    lines = GOOD.encode().split(b"\n")
    lines.insert(FIRST, line.encode() if isinstance(line, str) else line)
    return b"\n".join(lines)


def to(hop: str) -> str:
    """Return a good postfix_lmtp whose last list has another next hop."""
    return lmtp_text(LISTS[:2], HOP) + lmtp_text(LISTS[2:], hop)


SECOND = FIRST + 1
LAST_LIST = lmtp_text(LISTS[:2], HOP).count("\n") + FIRST
REGEX = lmtp_text(LISTS, HOP, regex=True)

BAD = {
    "cut in a line": Bad(GOOD[:900], GOOD[:900].count("\n") + 1, "truncated"),
    "cut behind a line": Bad(GOOD[: GOOD.index("ants-owner")], 0, "all its 9 addresses"),
    "cut behind a list": Bad(lmtp_text(LISTS[:2], HOP), 0, "half-updated"),
    "domain missing": Bad(
        domains_text({"lists.example.net": "lists.example.net"}), 0, "half-updated", DOMAINS
    ),
    "domain without lists": Bad(
        GOOD_DOMAINS + "three.example.net three.example.net\n", 0, "half-updated", DOMAINS
    ),
    "no bytes in postfix_lmtp": Bad(b"", 0, "half-updated"),
    "no bytes in postfix_vmap": Bad(b"", 1, "empty", ALIASES),
    "alias without its list": Bad(
        vmap_text({"owls@mail.example.net": "owls@lists.example.net"}), 0, "half-updated", ALIASES
    ),
    "alias to another list": Bad(
        vmap_text({"ants@mail.example.net": "bees@lists.example.net"}),
        0,
        "not an address of the same list",
        ALIASES,
    ),
    "no value": Bad(with_line("emus@lists.example.net"), SECOND, "not a key, blanks and a value"),
    "begins with a blank": Bad(with_line(f" emus@x.example {HOP}"), SECOND, "begins with a blank"),
    "a key with two values": Bad(
        with_line("ants@lists.example.net lmtp:[127.0.0.1]:8025"), SECOND, "duplicate key"
    ),
    "CRLF": Bad(GOOD.replace("\n", "\r\n"), 1, "carriage return"),
    "CR in one line": Bad(with_line(f"emus@x.example {HOP}\r"), SECOND, "carriage return"),
    "BOM": Bad(b"\xef\xbb\xbf" + GOOD.encode(), 1, "byte order mark"),
    "NUL": Bad(with_line(b"emus\0@x.example lmtp:[127.0.0.1]:8024"), SECOND, "NUL"),
    "not UTF-8": Bad(with_line(b"em\xffus@x.example lmtp:[127.0.0.1]:8024"), SECOND, "UTF-8"),
    "1 MiB line": Bad(with_line("e" * 2**20), SECOND, f"{2**20} bytes"),
    "key without a domain": Bad(with_line(f"emus {HOP}"), SECOND, "not a full address"),
    "key with an empty domain": Bad(with_line(f"emus@ {HOP}"), SECOND, "domain is missing"),
    "star": Bad(with_line(f"* {HOP}"), SECOND, "not a full address"),
    "bare domain": Bad(with_line(f"x.example {HOP}"), SECOND, "not a full address"),
    ".domain": Bad(with_line(f".x.example {HOP}"), SECOND, "not a full address"),
    "@domain": Bad(with_line(f"@x.example {HOP}"), SECOND, "not a local part"),
    ".domain of domains": Bad(
        GOOD_DOMAINS + ".x.example x.example\n",
        GOOD_DOMAINS.count("\n") + 1,
        "not a mail domain",
        DOMAINS,
    ),
    "escape sequence": Bad(with_line(f"\x1b[31m\u202e@x.example {HOP}"), SECOND, "\\x1b[31m"),
    "smtp:": Bad(to("smtp:[127.0.0.1]:8024"), LAST_LIST, "is not a next hop of the form"),
    "relay to a name": Bad(to("lmtp:127.0.0.1:8024"), LAST_LIST, "is not a next hop of the form"),
    "no bracket": Bad(to("lmtp:[127.0.0.1:8024"), LAST_LIST, "is not a next hop of the form"),
    "0.0.0.0": Bad(to("lmtp:[0.0.0.0]:8024"), LAST_LIST, "an address to listen on"),
    "::": Bad(to("lmtp:[::]:8024"), LAST_LIST, "an address to listen on"),
    "no host": Bad(to("lmtp:[]:8024"), LAST_LIST, "names no host"),
    "two hosts": Bad(to("lmtp:[172.17.0.3 172.18.0.3]:8024"), LAST_LIST, "more than one host"),
    "port 0": Bad(to("lmtp:[127.0.0.1]:0"), LAST_LIST, "not between 1 and 65535"),
    "port 65536": Bad(to("lmtp:[127.0.0.1]:65536"), LAST_LIST, "not between 1 and 65535"),
    "regex among plain": Bad(
        with_line(f"/^emus@x\\.example$/ {HOP}"), SECOND, "plain keys and regular expressions"
    ),
    "plain among regex": Bad(
        REGEX + f"emus@x.example {HOP}\n",
        REGEX.count("\n") + 1,
        "plain keys and regular expressions",
    ),
    "a regex of one's own": Bad(
        REGEX.replace("/^ants@", "/^.*@", 1), FIRST, "not a regular expression that Mailman writes"
    ),
    "an extension of one's own": Bad(
        REGEX.replace("/^ants@", "/^ants(\\+.*)?@", 1), FIRST, "only -bounces and -confirm"
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_content_is_refused_with_its_file_and_line(site: Site, bad: Bad) -> None:
    site.files.put(bad.file, bad.content)
    place = f"{site.files.directory / bad.file}"
    assert_refused(site, 65, f"{place}:{bad.line}: " if bad.line else place, bad.reason)
    # --force does not make invalid content valid.
    assert_refused(site, 65, bad.reason, arguments=("--force",))
    (site.files.directory / ALIASES).unlink(missing_ok=True)
    assert_converges(site)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


def _link_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


SPECIAL = {
    "link": (_link, "a symbolic link"),
    "FIFO": (_fifo, "a FIFO"),
    "directory": (_directory, "a directory"),
    "device": (_device, "a device"),
    "link to a device": (_link_to_device, "a symbolic link"),
}


@pytest.mark.parametrize("file", [ROUTES, DOMAINS, ALIASES])
@pytest.mark.parametrize(("make", "kind"), SPECIAL.values(), ids=SPECIAL.keys())
def test_file_that_is_not_regular_is_refused(
    site: Site, make: Callable[[Path], None], kind: str, file: str
) -> None:
    path = site.files.directory / file
    if file == ALIASES:
        site.files.put(ALIASES, "# none\n")
    make(path)
    assert_refused(site, 65, f"{path}: is {kind}, not a regular file")
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    assert_converges(site)


def test_socket_is_refused(site: Site) -> None:
    path = site.files.directory / ROUTES
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o666)
    assert_refused(site, 65, f"{path}: is a socket or a device, not a regular file")
    assert_converges(site)


def test_file_larger_than_max_size_is_refused(site: Site) -> None:
    size = len(GOOD.encode())
    site.configure(guard={"max_size": f"{size - 1}B"})
    path = site.files.directory / ROUTES
    assert_refused(site, 65, f"{path}: has {size} bytes, more than guard.max_size ({size - 1})")
    site.configure(guard={"max_size": "1MiB"})
    assert_converges(site)


def test_sparse_file_of_a_terabyte_is_refused_at_once(site: Site) -> None:
    path = site.files.directory / ROUTES
    os.truncate(path, 2**40)
    assert_refused(site, 65, f"{path}: has {2**40} bytes")
    assert_converges(site)


@pytest.mark.parametrize("file", [ROUTES, DOMAINS])
def test_file_of_mode_0_is_refused_even_for_root(site: Site, file: str) -> None:
    path = site.files.directory / file
    path.chmod(0)
    assert_refused(site, 77, str(path), "user root (0)", "owner root (0), mode 0000")
    assert_converges(site)


# Import as root, first: only root may be able to read the interpreter's own files.
AS_NOBODY = """
import importlib, os, pkgutil, sys
import asyncio.subprocess, concurrent.futures.thread, encodings.idna
import postfix_sync.cli.command_line
for module in pkgutil.walk_packages(postfix_sync.__path__, "postfix_sync."):
    if module.name != "postfix_sync.__main__":
        importlib.import_module(module.name)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sys.exit(postfix_sync.cli.command_line.main(sys.argv[1:]))
"""
NOBODY = 65534


def once_as_nobody(site: Site) -> subprocess.CompletedProcess[str]:
    """Run one sync as a user without any privilege."""
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "-c", str(site.config), "--once"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def give(user: int, *paths: Path) -> None:
    """Make a user the owner of directories and of all files in them."""
    for path in paths:
        for entry in (path, *path.rglob("*")):
            os.chown(entry, user, user)


@pytest.fixture
def mine(site: Site) -> Iterator[Site]:
    """The site, with maps and state owned by the user nobody."""
    give(NOBODY, site.maps, site.state)
    yield site
    give(0, site.maps, site.state)
    site.files.directory.chmod(0o755)


def test_unreadable_file_is_reported_with_its_owner_and_mode_and_the_user(mine: Site) -> None:
    site = mine
    write_good(site, add="dogs@two.example.net")
    for path in site.files.directory.iterdir():
        os.chown(path, 1, 1)
        path.chmod(0o600)
    before = tree(site.maps)
    done = once_as_nobody(site)
    assert done.returncode == 77, done
    message, hint = done.stderr.splitlines()
    path = site.files.directory / ROUTES
    assert f"{path}: user nobody (65534) is not permitted to read it" in message
    assert "owner daemon (1), mode 0600" in message
    assert str(path) in hint
    assert tree(site.maps) == before

    for path in site.files.directory.iterdir():
        path.chmod(0o644)
    done = once_as_nobody(site)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(site.installed(ROUTES)) == 9 * 4


def test_directory_that_denies_access_is_named(mine: Site) -> None:
    site = mine
    site.files.directory.chmod(0o700)
    done = once_as_nobody(site)
    assert done.returncode == 77, done
    message, hint = done.stderr.splitlines()
    assert f"{site.files.directory} has owner root (0), mode 0700" in message
    assert hint.endswith(str(site.files.directory))


@pytest.fixture
def many(shared: Site) -> Site:
    """A site with forty lists."""
    return install(shared, *numbered(40))


def numbered(count: int) -> list[str]:
    """Return the names of `count` lists."""
    return [f"list{number}@lists.example.net" for number in range(count)]


def lists_in(site: Site) -> int:
    """Return the number of accepted lists."""
    return len(site.installed(RECIPIENTS)) // 9


def test_source_without_lists_is_refused_until_forced(many: Site) -> None:
    many.files.write()
    forced = f"removed: postfix-sync -c {many.config} --once --force"
    assert_refused(many, 65, "names no list at all, 40 are installed", hinted=forced)
    assert many.once("--force") == ""
    assert lists_in(many) == 0
    assert many.installed(DOMAINS) == {}


def test_source_without_lists_is_accepted_if_allow_empty_is_set(many: Site) -> None:
    many.configure(guard={"allow_empty": True})
    many.files.write()
    assert many.once() == ""
    assert lists_in(many) == 0


def test_source_without_lists_is_accepted_if_none_is_installed(shared: Site) -> None:
    install(shared)
    assert shared.once() == ""
    assert lists_in(shared) == 0


def test_removal_of_more_than_max_removed_is_refused_until_forced(many: Site) -> None:
    many.files.write(*numbered(19))
    forced = f"removed: postfix-sync -c {many.config} --once --force"
    assert_refused(many, 65, "21 of 40 lists are gone", "guard.max_removed (50%)", hinted=forced)
    assert many.once("--force") == ""
    assert lists_in(many) == 19


def test_removal_of_exactly_max_removed_is_accepted(many: Site) -> None:
    many.files.write(*numbered(20))
    assert many.once() == ""
    assert lists_in(many) == 20


def test_max_removed_is_read_from_the_configuration(many: Site) -> None:
    many.configure(guard={"max_removed": "30%"})
    many.files.write(*numbered(27))
    assert_refused(many, 65, "13 of 40 lists are gone", "(30%)")
    many.configure(guard={"max_removed": "100%"})
    many.files.write(*numbered(1))
    assert many.once() == ""
    assert lists_in(many) == 1


def test_lists_replaced_by_others_count_as_removed(many: Site) -> None:
    many.files.write(*(f"other{number}@lists.example.net" for number in range(40)))
    assert_refused(many, 65, "40 of 40 lists are gone")


def test_ten_lists_may_be_removed_whatever_max_removed_is(many: Site) -> None:
    many.configure(guard={"max_removed": "0%"})
    many.files.write(*numbered(29))
    assert_refused(many, 65, "11 of 40 lists are gone", "(0%)")
    many.files.write(*numbered(30))
    assert many.once() == ""
    assert lists_in(many) == 30


def test_guards_still_apply_after_a_refusal(many: Site) -> None:
    """Check that the next sync does not compare the source with the refused lists."""
    many.files.write(*numbered(5))
    for _ in range(3):
        assert_refused(many, 65, "35 of 40 lists are gone")


def confine(site: Site, **source: object) -> None:
    """Add keys to the configuration of the source."""
    path = str(site.files.directory)
    site.configure(sources=[{"name": "lists", "path": path, **source}])


def test_list_outside_the_domains_of_its_source_is_refused(shared: Site) -> None:
    site = install(shared, *LISTS[:2])
    confine(site, domains=["Lists.Example.NET"])
    assert site.once() == ""
    write_good(site)
    path = site.files.directory / DOMAINS
    before = tree(site.maps)
    said = site.once(expect=65)
    assert re.search(
        rf'^postfix-sync: error: {path}:\d+: "two\.example\.net" is not among the domains that',
        said,
    )
    assert tree(site.maps) == before
    assert site.installed(DOMAINS).keys() == {"lists.example.net"}


def test_alias_outside_the_domains_of_its_source_is_refused(shared: Site) -> None:
    site = install(shared, LISTS[0])
    confine(site, domains=["lists.example.net"])
    site.files.write(LISTS[0], aliases={"ants@bank.example": "ants@lists.example.net"})
    before = tree(site.maps)
    assert '"bank.example" is not among the domains' in site.once(expect=65)
    assert tree(site.maps) == before


@pytest.mark.parametrize(
    "hop", ["lmtp:[0.0.0.0]:8024", "lmtp:[::]:8024", "lmtp:[172.17.0.3 172.18.0.3]:8024"]
)
def test_configured_destination_replaces_next_hop_that_mailman_wrote(site: Site, hop: str) -> None:
    site.files.write(*LISTS, hop=hop)
    site.once(expect=65)
    confine(site, destination="lmtp:[10.9.8.7]:2424")
    assert site.once() == ""
    routes, accepted = site.installed(ROUTES), site.installed(RECIPIENTS)
    assert {routes[key] for key in accepted} == {"lmtp:[10.9.8.7]:2424"}
