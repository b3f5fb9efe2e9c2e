"""setup: main.cf names the maps afterwards, and is what it was after --undo."""

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

from postfix_sync.model import MAP_NAMES
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
        """Writes a main.cf; its text."""
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
        """Replaces main.cf."""
        self.main_cf.write_bytes(text.encode("latin-1"))
        self.postfix.age()

    @property
    def text(self) -> str:
        """main.cf."""
        return self.main_cf.read_bytes().decode("latin-1")

    def values(self) -> dict[str, str]:
        """What main.cf sets, after postconf -n."""
        printed = self.postfix.command("postconf", "-n")
        lines = (line.partition("=") for line in printed.splitlines() if "warning:" not in line)
        return {name.strip(): value.strip() for name, _, value in lines}

    def setup(self, *arguments: str, expect: int = 0) -> CompletedProcess[str]:
        """Runs it. What doctor then says of this machine, and not of main.cf, is no matter."""
        done = self.site.call("setup", *arguments)
        found = set(re.findall(r"^(?:warning|failure) +(\S+)", done.stdout, re.MULTILINE))
        assert not found & {*ROLES, "lmtp_host_lookup", "recipient_delimiter"}, done.stdout
        assert done.returncode in ({0, 78} if found else {expect}), done
        self.postfix.age()
        return done

    def bounced(self, recipients: Sequence[str]) -> list[Outcome]:
        """What was returned of the mail to them; Postfix's notes to its postmaster may be."""
        return [one for one in self.postfix.bounces() if one.recipient in recipients]

    def reference(self, name: str) -> str:
        """A map as main.cf has to name it."""
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
    """Whether all of `some` are in `lines`, in the same order."""
    rest = iter(lines)
    return all(one in rest for one in some)


@pytest.mark.parametrize("shape", SHAPES)
def test_main_cf_names_the_maps_and_is_as_it_was_after_undo(host: Host, shape: str) -> None:
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

    # As if it had been edited before it was taken out.
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


def test_without_a_terminal_it_shows_what_it_would_do_and_does_nothing(host: Host) -> None:
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
def test_at_a_terminal_it_asks(host: Host, answer: str, status: int) -> None:
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


def test_doctor_sees_a_last_line_that_does_not_end(host: Host) -> None:
    """Or the commands that it prints would spoil main.cf; setup needs no such care."""
    host.write(BARE.rstrip("\n"))
    before = host.values()
    report = examine(host.site)
    assert report.status("main_cf_end") == "warning"
    report = report.fix("main_cf_end").fix("transport_maps")
    assert report.status("main_cf_end") == report.status("transport_maps") == "ok"
    assert host.values() == {**before, "transport_maps": host.reference("postfix_lmtp")}


