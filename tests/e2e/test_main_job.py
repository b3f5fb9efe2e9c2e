"""The main job, with nothing but real parts: Mailman, Postfix, and the postfix-sync daemon between.

A list that is created gets mail, one that is removed is refused, and nobody does anything for it.
Mailman's LMTP server is known by a host name that only postfix-sync makes known to Postfix, so each
delivered message also shows that the hosts file and its copy in the chroot were in time.
"""

import json
import smtplib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postfix_sync.store.state_directory import RETIREMENT_NAME
from tests.conftest import Measured
from tests.e2e.conftest import need_map_type, need_real_parts
from tests.parts.common import PATIENCE, public_directory, wait_for
from tests.parts.load import Sent
from tests.scenarios.world import World

UNKNOWN = "5.1.1"
"""The enhanced code of a refusal for want of such a recipient."""

AGAIN = {"hash": 10, "lmdb": 2}
"""How often Mailman writes its files anew; each time takes seconds, most of them Mailman's own."""

State = dict[Path, tuple[int, int]]


@pytest.fixture(scope="module", params=["hash", "lmdb"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One for all tests that need nothing special; each has lists of its own."""
    need_real_parts()
    with public_directory() as directory:
        made = World(
            directory,
            map_type=request.param,
            # Where an alias_domain is used, the mail host's addresses are all virtual ones.
            main_cf={"virtual_alias_domains": "people.example.org"},
        )
        need_map_type(made.postfix, request.param)
        with made:
            yield made


def test_created_list_gets_mail(world: World, measured: Measured) -> None:
    """From `create` to the message in Mailman, by a sender who tries again at once."""
    before = len(world.daemon.messages)
    begin = time.monotonic()
    world.mailman.create_list("ants@lists.example.net")
    created = time.monotonic()
    sent = world.wait_until_accepted("ants@lists.example.net")
    accepted = time.monotonic()
    received = world.wait_until_received(sent)
    end = time.monotonic()

    assert received.list_id == "ants.lists.example.net"
    assert received.message["To"] == "ants@lists.example.net"
    world.daemon.wait_for("lists: +1 list: ants@lists.example.net")
    said = world.daemon.messages[before:]
    assert [line for line in said if "list: " in line or "lists: " in line.partition(": ")[2]] == [
        "lists: +1 list: ants@lists.example.net"
    ]
    seconds = {
        "create": created - begin,
        "first_accepted": accepted - created,
        "first_delivered": end - created,
    }
    name = f"{world.site.map_type}, created to delivered"
    measured(
        name,
        {key: round(value, 3) for key, value in seconds.items()},
        f"{name}: created by REST in {seconds['create']:.2f} s; from then to the first message"
        f" accepted {seconds['first_accepted']:.2f} s, in Mailman"
        f" {seconds['first_delivered']:.2f} s",
    )


def test_mailman_is_known_by_the_hosts_file_alone(world: World) -> None:
    """The host name stands in the private hosts file and in its copy, and nowhere else."""
    sent = create_and_send(world, "wasps@lists.example.net")
    world.wait_until_received(sent)
    entry = f"{world.mailman.lmtp_address}\t{world.mailman.lmtp_host}\n"
    assert entry in world.site.hosts.read_text()
    assert world.postfix.chroot_hosts.read_bytes() == world.site.hosts.read_bytes()
    assert world.mailman.lmtp_host not in Path("/etc/hosts").read_text()
    relays = {one.relay for one in world.postfix.outcomes() if one.recipient == sent.recipient}
    endpoint = f"[{world.mailman.lmtp_address}]:{world.mailman.lmtp_port}"
    assert relays == {f"{world.mailman.lmtp_host}{endpoint}"}


def test_told_means_live(world: World) -> None:
    """When the log tells of a list, in a domain that is new as well, its mail is accepted."""
    world.mailman.create_list("moths@moths.example.net")
    world.daemon.wait_for("lists: +1 list: moths@moths.example.net")
    assert world.send("moths@moths.example.net").last.code == 250


def test_second_list_and_its_subaddresses(world: World) -> None:
    """A second list in a domain that is known: one line, and nothing about the first one."""
    create_and_send(world, "first@lists.example.net")
    world.daemon.look()  # all of it is told
    wait_for(lambda: not retiring(world), RETIRED, "the removal of earlier lists' routes")
    before = len(world.daemon.messages)
    world.mailman.create_list("second@lists.example.net")
    for recipient, subaddress in (
        ("second@lists.example.net", ""),
        ("second-request@lists.example.net", "request"),
        ("second-bounces+someone=example.com@lists.example.net", "bounces"),
    ):
        sent = world.wait_until_accepted(recipient)
        assert world.wait_until_received(sent).subaddress == subaddress
    world.daemon.wait_for("lists: +1 list: second@lists.example.net")
    said = world.daemon.messages[before:]
    assert [line for line in said if line != "postfix: reloaded"] == [
        "lists: +1 list: second@lists.example.net"
    ]


def test_unknown_address_is_refused(world: World) -> None:
    """In a domain of lists: refused by smtpd, before there is a message."""
    create_and_send(world, "known@lists.example.net")
    refused = world.send("nobody@lists.example.net").last
    assert (refused.phase, refused.code, refused.text[:5]) == ("rcpt", 550, UNKNOWN)


def test_removed_list_is_refused(world: World) -> None:
    """It had mail; after its removal smtpd refuses it, and the other list stays."""
    create_and_send(world, "stays@lists.example.net")
    sent = create_and_send(world, "goes@lists.example.net")
    world.wait_until_received(sent)
    world.daemon.look()  # all of it is told
    wait_for(lambda: not retiring(world), RETIRED, "the removal of earlier lists' routes")
    before = len(world.daemon.messages)
    world.mailman.remove_list("goes@lists.example.net")
    world.daemon.wait_for("lists: -1 list: goes@lists.example.net")
    refused = world.send("goes@lists.example.net").last
    assert (refused.phase, refused.code, refused.text[:5]) == ("rcpt", 550, UNKNOWN)
    assert world.daemon.messages[before:] == ["lists: -1 list: goes@lists.example.net"]
    assert world.site.lookup("postfix_recipients", ["goes@lists.example.net"]) == {}
    world.wait_until_received(world.send("stays@lists.example.net"))


def test_mailman_stopped_and_started(world: World) -> None:
    """The probe says down, with the phase, and up again; mail meanwhile waits for just that."""
    create_and_send(world, "patient@lists.example.net")
    assert world.wait_until_destination(up=True)["phase"] == "rcpt"
    world.mailman.stop()
    try:
        # A probe that meets Mailman while it ends may come further.
        wait_for(
            lambda: world.destination()["phase"] == "connect", PATIENCE, "a refused connection"
        )
        down = world.wait_until_destination(up=False)  # at the second failure
        assert (down["phase"], down["error"]) == ("connect", "Connection refused")
        sent = world.send("patient@lists.example.net")
        assert sent.accepted
    finally:
        world.mailman.start()
    up = world.wait_until_destination(up=True)
    assert (up["phase"], up["reply"][:3], up["error"]) == ("rcpt", "250", "")
    destination = f"destination {world.mailman.lmtp_host}:{world.mailman.lmtp_port}"
    world.wait_until_received(sent)  # nobody flushes the queue
    said = [line.partition(destination)[2] for line in world.daemon.messages if destination in line]
    told = [line.split()[1] for line in said if "retrying" not in line]
    assert told == ["down:", "up"]


def test_dots_anywhere_in_a_list_name(world: World) -> None:
    """Mailman makes such lists; Postfix quotes them where it tells of its queue."""
    names = ["an..ts@lists.example.net", "ants.@lists.example.net", ".ants@lists.example.net"]
    for name in names:
        sent = create_and_send(world, name)
        assert world.wait_until_received(sent).list_id == name.replace("@", ".")
    assert world.wait_until_destination(up=True)
    world.mailman.stop()
    try:
        world.wait_until_destination(up=False)
        waits = [world.send(name) for name in names]
        assert all(sent.accepted for sent in waits)
        wait_for(
            lambda: [one["queue_name"] for one in world.postfix.queue()] == ["deferred"] * 3,
            PATIENCE,
            "deferred mail",
        )
    finally:
        world.mailman.start()
    for sent in waits:
        world.wait_until_received(sent)  # nobody flushes the queue


def test_alias_domain(world: World) -> None:
    """Mail to a list in a domain with an alias_domain goes by postfix_vmap, and arrives."""
    world.mailman.add_domain("people.example.org", alias_domain="alias.example.net")
    sent = create_and_send(world, "cats@people.example.org")
    assert world.wait_until_received(sent).list_id == "cats.people.example.org"
    assert world.site.installed("postfix_vmap")["cats@people.example.org"] == (
        "cats@alias.example.net"
    )
    outcomes = [one for one in world.postfix.outcomes() if one.recipient.startswith("cats@")]
    assert {(one.recipient, one.status) for one in outcomes} == {("cats@alias.example.net", "sent")}


def test_alias_domain_that_mailman_takes_for_another_domain_is_refused(world: World) -> None:
    """Mailman's LMTP server knows lists there of one domain only; the hint's change helps."""
    mailman = world.mailman
    mailman.add_domain("sales.example.org", alias_domain="shared.example.net")
    mailman.add_domain("team.example.org", alias_domain="shared.example.net")
    mailman.create_list("gnus@sales.example.org")
    mailman.create_list("hens@team.example.org")
    world.daemon.wait_for(
        '"shared.example.net" is the alias_domain of both "sales.example.org" and'
    )
    assert takes(world, "gnus@shared.example.net")
    assert not takes(world, "hens@shared.example.net")
    mailman.set_alias_domain("team.example.org", "other.example.net")
    mailman.regenerate_aliases()
    alias = {"hens@team.example.org": "hens@other.example.net"}
    wait_for(lambda: world.site.lookup("postfix_vmap", list(alias)) == alias, PATIENCE, "its alias")

    mailman.create_list("ibis@other.example.net")
    world.daemon.wait_for(
        '"other.example.net" has lists of its own and is the alias_domain of "team'
    )
    assert takes(world, "hens@other.example.net")
    assert not takes(world, "ibis@other.example.net")
    mailman.set_alias_domain("team.example.org", "")
    mailman.regenerate_aliases()
    assert takes(world, "ibis@other.example.net")
    wait_for(lambda: not world.site.lookup("postfix_vmap", list(alias)), PATIENCE, "no alias")
    for name in ("hens@team.example.org", "ibis@other.example.net"):
        world.wait_until_received(world.wait_until_accepted(name))


def takes(world: World, recipient: str) -> bool:
    """Whether Mailman's LMTP server accepts RCPT for this address."""
    with smtplib.LMTP(world.mailman.lmtp_address, world.mailman.lmtp_port, timeout=60) as lmtp:
        lmtp.ehlo_or_helo_if_needed()
        lmtp.mail("")
        code, _ = lmtp.rcpt(recipient)
        return code == 250


RETIRED = 180.0
"""Seconds. A minute after a list was removed, its routes are, if nothing needs them (retire.py)."""


def retiring(world: World) -> bool:
    """Whether routes of removed lists are still to be removed."""
    record = world.site.state / RETIREMENT_NAME
    return record.exists() and bool(json.loads(record.read_text())["routes"])


def test_mailman_aliases_changes_nothing(world: World) -> None:
    """`mailman aliases` writes all its files anew, again and again, and nothing happens here."""
    create_and_send(world, "steady@lists.example.net")
    world.daemon.wait_for("lists: +1 list: steady@lists.example.net")
    world.daemon.look()  # all of it is told
    wait_for(lambda: not retiring(world), RETIRED, "the removal of earlier lists' routes")
    before = (state_of(world), world.postfix.reloads, world.daemon.messages)
    for _ in range(AGAIN[world.site.map_type]):
        written = (world.mailman.data / "postfix_lmtp").stat()
        seen = world.daemon.passes
        world.mailman.regenerate_aliases()
        assert (world.mailman.data / "postfix_lmtp").stat().st_mtime_ns > written.st_mtime_ns
        world.daemon.wait_for_passes(seen + 1)
    assert (state_of(world), world.postfix.reloads, world.daemon.messages) == before


def test_regex_tables() -> None:
    """What docker-mailman writes: the same maps, and mail also to a bounce address in VERP form."""
    need_real_parts()
    with public_directory() as directory, World(directory, map_type="hash", table="regex") as world:
        sent = create_and_send(world, "big.ants@lists.example.net")
        assert world.wait_until_received(sent).list_id == "big.ants.lists.example.net"
        assert (
            r"/^big\.ants@lists\.example\.net$/"
            in (world.mailman.data / "postfix_lmtp").read_text()
        )
        assert len(world.site.installed("postfix_lmtp")) == 9
        verp = world.send("big.ants-bounces+someone=example.com@lists.example.net")
        assert world.wait_until_received(verp).subaddress == "bounces"
        refused = world.send("bigXants@lists.example.net").last
        assert (refused.phase, refused.code) == ("rcpt", 550)
        world.mailman.remove_list("big.ants@lists.example.net")
        # The last list of all: the guard asks whether that was meant, and Postfix keeps it.
        wait_for(lambda: world.site.status()["sources"]["lists"]["error"], PATIENCE, "a word")
        assert world.send("big.ants@lists.example.net").accepted


def test_domain_in_mydestination() -> None:
    """Lists in Postfix's own domain: local_recipient_maps names them, relay_domains does not."""
    need_real_parts()
    with public_directory() as directory:
        recipients = f"hash:{directory / 'maps/postfix_recipients'}"
        main_cf = {
            "mydestination": "localhost, example.net",
            "relay_domains": "",
            "relay_recipient_maps": "",
            "local_recipient_maps": f"inline:{{postmaster=ok}}, {recipients}",
        }
        with World(directory, map_type="hash", main_cf=main_cf) as world:
            before = len(world.daemon.messages)
            sent = create_and_send(world, "staff@example.net")
            assert world.wait_until_received(sent).list_id == "staff.example.net"
            refused = world.send("nobody@example.net").last
            assert (refused.phase, refused.code, refused.text[:5]) == ("rcpt", 550, UNKNOWN)
            assert [line for line in world.daemon.messages[before:] if "main.cf" in line] == []


def create_and_send(world: World, name: str) -> Sent:
    """Create a list, and send it a message as soon as that is accepted."""
    world.mailman.create_list(name)
    return world.wait_until_accepted(name)


def state_of(world: World) -> State:
    """Inode and time of change of all that a pass may write but for its own status."""
    paths = [world.site.maps, *world.site.maps.iterdir()]
    paths += [world.site.hosts, world.postfix.chroot_hosts]
    return {path: ((found := path.stat()).st_ino, found.st_mtime_ns) for path in paths}
