"""setup: main.cf names the maps afterwards, and has its original content after --undo."""

import asyncio
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from subprocess import CompletedProcess
from typing import Any

import pytest

from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.postfix.main_cf.classes import ROLES
from postfix_sync.setup import carry_out
from postfix_sync.setup.carry_out import _build_maps
from tests.parts.common import free_port, public_directory
from tests.parts.disk import fill, mounted, names, remount, small_disk, tree
from tests.parts.doctor import examine
from tests.parts.kill_at import Killer
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import Load, send
from tests.parts.mailman_files import nine
from tests.parts.main_cf_files import BARE, SHAPES, write_tables
from tests.parts.postfix_instance import SENDER, Outcome, PostfixInstance
from tests.parts.site import Site

pytestmark = pytest.mark.slow

MakeSite = Callable[..., Site]

LIST = "ants@lists.example.net"


class Host:
    """A site, its Postfix, and main.cf."""

    def __init__(self, site: Site, postfix: PostfixInstance) -> None:
        self.site = site
        self.postfix = postfix
        self.main_cf = postfix.config_directory / "main.cf"
        self.tables = site.directory / "tables"

    def write(self, shape: str) -> str:
        """Write a main.cf; return its text."""
        if not self.tables.exists():
            write_tables(self.tables, self.postfix)
        base = (
            f"queue_directory = {self.postfix.queue_directory}\n"
            f"data_directory = {self.postfix.data_directory}\n"
            f"maillog_file = {self.postfix.maillog}\n"
            f"maillog_file_prefixes = {self.postfix.directory}"
        )
        text = shape.format(base=base, data=self.tables)
        self.put(text)
        return text

    def put(self, text: str) -> None:
        """Replace main.cf."""
        self.main_cf.write_bytes(text.encode("latin-1"))
        self.postfix.age()

    @property
    def text(self) -> str:
        """Return the text of main.cf."""
        return self.main_cf.read_bytes().decode("latin-1")

    def values(self) -> dict[str, str]:
        """Return the parameters that main.cf sets, from postconf -n."""
        printed = self.postfix.command("postconf", "-n")
        lines = (line.partition("=") for line in printed.splitlines() if "warning:" not in line)
        return {name.strip(): value.strip() for name, _, value in lines}

    def setup(self, *arguments: str, expect: int = 0) -> CompletedProcess[str]:
        """Run setup. Problems that doctor then finds outside main.cf are ignored."""
        done = self.site.call("setup", *arguments)
        found = set(re.findall(r"^(?:warning|failure) +(\S+)", done.stdout, re.MULTILINE))
        assert not found & {*ROLES, "lmtp_host_lookup", "recipient_delimiter"}, done.stdout
        assert done.returncode in ({0, 78} if found else {expect}), done
        self.postfix.age()
        return done

    def bounced(self, recipients: Sequence[str]) -> list[Outcome]:
        """Return bounces of mail to the recipients; Postfix may have mail for its postmaster."""
        return [outcome for outcome in self.postfix.bounces() if outcome.recipient in recipients]

    def reference(self, name: str) -> str:
        """Return the name of a map as main.cf must have it."""
        return f"lmdb:{self.site.maps / name}"


@pytest.fixture
def host(make_site: MakeSite, idle_postfix: PostfixInstance) -> Host:
    """A host with a list, whose Postfix is stopped."""
    site = make_site()
    site.files.write(LIST)
    return Host(site, idle_postfix)


def items(value: str) -> list[str]:
    return value.replace(",", " ").split()


def is_part_of(some: Iterable[str], lines: Iterable[str]) -> bool:
    """Return whether all of `some` are in `lines`, in the same order."""
    rest = iter(lines)
    return all(line in rest for line in some)