def test_replicas_get_an_end_to_connecting(
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


def test_a_main_cf_that_is_edited_while_it_asks_is_looked_at_again(host: Host) -> None:
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


def test_links_owner_and_mode_of_main_cf_stay(host: Host) -> None:
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


def test_a_main_cf_that_is_mounted_is_written_where_it_is(host: Host, root: None) -> None:
    text = host.write(BARE)
    real = host.site.directory / "main.cf"
    real.write_text(text)
    with mounted(host.main_cf, "--bind", str(real)):
        host.setup("--yes")
        assert host.reference("postfix_lmtp") in real.read_text()
        host.setup("--undo", "--yes")
        assert real.read_text() == text


@pytest.mark.parametrize("trouble", ["full", "read-only", "no-state"])
def test_where_the_disk_does_not_take_it_main_cf_stays(
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


def test_where_a_map_can_not_be_built_main_cf_does_not_name_it(host: Host) -> None:
    text = host.write(BARE)
    host.site.maps.write_text("in the way")
    done = host.setup("--yes", expect=1)
    assert "Not a directory" in done.stderr
    assert host.text == text


def test_without_lists_there_are_four_empty_maps_first(host: Host) -> None:
    host.write(BARE)
    shutil.rmtree(host.site.files.directory)
    host.site.call("setup", "--yes")
    assert host.site.stray() == set()
    assert len(names(host.site.maps)) == 8
    assert host.site.status()["passes"]["made"] == 1  # so that doctor doesn't miss one
    assert host.reference("postfix_vmap") in items(host.values()["virtual_alias_maps"])


def test_a_configuration_that_postfix_could_not_start_with_is_not_installed(host: Host) -> None:
    text = host.write(
        BARE + "mail_owner = ${{relay_recipient_maps?{{nobody-there}}:{{postfix}}}}\n"
    )
    done = host.setup("--yes", expect=1)
    # Postfix 3.7 says why in its log alone, 3.10 also where it was asked.
    assert re.search("postfix check: .* with these changes, nothing without them", done.stderr)
    assert host.text == text
    assert not (host.site.state / "setup").exists()


def test_the_chroot_keeps_its_hosts_file(host: Host) -> None:
    """Debian 13's `postfix check` copies the machine's into it; this host's has other names."""
    host.write(BARE)
    copy = host.postfix.chroot_hosts
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text("127.0.0.5 mailman-test\n")
    host.setup("--yes")
    assert copy.read_text() == "127.0.0.5 mailman-test\n"


def test_two_at_once_make_it_once(host: Host) -> None:
    text = host.write(BARE)
    host.site.configure()
    with host.site.start("setup", "--yes") as one, host.site.start("setup", "--yes") as other:
        ended = [process.communicate(timeout=120) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), ended
    assert items(host.values()["transport_maps"]) == [host.reference("postfix_lmtp")]
    host.postfix.age()
    after = host.text
    assert "nothing to do" in host.setup("--yes").stdout
    assert host.text == after
    host.setup("--undo", "--yes")
    assert host.text == text


def test_what_was_replaced_again_is_left_and_told(
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


def test_undo_does_not_name_a_map_that_is_gone(host: Host) -> None:
    """Its type had been changed; the index of the other type was removed since.

    Nothing refers to `ours` any more then, and it stays.
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
    """Runs setup, killed before an event, or (0) to its end; the events, the last not happened."""
    done = killer.run(host.site, "setup", "--yes", *arguments, event=event)
    assert done.returncode == (-signal.SIGKILL if event else 0), done
    host.postfix.age()
    return done.events


def renames(host: Host, events: tuple[str, ...]) -> list[int]:
    """The moments at which main.cf, or the record, becomes another one."""
    places = {str(host.main_cf), str(host.site.state / "setup/record.json")}
    return [
        number
        for number, event in enumerate(events, 1)
        if event.split()[1] in {"os.rename", "os.remove"} and event.split()[2] in places
    ]


@pytest.mark.parametrize("direction", ["there", "back"])
@pytest.mark.kill
def test_killed_at_any_step_it_can_be_completed_and_taken_back(
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
    """The same; each test finds it with the main.cf that it was made with."""
    text = running.text
    yield running
    running.put(text)
    shutil.rmtree(running.site.state / "setup", ignore_errors=True)
    running.postfix.reload()


CUSTOMER = "anyone@customer.example"


@pytest.mark.load
def test_mail_flows_while_main_cf_is_changed_and_changed_back(live: Host) -> None:
    """Of existing recipients all is taken, of a list all that was taken is delivered."""
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
            refused = [one for load in loads for one in load.sent if one.recipient == recipient]
            assert [one for one in refused if not one.accepted] == []
        accepted = {one for load in loads for one in load.accepted_ids(LIST)}
        assert accepted
        assert accepted <= sink.load_ids()
        assert live.bounced([*existing, LIST]) == []


def test_where_postfix_does_not_come_through_all_is_taken_back(live: Host) -> None:
    """A restriction that is only looked at once acceptance has changed: nobody's mail is taken."""
    live.site.files.write(LIST)
    live.postfix.postconf(smtpd_client_restrictions="${relay_recipient_maps?{no_such_restriction}}")
    live.postfix.reload()
    text = live.text
    assert send(live.postfix.port, SENDER).accepted
    done = live.setup("--yes", expect=1)
    assert f"127.0.0.1:{live.postfix.port} says 451 to RCPT TO:<postmaster@" in done.stderr
    assert "is put back" in done.stderr
    assert live.text == text
    assert not (live.site.state / "setup").exists()
    assert send(live.postfix.port, SENDER).accepted


def test_where_postfix_can_not_be_reloaded_all_is_taken_back(host: Host) -> None:
    """master's pid file names a process of that name, but nobody holds its lock."""
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


def test_routes_stay_while_mail_in_the_queue_needs_them(live: Host) -> None:
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


# Another map type.


@pytest.fixture
def hashed(host: Host) -> Host:
    """Its main.cf names the maps as hash, and the configuration wants lmdb from now on."""
    host.write(SHAPES["debian"])
    host.site.configure(postfix={"map_type": "hash"})
    assert host.site.call("setup", "--yes").returncode in {0, 78}
    assert host.values()["transport_maps"].startswith("hash:")
    shutil.copy(host.site.config, host.site.directory / "hash.yaml")
    host.site.configure(postfix={"map_type": "lmdb"})
    host.postfix.age()
    return host


def test_maps_that_a_sync_changes_as_the_old_type_are_built_again(
    hashed: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a daemon does that works with main.cf, or its configuration, as it was."""
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
def test_undo_does_not_have_main_cf_name_an_old_index(hashed: Host, damage: str) -> None:
    """But prints what builds all of them, and after that goes through."""
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
