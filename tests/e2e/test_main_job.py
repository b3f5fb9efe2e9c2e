"""The main job, with only real parts: Mailman, Postfix, and the postfix-sync daemon between them.

A list that is created gets mail, and mail to a removed list is refused, without any action of an
operator. Only postfix-sync's hosts file has the host name of Mailman's LMTP server, so each
delivered message also shows that the hosts file and its copy in the chroot were written in time.
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
"""The enhanced status code of a refusal of an unknown recipient."""

AGAIN = {"hash": 10, "lmdb": 2}
"""How often Mailman rewrites its files; each time takes seconds, most of them in Mailman."""

State = dict[Path, tuple[int, int]]


@pytest.fixture(scope="module", params=["hash", "lmdb"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One World for all tests that need no special settings; each test has lists of its own."""
    need_real_parts()
    with public_directory() as directory:
        made = World(
            directory,
            map_type=request.param,
            # All addresses of a mail host with an alias_domain are virtual ones.
            main_cf={"virtual_alias_domains": "people.example.org"},
        )
        need_map_type(made.postfix, request.param)
        with made:
            yield made


def test_created_list_gets_mail(world: World, measured: Measured) -> None:
    """A sender who retries at once; the test measures the time until Mailman has the message."""
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


def test_host_name_of_mailman_resolves_only_by_the_private_hosts_file(world: World) -> None:
    """The private hosts file and its copy in the chroot have the host name; /etc/hosts does not."""
    sent = create_and_send(world, "wasps@lists.example.net")
    world.wait_until_received(sent)
    entry = f"{world.mailman.lmtp_address}\t{world.mailman.lmtp_host}\n"
    assert entry in world.site.hosts.read_text()
    assert world.postfix.chroot_hosts.read_bytes() == world.site.hosts.read_bytes()
    assert world.mailman.lmtp_host not in Path("/etc/hosts").read_text()
    endpoint = f"[{world.mailman.lmtp_address}]:{world.mailman.lmtp_port}"

    def relays() -> set[str]:
        tries = [entry for entry in world.postfix.outcomes() if entry.recipient == sent.recipient]
        return {outcome.relay for outcome in tries}

    wait_for(relays, 10, "the delivery in the log, which comes after Mailman has the message")
    assert relays() == {f"{world.mailman.lmtp_host}{endpoint}"}


def test_list_is_accepted_once_the_log_reports_it(world: World) -> None:
    """The list's domain is new as well."""
    world.mailman.create_list("moths@moths.example.net")
    world.daemon.wait_for("lists: +1 list: moths@moths.example.net")
    assert world.send("moths@moths.example.net").last.code == 250


def test_second_list_of_a_domain_gets_mail_and_logs_one_line(world: World) -> None:
    """Mail to subaddresses arrives too, and the log does not mention the first list again."""
    create_and_send(world, "first@lists.example.net")
    world.daemon.look()  # until all syncs so far are logged
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


def test_unknown_address_in_a_list_domain_is_refused(world: World) -> None:
    """smtpd refuses it at RCPT, before the message is sent."""
    create_and_send(world, "known@lists.example.net")
    refused = world.send("nobody@lists.example.net").last
    assert (refused.phase, refused.code, refused.text[:5]) == ("rcpt", 550, UNKNOWN)


def test_removed_list_is_refused(world: World) -> None:
    """The list had mail before; the other list of its domain is still accepted."""
    create_and_send(world, "stays@lists.example.net")
    sent = create_and_send(world, "goes@lists.example.net")
    world.wait_until_received(sent)
    world.daemon.look()  # until all syncs so far are logged
    wait_for(lambda: not retiring(world), RETIRED, "the removal of earlier lists' routes")
    before = len(world.daemon.messages)
    world.mailman.remove_list("goes@lists.example.net")
    world.daemon.wait_for("lists: -1 list: goes@lists.example.net")
    refused = world.send("goes@lists.example.net").last
    assert (refused.phase, refused.code, refused.text[:5]) == ("rcpt", 550, UNKNOWN)
    assert world.daemon.messages[before:] == ["lists: -1 list: goes@lists.example.net"]
    assert world.site.lookup("postfix_recipients", ["goes@lists.example.net"]) == {}
    world.wait_until_received(world.send("stays@lists.example.net"))