@pytest.mark.parametrize("shape", SHAPES)
def test_main_cf_names_the_maps_and_undo_restores_it(host: Host, shape: str) -> None:
    before = host.write(SHAPES[shape])
    values = host.values()

    host.setup("--yes")
    after, set_up = host.text, host.values()
    changed = {name for name in set_up if set_up[name] != values.get(name)}
    assert host.reference("postfix_lmtp") in items(set_up["transport_maps"])
    for name in changed - {"lmtp_host_lookup"}:
        assert is_part_of(items(values.get(name, "")), items(set_up[name])), name
    assert set_up.keys() - changed == values.keys() - changed
    comments = [line for line in before.splitlines() if line.lstrip().startswith("#")]
    assert is_part_of(comments, after.splitlines())
    kept = [line for line in before.splitlines() if line.partition("=")[0].strip() in values]
    kept = [line for line in kept if line.partition("=")[0].strip() not in changed]
    assert is_part_of(kept, after.splitlines())

    record = host.site.state / "setup"
    shutil.copytree(record, host.site.directory / "record")
    host.setup("--undo", "--yes")
    assert host.text == before
    assert not record.exists()

    # An edited main.cf: --undo removes only what setup has added.
    shutil.copytree(host.site.directory / "record", record)
    host.put(
        f"# mine\n{after}".replace(
            "\nrecipient_delimiter", "\nsoft_bounce = yes\nrecipient_delimiter"
        )
    )
    host.postfix.postconf(transport_maps=f"{set_up['transport_maps']}, static:later")
    edited = host.values()
    host.setup("--undo", "--yes")
    later = ", ".join(
        [*([values["transport_maps"]] if "transport_maps" in values else []), "static:later"]
    )
    assert host.values() == {
        **values,
        "transport_maps": later,
        **({"soft_bounce": "yes"} if "soft_bounce" in edited else {}),
    }


def test_setup_without_a_terminal_shows_changes_and_makes_none(host: Host) -> None:
    host.write(BARE)
    host.site.configure()
    before = tree(host.site.directory)
    shown = f"  transport_maps: (not set) -> {host.reference('postfix_lmtp')}\n"
    for arguments, status in ((("--dry-run",), 0), ((), 2), (("--undo",), 0)):
        done = host.site.run("setup", *arguments)
        assert done.returncode == status
        assert (shown in done.stdout) == ("--undo" not in arguments)
        assert ("not a terminal" in done.stderr) == (not arguments)
    assert "no changes made by setup" in done.stdout
    assert tree(host.site.directory) == before


@pytest.mark.parametrize(("answer", "status"), [("n", 2), ("", 2), ("y", 0)])
def test_setup_at_a_terminal_requires_confirmation(host: Host, answer: str, status: int) -> None:
    before = host.write(BARE)
    host.site.configure()
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    with host.site.start("setup", stdin=theirs) as process:
        stdout, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == status
    assert "[y/N]" in stdout
    assert (host.text == before) == bool(status)


def test_doctor_reports_missing_newline_at_the_end_of_main_cf(host: Host) -> None:
    """Without it, doctor's commands would damage main.cf; setup adds it."""
    host.write(BARE.rstrip("\n"))
    before = host.values()
    report = examine(host.site)
    assert report.status("main_cf_end") == "warning"
    report = report.fix("main_cf_end").fix("transport_maps")
    assert report.status("main_cf_end") == report.status("transport_maps") == "ok"
    assert host.values() == {**before, "transport_maps": host.reference("postfix_lmtp")}


def test_setup_limits_lmtp_connect_timeout_for_a_cluster(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site(source={"cluster": "lists"})
    site.files.write(LIST)
    host = Host(site, idle_postfix)
    text = host.write(BARE)
    host.setup("--yes")
    assert host.values()["lmtp_connect_timeout"] == "5s"
    host.setup("--undo", "--yes")
    assert host.text == text


def test_setup_shows_changes_again_if_main_cf_is_edited_meanwhile(host: Host) -> None:
    text = host.write(BARE)
    host.site.configure()
    mine = "inline:{mine.example=smtp:}"
    ours, theirs = pty.openpty()
    with host.site.start("setup", stdin=theirs) as process:
        assert process.stdout
        shown = ""
        for addition in (f"# mine\ntransport_maps = {mine}\n", ""):
            while not shown.endswith("[y/N] "):
                more = process.stdout.read(1)
                assert more, shown
                shown += more
            host.put(text + addition if addition else host.text)
            os.write(ours, b"y\n")
            shown += "\n"
        rest, complaints = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode in {0, 78}, rest
    assert "was changed meanwhile" in complaints
    assert f"transport_maps: {mine} -> {mine}, {host.reference('postfix_lmtp')}" in shown
    assert host.text.startswith(f"{text}# mine\n")
    assert items(host.values()["transport_maps"])[0] == mine


def test_setup_keeps_link_owner_and_mode_of_main_cf(host: Host) -> None:
    host.write(BARE)
    real = host.main_cf.with_name("real.cf")
    host.main_cf.rename(real)
    host.main_cf.symlink_to("real.cf")
    os.chown(real, 12345, 23456)
    real.chmod(0o640)

    def seen() -> tuple[bool, int, int, int]:
        found = real.stat()
        return host.main_cf.is_symlink(), found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    before, text = seen(), host.text
    host.setup("--yes")
    assert host.text != text
    assert seen() == before == (True, 12345, 23456, 0o640)
    assert stat.S_IMODE((host.site.state / "setup").stat().st_mode) == 0o700
    host.setup("--undo", "--yes")
    assert host.text == text
    assert seen() == before
    assert names(host.main_cf.parent) == ["main.cf", "master.cf", "real.cf"]


def test_main_cf_that_is_a_mount_is_written_in_place(host: Host, root: None) -> None:
    text = host.write(BARE)
    real = host.site.directory / "main.cf"
    real.write_text(text)
    with mounted(host.main_cf, "--bind", str(real)):
        host.setup("--yes")
        assert host.reference("postfix_lmtp") in real.read_text()
        host.setup("--undo", "--yes")
        assert real.read_text() == text


@pytest.mark.parametrize("trouble", ["full", "read-only", "no-state"])
def test_main_cf_is_unchanged_if_the_disk_is_full_or_read_only(
    host: Host, root: None, trouble: str
) -> None:
    text = host.write(BARE)
    host.site.once()
    place = host.site.state if trouble == "no-state" else host.main_cf.parent
    kept = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    with small_disk(place, "64k"):
        for name, content in kept.items():
            (place / name).write_bytes(content)
        host.postfix.age()
        if trouble == "read-only":
            remount(place, "ro")
        else:
            filler = fill(place)
        done = host.site.call("setup", "--yes")
        assert done.returncode == 1
        reason = "Read-only file system" if trouble == "read-only" else "No space left on device"
        assert reason in done.stderr
        assert host.text == text
        assert names(host.main_cf.parent) == [
            *(["filler"] if trouble == "full" else []), "main.cf", "master.cf",
        ]  # fmt: skip
        assert not (host.site.state / "setup").exists()
        if trouble == "read-only":
            remount(place, "rw")
        else:
            filler.unlink()
        host.setup("--yes")
        host.setup("--undo", "--yes")
        assert host.text == text


def test_main_cf_is_unchanged_if_a_map_cannot_be_built(host: Host) -> None:
    text = host.write(BARE)
    host.site.maps.write_text("in the way")
    done = host.setup("--yes", expect=1)
    assert "Not a directory" in done.stderr
    assert host.text == text


def test_setup_without_lists_builds_four_empty_maps(host: Host) -> None:
    host.write(BARE)
    shutil.rmtree(host.site.files.directory)
    host.site.call("setup", "--yes")
    assert host.site.stray() == set()
    assert len(names(host.site.maps)) == 8
    assert host.site.status()["passes"]["made"] == 1  # otherwise doctor would report none
    assert host.reference("postfix_vmap") in items(host.values()["virtual_alias_maps"])


def test_main_cf_that_fails_postfix_check_is_not_installed(host: Host) -> None:
    text = host.write(
        BARE + "mail_owner = ${{relay_recipient_maps?{{nobody-there}}:{{postfix}}}}\n"
    )
    done = host.setup("--yes", expect=1)
    # Postfix 3.7 gives the reason in its log only, 3.10 also on standard error.
    assert re.search("postfix check: .* with these changes, nothing without them", done.stderr)
    assert host.text == text
    assert not (host.site.state / "setup").exists()


def test_hosts_file_of_the_chroot_is_unchanged(host: Host) -> None:
    """Debian 13's `postfix check` copies /etc/hosts to it; this host has another hosts file."""
    host.write(BARE)
    copy = host.postfix.chroot_hosts
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text("127.0.0.5 mailman-test\n")
    host.setup("--yes")
    assert copy.read_text() == "127.0.0.5 mailman-test\n"


def test_concurrent_setups_change_main_cf_once(host: Host) -> None:
    text = host.write(BARE)
    host.site.configure()
    with host.site.start("setup", "--yes") as first, host.site.start("setup", "--yes") as second:
        ended = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), ended
    assert items(host.values()["transport_maps"]) == [host.reference("postfix_lmtp")]
    host.postfix.age()
    after = host.text
    assert "nothing to do" in host.setup("--yes").stdout
    assert host.text == after
    host.setup("--undo", "--yes")
    assert host.text == text