def test_mail_deferred_while_mailman_is_down_is_delivered_when_it_is_up(world: World) -> None:
    """The probe reports down, with the phase, and then up, which flushes the deferred mail."""
    create_and_send(world, "patient@lists.example.net")
    assert world.wait_until_destination(up=True)["phase"] == "rcpt"
    world.mailman.stop()
    try:
        # A probe while Mailman is stopping may get past the connect phase.
        wait_for(
            lambda: world.destination()["phase"] == "connect", PATIENCE, "a refused connection"
        )
        down = world.wait_until_destination(up=False)  # after the second failure
        assert (down["phase"], down["error"]) == ("connect", "Connection refused")
        sent = world.send("patient@lists.example.net")
        assert sent.accepted
    finally:
        world.mailman.start()
    up = world.wait_until_destination(up=True)
    assert (up["phase"], up["reply"][:3], up["error"]) == ("rcpt", "250", "")
    destination = f"destination {world.mailman.lmtp_host}:{world.mailman.lmtp_port}"
    world.wait_until_received(sent)  # the test does not flush the queue
    said = [line.partition(destination)[2] for line in world.daemon.messages if destination in line]
    reports = [line.split()[1] for line in said if "retrying" not in line]
    assert reports == ["down:", "up"]


def test_list_names_with_dots_anywhere_get_deferred_mail(world: World) -> None:
    """Mailman permits such names; postqueue prints them quoted."""
    names = ["an..ts@lists.example.net", "ants.@lists.example.net", ".ants@lists.example.net"]
    for name in names:
        sent = create_and_send(world, name)
        assert world.wait_until_received(sent).list_id == name.replace("@", ".")
    assert world.wait_until_destination(up=True)
    world.mailman.stop()
    try:
        world.wait_until_destination(up=False)
        deferred = [world.send(name) for name in names]
        assert all(sent.accepted for sent in deferred)
        wait_for(
            lambda: (
                [message["queue_name"] for message in world.postfix.queue()] == ["deferred"] * 3
            ),
            PATIENCE,
            "deferred mail",
        )
    finally:
        world.mailman.start()
    for sent in deferred:
        world.wait_until_received(sent)  # the test does not flush the queue


def test_list_in_a_domain_with_alias_domain_gets_mail_by_postfix_vmap(world: World) -> None:
    world.mailman.add_domain("people.example.org", alias_domain="alias.example.net")
    sent = create_and_send(world, "cats@people.example.org")
    assert world.wait_until_received(sent).list_id == "cats.people.example.org"
    assert world.site.installed("postfix_vmap")["cats@people.example.org"] == (
        "cats@alias.example.net"
    )
    outcomes = {
        (outcome.recipient, outcome.status)
        for outcome in world.postfix.outcomes()
        if outcome.recipient.startswith("cats@")
    }
    assert outcomes == {("cats@alias.example.net", "sent")}


def test_alias_domain_that_is_also_another_domain_is_refused(world: World) -> None:
    """Mailman's LMTP server finds lists of only one of the two; the hint's change fixes that."""
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
"""Seconds until a removed list's routes are removed: after a minute if unused (retire.py)."""


def retiring(world: World) -> bool:
    """Whether there are still routes of removed lists to remove."""
    record = world.site.state / RETIREMENT_NAME
    return record.exists() and bool(json.loads(record.read_text())["routes"])


def test_repeated_mailman_aliases_changes_no_file_and_logs_nothing(world: World) -> None:
    """`mailman aliases` rewrites all of Mailman's files with the same content."""
    create_and_send(world, "steady@lists.example.net")
    world.daemon.wait_for("lists: +1 list: steady@lists.example.net")
    world.daemon.look()  # until all syncs so far are logged
    wait_for(lambda: not retiring(world), RETIRED, "the removal of earlier lists' routes")
    before = (state_of(world), world.postfix.reloads, world.daemon.messages)
    for _ in range(AGAIN[world.site.map_type]):
        written = (world.mailman.data / "postfix_lmtp").stat()
        seen = world.daemon.passes
        world.mailman.regenerate_aliases()
        assert (world.mailman.data / "postfix_lmtp").stat().st_mtime_ns > written.st_mtime_ns
        world.daemon.wait_for_passes(seen + 1)
    assert (state_of(world), world.postfix.reloads, world.daemon.messages) == before


def test_regex_tables_of_docker_mailman_give_the_same_maps() -> None:
    """Mail to a bounce address in VERP form is delivered, too."""
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
        # The source's only list: the guard refuses the removal, and Postfix keeps the list.
        wait_for(lambda: world.site.status()["sources"]["lists"]["error"], PATIENCE, "an error")
        assert world.send("big.ants@lists.example.net").accepted


def test_list_domain_in_mydestination_gets_mail() -> None:
    """local_recipient_maps has the lists' addresses; relay_domains does not have their domain."""
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
    """Create a list, and send messages to it until one is accepted; return that one."""
    world.mailman.create_list(name)
    return world.wait_until_accepted(name)


def state_of(world: World) -> State:
    """Return inode and mtime of each file that a sync may write, except its status."""
    paths = [world.site.maps, *world.site.maps.iterdir()]
    paths += [world.site.hosts, world.postfix.chroot_hosts]
    return {path: ((found := path.stat()).st_ino, found.st_mtime_ns) for path in paths}