def test_undo_keeps_and_reports_a_parameter_that_was_edited_since(
    make_site: MakeSite, idle_postfix: PostfixInstance
) -> None:
    site = make_site(source={"address": "127.0.0.1"})
    site.files.write(LIST)
    host = Host(site, idle_postfix)
    host.write(BARE)
    host.setup("--yes")
    assert host.values()["lmtp_host_lookup"] == "native"
    host.postfix.postconf(lmtp_host_lookup="dns, native")
    done = host.setup("--undo", "--yes")
    assert "lmtp_host_lookup: was edited since setup set it to native; unchanged" in done.stdout
    assert host.values()["lmtp_host_lookup"] == "dns, native"
    assert "transport_maps" not in host.values()


def test_undo_fails_if_main_cf_would_name_a_missing_map(host: Host) -> None:
    """The map type was changed, and the index of the previous type was removed since.

    After the undo, no parameter uses `ours`, which is kept.
    """
    text = host.write(
        BARE + f"ours = hash:{host.site.maps}/\ntransport_maps = ${{{{ours}}}}postfix_lmtp\n"
    )
    host.setup("--yes")
    after = host.text
    assert items(host.values()["transport_maps"]) == [host.reference("postfix_lmtp")]
    done = host.setup("--undo", "--yes", expect=1)
    assert "there is no" in done.stderr
    assert host.text == after
    assert f"postfix-sync -c {host.site.config} setup --undo" in done.stderr
    host.postfix.command("postmap", f"hash:{host.site.maps}/postfix_lmtp")
    host.put(f"{after}# mine\n")
    host.setup("--undo", "--yes")
    assert host.text == f"{text}# mine\n"


def run_until(killer: Killer, host: Host, event: int, *arguments: str) -> tuple[str, ...]:
    """Run setup, killed before an event, or (0) to its end; return its events."""
    done = killer.run(host.site, "setup", "--yes", *arguments, event=event)
    assert done.returncode == (-signal.SIGKILL if event else 0), done
    host.postfix.age()
    return done.events


def renames(host: Host, events: tuple[str, ...]) -> list[int]:
    """Return the numbers of the events that replace main.cf or the record."""
    places = {str(host.main_cf), str(host.site.state / "setup/record.json")}
    return [
        number
        for number, event in enumerate(events, 1)
        if event.split()[1] in {"os.rename", "os.remove"} and event.split()[2] in places
    ]


@pytest.mark.parametrize("direction", ["there", "back"])
@pytest.mark.kill
def test_setup_killed_at_any_step_can_be_completed_and_undone(
    host: Host, killer: Killer, direction: str
) -> None:
    text = host.write(BARE)
    record = host.site.state / "setup"
    saved = host.site.directory / "saved"
    host.site.once()
    there = run_until(killer, host, 0)
    after = host.text
    shutil.copytree(record, saved)
    back = run_until(killer, host, 0, "--undo")
    assert host.text == text
    arguments, events = ((), there) if direction == "there" else (("--undo",), back)
    assert len(renames(host, events)) == 6
    for turn, number in enumerate(renames(host, events)):
        shutil.rmtree(record, ignore_errors=True)
        host.put(text)
        if direction == "back":
            shutil.copytree(saved, record)
            host.put(after)
        seen = run_until(killer, host, number, *arguments)
        assert seen[-1] == events[number - 1]
        left = host.values()
        assert "relay_domains" not in left or "transport_maps" in left, seen[-1]
        if turn % 2:
            host.setup("--yes")
            assert set(host.text.splitlines()) == set(after.splitlines()), seen[-1]
        host.setup("--undo", "--yes")
        assert host.text == text, seen[-1]
        assert not (record / "record.json").exists()
        assert names(host.main_cf.parent) == ["main.cf", "master.cf"]


@pytest.fixture(scope="module")
def running() -> Iterator[Host]:
    """A host with a running Postfix, which takes mail for sender.example and customer.example."""
    with public_directory() as directory, PostfixInstance(directory / "postfix") as postfix:
        site = Site(directory, postfix.config_directory)
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        yield Host(site, postfix)


@pytest.fixture
def live(running: Host) -> Iterator[Host]:
    """The same host; the test's changes of main.cf are reverted at its end."""
    text = running.text
    yield running
    running.put(text)
    shutil.rmtree(running.site.state / "setup", ignore_errors=True)
    running.postfix.reload()


CUSTOMER = "anyone@customer.example"


@pytest.mark.load
def test_mail_is_accepted_and_delivered_during_setup_and_undo(live: Host) -> None:
    """All mail for existing recipients is accepted; all accepted mail for a list is delivered."""
    live.postfix.postconf(
        relay_domains="customer.example", transport_maps="inline:{customer.example=discard:}"
    )
    live.postfix.reload()
    text = live.text
    existing = [SENDER, CUSTOMER]
    with LmtpSink(nine(LIST)) as sink:
        live.site.files.write(LIST, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        live.site.once()
        stop = threading.Event()
        loads: list[Load] = []

        def steadily() -> None:
            while not stop.is_set():
                with Load(live.postfix.port, [*existing, LIST], per_second=30, seconds=2) as load:
                    loads.append(load)

        steady = threading.Thread(target=steadily)
        steady.start()
        try:
            live.setup("--yes")
            assert send(live.postfix.port, LIST).accepted
            assert not send(live.postfix.port, "nobody@lists.example.net").accepted
            live.setup("--undo", "--yes")
        finally:
            stop.set()
            steady.join()
        assert live.text == text
        assert not send(live.postfix.port, LIST).accepted
        live.postfix.wait_for_empty_queue()
        for recipient in existing:
            refused = [
                message for load in loads for message in load.sent if message.recipient == recipient
            ]
            assert [message for message in refused if not message.accepted] == []
        accepted = {queue_id for load in loads for queue_id in load.accepted_ids(LIST)}
        assert accepted
        assert accepted <= sink.load_ids()
        assert live.bounced([*existing, LIST]) == []


def test_setup_is_undone_if_postfix_rejects_mail_afterwards(live: Host) -> None:
    """An invalid restriction takes effect only with relay_recipient_maps, and rejects all mail."""
    live.site.files.write(LIST)
    live.postfix.postconf(smtpd_client_restrictions="${relay_recipient_maps?{no_such_restriction}}")
    live.postfix.reload()
    text = live.text
    assert send(live.postfix.port, SENDER).accepted
    done = live.setup("--yes", expect=1)
    assert f"127.0.0.1:{live.postfix.port} says 451 4.3.5 Server configuration" in done.stderr
    assert "is put back" in done.stderr
    assert live.text == text
    assert not (live.site.state / "setup").exists()
    assert send(live.postfix.port, SENDER).accepted


def test_setup_is_undone_if_postfix_cannot_be_reloaded(host: Host) -> None:
    """master's pid file names a process called master that does not hold its lock."""
    text = host.write(BARE)
    host.site.once()
    pid_file = host.postfix.queue_directory / "pid/master.pid"
    pid_file.parent.mkdir(exist_ok=True)
    master = host.site.directory / "master"
    shutil.copyfile("/usr/bin/sleep", master)
    master.chmod(0o755)
    with subprocess.Popen([str(master), "600"]) as process:
        try:
            pid_file.write_text(f"{process.pid:>10}\n")
            done = host.setup("--yes", expect=1)
        finally:
            process.kill()
    assert "postfix reload: " in done.stderr
    assert "is put back" in done.stderr
    assert host.text == text
    assert not (host.site.state / "setup").exists()


def test_undo_keeps_routes_that_mail_in_the_queue_needs(live: Host) -> None:
    text = live.text
    hop = f"lmtp:[127.0.0.1]:{free_port()}"
    live.site.files.write(LIST, hop=hop)
    live.setup("--yes")
    live.postfix.postconf(
        minimal_backoff_time="1s", maximal_backoff_time="1s", queue_run_delay="1s"
    )
    live.postfix.reload()
    assert send(live.postfix.port, LIST).accepted
    done = live.setup("--undo", "--yes", expect=75)
    assert "mail in the queue would lose its way" in done.stderr
    left = live.values()
    assert "relay_domains" not in left
    assert items(left["transport_maps"]) == [live.reference("postfix_lmtp")]
    with LmtpSink(nine(LIST), port=int(hop.rpartition(":")[2])):
        live.postfix.wait_for_empty_queue()
    live.setup("--undo", "--yes")
    live.postfix.command(
        "postconf", "-X", "minimal_backoff_time", "maximal_backoff_time", "queue_run_delay"
    )
    assert live.text == text
    assert live.bounced([LIST]) == []


@pytest.mark.parametrize(
    "entries",
    [
        "inline:{lists.example.net=retry:}",
        "inline:{*=retry:}",
        "regexp:{{/^ants@lists/ retry:}}",
    ],
)
def test_undo_does_not_wait_for_mail_that_another_table_routes(live: Host, entries: str) -> None:
    """The table was there before setup; afterwards, Postfix routes the queued mail by it."""
    live.postfix.postconf(transport_maps=entries)
    live.postfix.reload()
    text = live.text
    live.site.files.write(LIST, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    live.setup("--yes")
    assert send(live.postfix.port, LIST).accepted
    live.setup("--undo", "--yes")
    assert live.text == text
    live.postfix.command("postsuper", "-d", "ALL")


@pytest.mark.parametrize(
    ("entries", "subdomains"),
    [
        ("inline:{example.net=retry:}", False),  # not a parent: subdomains need a dot
        ("regexp:{{/^lists.example.net/ retry:}}", False),  # queried for whole addresses only
        ("inline:{example.net=retry:}", True),
    ],
)
def test_undo_looks_up_other_tables_as_postfix_does(
    live: Host, entries: str, *, subdomains: bool
) -> None:
    live.postfix.postconf(transport_maps=entries)
    if subdomains:
        live.postfix.postconf(parent_domain_matches_subdomains="transport_maps")
    live.postfix.reload()
    live.site.files.write(LIST, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    live.setup("--yes")
    assert send(live.postfix.port, LIST).accepted
    live.setup("--undo", "--yes", expect=0 if subdomains else 75)
    live.postfix.command("postsuper", "-d", "ALL")
    if not subdomains:
        live.setup("--undo", "--yes")


# Changes of the map type.


@pytest.fixture
def hashed(host: Host) -> Host:
    """A host whose main.cf names hash maps, and whose configuration now has lmdb."""
    host.write(SHAPES["debian"])
    host.site.configure(postfix={"map_type": "hash"})
    assert host.site.call("setup", "--yes").returncode in {0, 78}
    assert host.values()["transport_maps"].startswith("hash:")
    shutil.copy(host.site.config, host.site.directory / "hash.yaml")
    host.site.configure(postfix={"map_type": "lmdb"})
    host.postfix.age()
    return host


def test_setup_rebuilds_maps_that_a_sync_changes_with_the_old_type(
    hashed: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync is like that of a daemon that still uses the previous main.cf or configuration."""
    site, build = hashed.site, _build_maps
    late = "late@lists.example.net"

    async def build_and_sync(*arguments: Any) -> None:
        await build(*arguments)
        if late not in (site.maps / "postfix_lmtp").read_text():
            site.files.write(LIST, late)
            old = [*site.command, "-c", str(site.directory / "hash.yaml"), "--once"]
            await asyncio.to_thread(subprocess.run, old, check=True, capture_output=True)

    monkeypatch.setattr(carry_out, "_build_maps", build_and_sync)
    done = hashed.setup("--yes")
    assert "the maps were changed meanwhile" in done.stderr
    assert hashed.values()["transport_maps"] == hashed.reference("postfix_lmtp")
    assert late in site.installed("postfix_lmtp")


@pytest.mark.parametrize("damage", ["older", "gone"])
def test_undo_fails_until_an_old_index_is_rebuilt(hashed: Host, damage: str) -> None:
    """The hint has commands that rebuild the maps; after these, the undo succeeds."""
    site = hashed.site
    hashed.setup("--yes")
    site.files.write(LIST, "late@lists.example.net")
    site.once()
    for name in MAP_NAMES if damage == "gone" else ():
        (site.maps / f"{name}.db").unlink()
    before = hashed.text
    done = site.call("setup", "--undo", "--yes")
    assert done.returncode == 1
    problem = "is older than its text" if damage == "older" else "there is no "
    assert problem in done.stderr
    assert hashed.text == before
    commands = done.stderr.partition(": hint: ")[2].split(" && ")
    for command in commands[:-1]:
        subprocess.run(command.split(), check=True, capture_output=True)
    hashed.postfix.age()
    hashed.setup("--undo", "--yes")
    assert str(site.maps) not in hashed.text
